"""What a launch may still start: `--max-trials` of its own, `--max-gpu-hours` of the whole sweep.

GPU-hours are wall seconds of training (status.json) times the trial's GPUs, of everything in the sweep's folder; of
runs without GPU they are worker-hours. What running and queued trials are estimated to need still is reserved, so that
a start is refused before the limit is passed, not after. No run is ever stopped: estimates can be wrong.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saei import schema
from saei.config import Config, from_dict
from sweeps.estimate import hours_text, is_missing
from sweeps.locks import is_held
from sweeps.past import PastRuns, run_seconds
from sweeps.slurm.tickets import read_tickets
from sweeps.trial import Trial, finished_folder, read_json, read_status

SILENT_S = 600.0
"""A run of another machine that says it is running, but was silent for so long, has ended."""
LOOK_EVERY_S = 2.0
"""The folders are read again at most so often; what this launch starts meanwhile is known anyway."""


class Budget:
    """The runner asks `refuses` before each start, says `started`, and `ended` when it tries a trial no more.

    `name`: of the sweep; `gpus`: of one trial, over all its nodes; `past`: for the estimates.
    """

    def __init__(
        self,
        name: str,
        results: Path,
        past: PastRuns,
        *,
        max_trials: int | None = None,
        max_gpu_hours: float | None = None,
        gpus: int = 0,
    ) -> None:
        self._name, self._results, self._past, self._gpus = name, results, past, gpus
        self._max_trials, self._max_hours = max_trials, max_gpu_hours
        self._started: dict[str, float] = {}
        self._ended: set[str] = set()
        self._trials: dict[str, Trial] = {}
        self._hours: dict[str, tuple[int, float]] = {}
        """Of each run directory: when its status was written, and its GPU-hours then."""
        self._open: set[str] = set()
        """Trials with an open ticket: Slurm has them."""
        self._alive: set[str] = set()
        """Trials whose status says that they run, whoever started them."""
        self._reserve: dict[str, float] = {}
        """What each trial was found to need still, since the last look."""
        self._looked, self.look_every_s = -math.inf, LOOK_EVERY_S

    def refuses(self, trial: Trial) -> str:
        """ "" where the trial may be started (again), else a sentence that says why not and what to do."""
        self._trials[trial.trial_id] = trial
        new = trial.trial_id not in self._started
        if self._max_trials is not None and new and len(self._started) >= self._max_trials:
            return f"--max-trials {self._max_trials}: this launch has started as many; the same command starts the next"
        if self._max_hours is None:
            return ""
        spent, needs = self.spent(), self.needs(trial)
        reserved = self._reserved(besides=trial.trial_id, guess=needs)
        if spent + reserved + needs <= self._max_hours:
            return ""
        return (
            f"--max-gpu-hours {self._max_hours:g}: the sweep has spent {self._text(spent)}"
            + (f", what runs or waits takes about {reserved:.3g} more" if reserved else "")
            + f", and {trial.arm} seed {trial.seed} would take about {needs:.3g}; raise it to go on"
        )

    def started(self, trial: Trial) -> None:
        """The trial was handed to a worker or to Slurm."""
        self._trials[trial.trial_id] = trial
        self._started.setdefault(trial.trial_id, time.time())
        self._reserve.pop(trial.trial_id, None)
        self._ended.discard(trial.trial_id)

    def ended(self, trial: Trial) -> None:
        """It will not be tried again: nothing is reserved for it any more."""
        self._ended.add(trial.trial_id)

    def spent(self) -> float:
        """GPU-hours of everything in the sweep's folder so far."""
        self._look()
        return sum(hours for _, hours in self._hours.values())

    def needs(self, trial: Trial) -> float:
        """GPU-hours that the trial is estimated to take from where it stands."""
        return self._needs(trial.config, trial.folder)

    def _needs(self, config: Config, folder: Path) -> float:
        step = min(read_status(folder).get("step", 0), config.steps)
        return self._past.seconds(config, from_step=step) / 3600 * max(1, self._gpus)

    def announcement(self, trials: Sequence[Trial]) -> str:
        """At launch: how many of what is missing fit, and "" where there is no limit or nothing to run."""
        missing = [trial for trial in trials if is_missing(trial)]
        if not missing or (self._max_trials is None and self._max_hours is None):
            return ""
        self._trials |= {trial.trial_id: trial for trial in missing}
        fit, parts = len(missing), []
        if self._max_trials is not None:
            parts.append(f"--max-trials {self._max_trials}")
            fit = min(fit, self._max_trials)
        if self._max_hours is not None:
            left = self._max_hours - self.spent() - self._reserved(guess=self.needs(missing[0]))
            within = 0
            for trial in missing:
                left -= 0.0 if trial.trial_id in self._open | self._alive else self.needs(trial)
                if left < 0:
                    break
                within += 1
            fit = min(fit, within)
            parts.append(f"--max-gpu-hours {self._max_hours:g}, of which {self._text(self.spent())} are spent")
        return f"{' and '.join(parts)}: {fit} of {len(missing)} missing trials fit."

    def _reserved(self, *, besides: str = "", guess: float) -> float:
        """GPU-hours still needed by what runs or waits in a queue; `guess`: of a trial whose settings are not known."""
        self._look()
        keys = (self._open | self._alive | self._started.keys()) - self._ended - {besides}
        for key in keys - self._reserve.keys():  # asked once a look: a thousand waiting trials ask for each other
            self._reserve[key] = self._still_needs(key, guess) if self._is_on_its_way(key) else 0.0
        return sum(self._reserve[key] for key in keys)

    def _still_needs(self, key: str, guess: float) -> float:
        if key in self._trials:
            return self.needs(self._trials[key])
        folder = self._results / self._name / key  # of another launch of this sweep
        settings = read_json(folder / schema.CONFIG_FILE).get("config")
        try:
            return self._needs(from_dict(settings), folder) if settings else guess
        except ValueError:  # of other code
            return guess

    def _is_on_its_way(self, key: str) -> bool:
        folder = self._results / self._name / key
        if key in self._trials and finished_folder(self._trials[key]) is not None:
            return False
        if (folder / schema.DONE_FILE).exists():
            return False
        if key in self._open or is_held(folder / ".lock"):
            return True
        found = read_status(folder)
        heartbeat = found.get("heartbeat") or 0.0
        if heartbeat < self._started.get(key, 0.0):  # of an earlier launch: this one's worker has yet to write
            return True
        return _runs(folder, found)

    def _look(self) -> None:
        if time.monotonic() - self._looked < self.look_every_s:
            return
        self._looked = time.monotonic()
        self._reserve = {}
        tickets = read_tickets(self._results)
        self._open = {
            key
            for key, ticket in tickets.items()
            if ticket.sweep == self._name and not ticket.closed and not ticket.cancelled
        }
        known, now, alive = self._hours, dict[str, tuple[int, float]](), set[str]()
        for path in (self._results / self._name).glob(f"*/{schema.STATUS_FILE}"):
            key = path.parent.name
            try:
                stamp = path.stat().st_mtime_ns
            except OSError:
                continue
            found = read_status(path.parent)
            alive |= {key} if _runs(path.parent, found) else set()
            before = known.get(key)
            now[key] = before if before and before[0] == stamp else (stamp, gpu_hours(path.parent, found))
        self._hours, self._alive = now, alive

    def _text(self, hours: float) -> str:
        return hours_text(hours, self._gpus)


def _runs(folder: Path, found: Mapping[str, Any]) -> bool:
    """Is a run alive whose status says that it runs?"""
    if found.get("state") != schema.RUNNING:
        return False
    here = found.get("host") == os.uname().nodename
    return is_held(folder / ".lock") if here else time.time() - (found.get("heartbeat") or 0.0) < SILENT_S


def gpu_hours(run: Path, found: Mapping[str, Any] | None = None) -> float:
    """GPU-hours of a run directory so far; worker-hours of a run without GPU."""
    found = read_status(run) if found is None else found
    devices = found.get("gpus") or found.get("world_size") or 1
    return run_seconds(run, found) * devices / 3600
