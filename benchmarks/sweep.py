"""What a sweep costs beside its trials: the runner's own work at 10, 100 and 1,000 trials, and a worker's start.

python -m benchmarks.sweep --trials 10 100 1000

The trials are real ones of `components` (GRPO and SaEI, as many seeds as it takes) in folders that are removed; what is
made up is their training: jobs that are over at once, with the status and the scores that a finished run leaves. Beside
them a few trials go through real worker processes, one after the other, with a trainer that does nothing.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import tyro
from rich.console import Console
from rich.table import Table
from submitit import LocalExecutor

from benchmarks.limits import check, run_benchmark
from benchmarks.timing import Spread, machine, ratio, write_figures
from saei import schema
from saei.cli import BadInput
from saei.config import Config
from sweeps.definition import load_sweep
from sweeps.live import Screen
from sweeps.local import Runner, run_local
from sweeps.plan import make_trials, write_plan
from sweeps.retry import Retries
from sweeps.slurm.given import Given
from sweeps.source import Listed
from sweeps.study import SweepStudy
from sweeps.trial import Trial, finished_folder, settle

ROOT = Path(__file__).resolve().parent.parent
SWEEP, ARMS = "components", ("grpo", "saei")
SCORE = 0.6
PHASES = {
    "dry_run": "run.py NAME --dry-run, start-up included",
    "plan": "trials named by their settings, plan.json",
    "run": "launched, watched, sealed (jobs over at once)",
    "rebuild": "study made anew from the run directories",
    "again": "launched again, all finished",
}
PYTHON = {"bare": "pass", "trainer": "import saei.train"}
"""What a worker's start is held against: a Python that does nothing, and one that imports what a real trial needs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    trials: tuple[int, ...] = (10, 100, 1000)
    """Sizes of the sweep, even numbers: half the trials are GRPO, half SaEI."""
    rounds: int = 2
    """Timed rounds, in which the sizes take turns, after a warm-up with the smallest."""
    workers: int = 2
    """Trials in real worker processes, one after the other; 0 leaves them out."""
    threads: int = 1
    """CPU threads of torch in the processes that are started."""
    quick: bool = False
    """Two small sizes, one round, one worker: seconds."""
    out: str = ""
    """Write the figures to this JSON file."""

    def __post_init__(self) -> None:
        for count in self.trials:
            if count < 2 or count % len(ARMS):
                raise BadInput(f"--trials: {count} must be an even number of at least 2: half of them are GRPO")


def no_training(config: Config) -> None:
    """A trainer that leaves what a finished run leaves, and trains nothing."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    status = {"state": schema.FINISHED, "step": config.steps, "steps": config.steps, "heartbeat": time.time()}
    (folder / schema.STATUS_FILE).write_text(json.dumps(status))
    scores = {f"{split}/mean@{config.eval.samples}": SCORE for split in ("validation", "test")}
    (folder / schema.DONE_FILE).write_text(json.dumps({"scores": scores}))


@dataclass(frozen=True, slots=True)
class _Nothing:
    """Where a worker process would have written; there was none."""

    result_pickle: Path = Path("/nonexistent/result")
    stdout: Path = Path("/nonexistent/out")
    stderr: Path = Path("/nonexistent/err")


@dataclass(slots=True)
class EndedJob:
    """A job that was over when it was submitted."""

    paths: _Nothing = field(default_factory=_Nothing)
    job_id: str = "0"

    def done(self) -> bool:
        return True


class AtOnce:
    """In place of submitit's executor: does a trial's work when it is submitted, in this process."""

    def __init__(self) -> None:
        self.executed: list[str] = []

    def update_parameters(self, **parameters: Any) -> None:
        """No process is started, so none of them matters."""

    def submit(self, function: Callable[..., str], trial: Trial, trainer: str, lock: Path) -> EndedJob:
        no_training(trial.config)
        self.executed.append(trial.trial_id)
        return EndedJob()


def runner_phases(count: int) -> dict[str, float]:
    """Seconds of each of PHASES for a new sweep of `count` trials. What was done is checked."""
    seconds = {"dry_run": dry_run(count)}
    with tempfile.TemporaryDirectory() as temporary:
        results, sweep = Path(temporary), load_sweep(SWEEP)
        folder = results / SWEEP
        folder.mkdir()
        start = time.perf_counter()
        trials = make_trials(SWEEP, sweep, ARMS, range(count // len(ARMS)), {}, results)
        write_plan(SWEEP, sweep, trials, {}, results)
        seconds["plan"] = time.perf_counter() - start
        with SweepStudy(SWEEP, folder, trials) as study:
            start = time.perf_counter()
            executed = _run_at_once(trials, study, results)
            seconds["run"] = time.perf_counter() - start
        start = time.perf_counter()
        with SweepStudy(SWEEP, folder, trials) as study:
            seconds["rebuild"] = time.perf_counter() - start
            values = [one.value for one in study.study.trials]
            start = time.perf_counter()
            again = _run_at_once(trials, study, results)
            seconds["again"] = time.perf_counter() - start
        _check(count, executed, again, values, trials)
    return seconds


def _check(count: int, executed: list[str], again: list[str], values: list[float | None], trials: list[Trial]) -> None:
    """Every trial once, all sealed, none again, and the study knows each score."""
    planned = sorted(trial.trial_id for trial in trials)
    if sorted(executed) != planned or len(set(planned)) != count or again:
        raise AssertionError(f"{count} trials planned, {len(executed)} executed, {len(again)} executed again")
    if values != [SCORE] * count or any(finished_folder(trial) is None for trial in trials):
        raise AssertionError(f"the study of {count} finished trials has {len(values)} values")


def _run_at_once(trials: list[Trial], study: SweepStudy, results: Path) -> list[str]:
    """The local runner's own loop, without its pauses, over jobs that end at once. Returns what was executed."""
    executor, source = AtOnce(), Listed(trials, study)
    with contextlib.redirect_stdout(io.StringIO()), Screen(SWEEP, source, 2) as screen:
        runner = Runner(
            source=source, screen=screen, retries=Retries(0), budget=None, given=Given(results),
            executor=cast(LocalExecutor, executor), jobs=2, trainer="", lock=results / ".lock",
            settled={trial.trial_id for trial in trials if settle(trial)},
        )  # fmt: skip
        while not runner.is_over:
            runner.reap()
            runner.launch()
            screen.update(runner.running.keys(), [], runner.failed)
    return executor.executed


def dry_run(count: int) -> float:
    """Seconds of the command in a process of its own; what it says must be about every trial."""
    with tempfile.TemporaryDirectory() as results:
        only = [word for arm in ARMS for word in ("--only", arm)]
        words = [SWEEP, *only, "--seeds", str(count // len(ARMS)), "--dry-run", "--results", results]
        command = [sys.executable, str(ROOT / "sweeps" / "run.py"), *words]
        start = time.perf_counter()
        shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - start
    if f"To run: {count} of {count} trials" not in shown:
        raise AssertionError(f"the dry run of {count} trials shows something else:\n{shown[-500:]}")
    return seconds


def worker_seconds(count: int) -> float:
    """Seconds that a trial without training takes from one worker process to the next, over `count` of them."""
    with tempfile.TemporaryDirectory() as temporary:
        results, sweep = Path(temporary), load_sweep(SWEEP)
        trials = make_trials(SWEEP, sweep, ARMS[:1], range(count), {}, results)
        (results / SWEEP).mkdir()
        with contextlib.redirect_stdout(io.StringIO()), SweepStudy(SWEEP, results / SWEEP, trials) as study:
            source = Listed(trials, study)
            with Screen(SWEEP, source, 1) as screen:
                start = time.perf_counter()
                failed = run_local(
                    source, screen, results=results, jobs=1, logs=results / SWEEP / ".jobs",
                    trainer="benchmarks.sweep:no_training", retries=Retries(0),
                )  # fmt: skip
                seconds = time.perf_counter() - start
        if failed or any(finished_folder(trial) is None for trial in trials):
            raise AssertionError(f"{len(failed)} of {count} worker processes failed: {failed}")
    return seconds / count


def python_seconds(code: str) -> float:
    """Seconds of a Python process that does nothing but `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.perf_counter() - start


def measure(settings: Settings) -> dict[str, dict[str, list[float]]]:
    """Seconds of every round: of each of PHASES by the number of trials, and of a worker under "one process"."""
    found = {str(count): {phase: list[float]() for phase in PHASES} for count in settings.trials}
    if not settings.quick:
        runner_phases(min(settings.trials))
    for _ in range(settings.rounds):
        for count in settings.trials:
            for phase, seconds in runner_phases(count).items():
                found[str(count)][phase].append(seconds)
    if settings.workers:
        for code in PYTHON.values():  # the first import reads from the disk
            python_seconds(code)
        processes: dict[str, list[float]] = {name: [] for name in ("worker", *PYTHON)}
        for _ in range(settings.rounds):
            processes["worker"].append(worker_seconds(settings.workers))
            for name, code in PYTHON.items():
                processes[name].append(python_seconds(code))
        found["one process"] = processes
    return found


def show(settings: Settings, found: dict[str, dict[str, list[float]]], console: Console) -> None:
    """The table of the runner's work, and the line about processes."""
    title = f"A sweep beside its trials: median of {settings.rounds} rounds (quartiles), {settings.threads} thread(s)"
    table = Table("seconds", *(f"{count:,} trials" for count in settings.trials), "ms a trial, last", title=title)
    for phase, words in PHASES.items():
        spreads = [Spread.of(found[str(count)][phase]) for count in settings.trials]
        table.add_row(words, *map(str, spreads), f"{1000 * spreads[-1].median / settings.trials[-1]:.2f}")
    console.print(table)
    if not settings.workers:
        return
    processes = Table("a process of its own", "seconds", "ratio to bare Python", title="One worker after another")
    names = {
        "worker": "a trial without training: runner to worker to runner",
        "bare": "bare Python",
        "trainer": "Python with what a real trial imports",
    }
    for name, words in names.items():
        own = found["one process"][name]
        processes.add_row(words, str(Spread.of(own)), str(ratio(own, found["one process"]["bare"])))
    console.print(processes)


def main(settings: Settings) -> int:
    """Time, print, and write."""
    check(settings)
    if settings.quick:
        settings = replace(settings, trials=(4, 10), rounds=1, workers=min(1, settings.workers))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(settings.threads)
    where = machine(("torch", "optuna", "submitit"))
    found = measure(settings)
    show(settings, found, Console(width=120))
    figures = {
        "settings": {"trials": settings.trials, "rounds": settings.rounds, "workers": settings.workers},
        "seconds": {
            size: {name: asdict(Spread.of(values)) for name, values in rows.items()} for size, rows in found.items()
        },
    }
    write_figures(settings.out, "sweep", where, figures)
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(lambda: main(tyro.cli(Settings, prog="python -m benchmarks.sweep"))))
