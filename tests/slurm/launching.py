"""Start the watching runner in a process of its own, as a user would, to watch it, kill it and start it again."""

import importlib
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from saei import schema
from saei.cli import run_main
from sweeps.slurm.tickets import Ticket, read_tickets
from tests.slurm.lab import Lab, status, wait_for
from tests.slurm.toy_trainer import TRAINER

ROOT = Path(__file__).resolve().parents[2]
POLL_S, SETTLE_S = 0.5, 2.0
_HEAVY = ("saei.options", "sweeps.slurm.launch", "sweeps.study", "submitit", "sweeps.run")
_FORK = multiprocessing.get_context("fork")  # ready at once: nothing is imported anew


@dataclass(frozen=True, slots=True)
class Runner:
    """A running, or ended, `run.py`; `told` holds what it printed."""

    process: BaseProcess
    told: Path

    def text(self) -> str:
        """What it has printed, with single spaces in place of line breaks and indentation."""
        return " ".join(self.told.read_text().split()) if self.told.exists() else ""

    def says(self, words: str, seconds: float = 60.0) -> None:
        """Wait until it has printed these words."""
        wait_for(lambda: words in self.text(), lambda: f"the runner to say {words!r}: {self.text()}", seconds)

    def ends(self, seconds: float = 90.0) -> int:
        """Wait for its end; returns the exit code."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"the runner goes on after {seconds:.0f} s:\n{self.text()}"
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Site:
    """A folder with results, a profile and a gate that holds the toy trials, on the lab `lab`."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder, self.results = lab, folder, folder / "results"
        self.gate = folder / "gate"
        self.gate.mkdir()
        for module in _HEAVY:  # once, for all the runners that are forked from here
            importlib.import_module(module)
        self._runners: list[Runner] = []

    def profile(self, **keys: str | int | bool) -> Path:
        """A profile: partition low, one GPU, one CPU, an hour, and `keys`."""
        said = {"partition": "low", "gpus": 1, "cpus": 1, "time": "01:00:00", "signal_delay_s": 20, **keys}
        lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
        path = self.folder / "site.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def launch(
        self, *words: str, sweep: str = "components", arms: tuple[str, ...] = ("grpo",), seeds: int = 1,
        trainer: str = TRAINER, before: Callable[[], None] | None = None,
    ) -> Runner:  # fmt: skip
        """`run.py SWEEP --on slurm` with these words. `before` is called in its process, to plant a fault."""
        profile = self.folder / "site.toml"
        if not profile.exists():
            self.profile()
        chosen = [word for arm in arms for word in ("--only", arm)]
        line = [sweep, "--on", "slurm", "--cluster", str(profile), "--results", str(self.results), *chosen]
        line += ["--seeds", str(seeds), "--no-report", *words]
        told = self.folder / f"runner-{len(self._runners)}.txt"
        process = _FORK.Process(target=_run, args=(line, told, self.folder, trainer, before))
        process.start()
        self._runners.append(Runner(process, told))
        return self._runners[-1]

    def watched_by(self, runner: Runner, sweep: str = "components") -> None:
        """Wait until this runner has the sweep."""
        lock = self.results / sweep / ".runner.lock"
        wait_for(lambda: str(runner.process.pid) in lock.read_text(), "the runner to watch")

    def open(self, trial: str = "all") -> None:
        """Let this trial, or all, go on behind the gate."""
        (self.gate / trial).touch()

    def stop(self) -> None:
        for runner in self._runners:
            runner.kill()

    # --- looking -------------------------------------------------------------------------------------------------

    def tickets(self) -> dict[str, Ticket]:
        return read_tickets(self.results)

    def job(self, trial: str) -> str:
        """The job that was given the trial, once it has one."""
        return wait_for(lambda: self.tickets()[trial].job if trial in self.tickets() else "", f"a job for {trial}")

    def trials(self, sweep: str = "components") -> dict[str, Path]:
        found = sorted((self.results / sweep).glob(f"*/{schema.STATUS_FILE}"))
        return {path.parent.name: path.parent for path in found}

    def training(self, count: int, step: int = 2, sweep: str = "components") -> list[str]:
        """Wait until so many trials have come to `step`; their names."""

        def there() -> list[str]:
            told = {name: status(folder) for name, folder in self.trials(sweep).items()}
            return [name for name, said in told.items() if said.get("state") == "running" and said["step"] >= step]

        def told() -> str:
            return "\n".join([f"{count} trials at step {step}", *(runner.text() for runner in self._runners)])

        return wait_for(lambda: there() if len(there()) >= count else [], told)

    def executions(self) -> list[tuple[str, int, str, int]]:
        """(trial, first step, job, restarts) of every execution of the toy trainer."""
        log = self.folder / "executions"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(trial, int(first), job, int(restarts)) for trial, first, job, restarts in lines]

    def times_run(self) -> Counter[str]:
        return Counter(trial for trial, *_ in self.executions())

    def assert_all_done(self, count: int, sweep: str = "components") -> None:
        """So many trials, each sealed, with every row of a straight run once."""
        found = self.trials(sweep)
        assert len(found) == count
        for name, folder in found.items():
            assert (folder / schema.DONE_FILE).exists(), f"{name} is not finished"
            factor = int(name.rpartition("-s")[2]) + 1
            assert (folder / "rows.txt").read_text() == "".join(f"{step} {factor * (step + 1)}\n" for step in range(4))


def _run(line: list[str], told: Path, folder: Path, trainer: str, before: Callable[[], None] | None) -> None:
    with open(told, "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115 (for good)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(PYTHONPATH=str(ROOT), TOY_LOG=str(folder / "executions"), TOY_GATE=str(folder / "gate"))
    from sweeps.run import main
    from sweeps.slurm import drive, runner

    defaults = drive.run_on_slurm.__kwdefaults__
    assert defaults is not None and "poll_s" in defaults, "the runner's poll can be made faster for tests"
    defaults["poll_s"] = POLL_S
    runner.SETTLE_S = SETTLE_S
    if before is not None:
        before()
    code = run_main(lambda: main(line, trainer=trainer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
