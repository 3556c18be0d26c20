"""What the runner shows while trials run: a live table in a terminal, a line per change elsewhere."""

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sweeps.outcome import Outcome
from sweeps.source import Source
from sweeps.trial import Trial, finished_folder, status

LINE_EVERY_S = 10.0
_MAX_ROWS = 24


class Screen:
    """Shows the trials of one launch. A context manager; `update` may be called as often as wanted."""

    def __init__(self, name: str, source: Source, jobs: int) -> None:
        self._name, self._source, self._jobs = name, source, jobs
        self._console = Console(file=sys.stdout, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._stack = ExitStack()
        self._last = time.monotonic()
        self._finished: set[str] = set()

    def __enter__(self) -> "Screen":
        if self._live:
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def say(self, trial: Trial, text: str) -> None:
        """One line about one trial, above the table."""
        self._print(f"{trial.arm} seed {trial.seed} ({trial.trial_id}): {text}")

    def note(self, text: str) -> None:
        """One line about the launch as a whole."""
        self._print(text)

    def _print(self, line: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, soft_wrap=True)

    def update(
        self,
        running: Collection[str],
        elsewhere: Collection[str],
        failed: Mapping[str, Outcome],
        queued: Collection[str] = (),
    ) -> None:
        """Show the present state; in a terminal at most every 0.5 s, elsewhere one line at most every 10 s.

        `queued`: given to a cluster that has not started them.
        """
        pause = 0.5 if self._live else LINE_EVERY_S
        if time.monotonic() - self._last < pause:
            return
        self._last = time.monotonic()
        trials = self._source.trials  # those of a search grow
        for trial in trials:
            if trial.trial_id not in self._finished and finished_folder(trial) is not None:
                self._finished.add(trial.trial_id)
        active = [trial for trial in trials if trial.trial_id in set(running) - self._finished]
        statuses = {trial.trial_id: status(trial) for trial in active}
        left = time_left([trial for trial in trials if trial.trial_id not in self._finished | set(failed)],
                         statuses, self._jobs)  # fmt: skip
        head = (
            f"{self._name}: {len(self._finished)} of {len(trials)} finished, {len(active)} running"
            + (f", {len(queued)} queued" if queued else "")
            + (f", {len(failed)} failed" if failed else "")
            + (f", {len(elsewhere)} with another runner" if elsewhere else "")
            + (f"; about {duration(left)} left" if left else "")
        )
        if self._live:
            self._live.update(self._table(head, statuses, _words(elsewhere, failed, queued)), refresh=True)
        else:
            now = [f"{trial.arm}-s{trial.seed} {_in_line(statuses[trial.trial_id])}" for trial in active]
            self._print(" | ".join([head, *now]))

    def _table(
        self,
        head: str,
        statuses: Mapping[str, dict[str, Any]],
        words: Mapping[str, str],
    ) -> Table:
        table = Table(title=head, title_justify="left")
        for column in ("trial", "arm", "seed", "state", "step", "reward", "entropy (nats)", "s/step", "left"):
            table.add_column(column, no_wrap=True)
        waiting, trials = 0, self._source.trials
        for trial in trials:
            key = trial.trial_id
            if key in statuses:
                found = statuses[key]
                speed, steps = found.get("time_step"), found.get("steps", 0) - found.get("step", 0)
                row = [phase(found), *cells(found), duration(speed * steps) if speed else "-"]
            elif key in words or key in self._finished:
                row = [words.get(key, "finished"), "-", "-", "-", "-", "-"]
                if key not in words and len(trials) > _MAX_ROWS:
                    continue
            else:
                waiting += 1
                if len(trials) > _MAX_ROWS and waiting > 3:
                    continue
                row = ["waiting", "-", "-", "-", "-", "-"]
            table.add_row(key, trial.arm, str(trial.seed), *row)
        return table


def _words(elsewhere: Collection[str], failed: Mapping[str, Outcome], queued: Collection[str]) -> dict[str, str]:
    """The state of what neither runs here nor waits for a place."""
    return {
        **dict.fromkeys(queued, "queued"),
        **dict.fromkeys(elsewhere, "elsewhere"),
        **{key: str(outcome.kind) for key, outcome in failed.items()},
    }


def phase(found: Mapping[str, Any]) -> str:
    """The state of a running trial in a word."""
    if not found:
        return "starting"
    return "evaluating" if found.get("step") == found.get("steps") else str(found.get("state", "running"))


def _in_line(found: Mapping[str, Any]) -> str:
    """What is known of a running trial, for one line."""
    return " ".join(part for part in cells(found) if part != "-") or "starting"


def cells(found: Mapping[str, Any]) -> list[str]:
    """step/steps, reward, entropy, seconds per step; "-" for what is not known yet."""
    step = f"{found['step']}/{found['steps']}" if {"step", "steps"} <= found.keys() else "-"
    numbers = [found.get(name) for name in ("reward", "entropy", "time_step")]
    return [step, *(f"{value:.3f}" if isinstance(value, int | float) else "-" for value in numbers)]


def time_left(unfinished: Sequence[Trial], statuses: Mapping[str, Mapping[str, Any]], jobs: int) -> float | None:
    """Seconds, from the running trials' mean time per step; None before the first step."""
    speeds = [found["time_step"] for found in statuses.values() if found.get("time_step")]
    if not speeds:
        return None
    steps = sum(trial.config.steps - statuses.get(trial.trial_id, {}).get("step", 0) for trial in unfinished)
    return steps * sum(speeds) / len(speeds) / max(1, min(jobs, len(unfinished)))


def duration(seconds: float) -> str:
    """90 -> "1 min 30 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
