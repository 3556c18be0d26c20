"""Seconds of `run.py status` on sweeps of 10, 100 and 1,000 trials in all states, start-up included.

python -m benchmarks.status --trials 10 100 1000

squeue is played by a script. Beside it stands what any Python command takes to start.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.limits import check, run_benchmark
from benchmarks.timing import Spread, alternate, machine, ratio, write_figures
from saei import schema
from sweeps.slurm.queue import _SEPARATOR, job_name
from sweeps.slurm.tickets import COMMENT, Ticket, write_ticket

ROOT = Path(__file__).resolve().parent.parent
SWEEP = "many"
STATES = ("finished", "finished", "finished", "running", "queued", "failed", "interrupted", "missing")
"""The trials take these in turn: as many finished ones as everything that is harder to tell."""


BARE = "Python alone"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    trials: tuple[int, ...] = (10, 100, 1000)
    """Sizes of the made-up sweeps."""
    rounds: int = 7
    """Timed rounds after one of warm-up; all commands take turns."""
    threads: int = 1
    """CPU threads of torch in the processes that are started; the command loads none of it."""
    quick: bool = False
    """Two small sizes, one round: seconds."""
    out: str = ""
    """Write the figures to this JSON file."""


def write_many(results: Path, trials: int) -> list[str]:
    """A sweep of so many trials under `results`. Returns what squeue says of its jobs, a line each."""
    lines, entries = [], []
    for number in range(trials):
        key, state = f"{number:012x}-s0", STATES[number % len(STATES)]
        entries.append({"trial_id": key, "arm": f"arm_{number}", "seed": 0, "exploratory": False})
        if state == "missing":
            continue
        folder = results / SWEEP / key
        folder.mkdir(parents=True)
        if state in ("queued", "running"):
            _write_ticket(results, key, number)
            word = "PENDING" if state == "queued" else "RUNNING"
            fields = (f"7_{number}", word, str(os.getuid()), "node1", "1:00:00", "10:00", "Priority", job_name(SWEEP))
            lines.append(_SEPARATOR.join((*fields, f"{COMMENT}token")))
        if state == "queued":
            continue
        step = 150 if state == "finished" else 75
        status = {"state": state, "trial_id": key, "step": step, "steps": 150, "heartbeat": time.time(), "pid": 1,
                  "host": "node1", "message": "RuntimeError: no" if state == "failed" else "", "time_step": 1.5,
                  "seconds": 200.0, "gpus": 1, "metric": 0.6, "metric_step": 75}  # fmt: skip
        (folder / schema.STATUS_FILE).write_text(json.dumps(status))
        if state == "finished":
            (folder / schema.DONE_FILE).write_text(json.dumps({"trial_id": key, "scores": {"validation/mean@8": 0.6}}))
    plan = {"name": SWEEP, "trials": entries, "steps": 150, "primary_metric": "test/mean@8", "first_launch": 0.0}
    (results / SWEEP / schema.PLAN_FILE).write_text(json.dumps(plan))
    return lines


def _write_ticket(results: Path, key: str, number: int) -> None:
    ticket = Ticket(
        trial_id=key, sweep=SWEEP, arm=f"arm_{number}", seed=0, token="token", index=number, logs="", code="", gpus=1,
        limit_s=3600, parallel=8, from_step=0, job=f"7_{number}",
    )  # fmt: skip
    write_ticket(results, ticket)


def command_words(results: Path, *words: str) -> list[str]:
    """`run.py status` on `results`; `words` are the name of a sweep, or nothing."""
    return [sys.executable, str(ROOT / "sweeps" / "run.py"), "status", *words, "--results", str(results)]


def shown(results: Path, tools: Path, *words: str) -> str:
    """What the command prints, with the programs in `tools` found first."""
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "160"}
    ended = subprocess.run(
        command_words(results, *words), env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return ended.stdout


def seconds(results: Path, tools: Path, *words: str) -> float:
    """Wall seconds of the command, from its start to its end."""
    start = time.perf_counter()
    shown(results, tools, *words)
    return time.perf_counter() - start


def write_tools(folder: Path, lines: list[str]) -> Path:
    """A folder with an squeue that says `lines`."""
    folder.mkdir()
    (folder / "jobs").write_text("".join(f"{line}\n" for line in lines))
    (folder / "squeue").write_text(f"#!/bin/sh\ncat {folder / 'jobs'}\n")
    (folder / "squeue").chmod(0o755)
    return folder


def contenders(folder: Path, trials: int) -> dict[str, Callable[[], object]]:
    """Both forms of the command on a sweep of so many trials. What each says is checked first."""
    results = folder / "results"
    tools = write_tools(folder / "bin", write_many(results, trials))
    finished = sum(STATES[number % len(STATES)] == "finished" for number in range(trials))
    of_one, of_all = shown(results, tools, SWEEP), shown(results, tools)
    rows = len({line.split()[0] for line in of_one.splitlines() if line.startswith("arm_")})
    if rows != trials or f"{finished}/{trials}" not in of_all:
        raise AssertionError(f"status of {trials} trials ({finished} finished) shows {rows} of them:\n{of_all}")
    return {"status NAME": partial(shown, results, tools, SWEEP), "status": partial(shown, results, tools)}


def main(settings: Settings) -> int:
    """Time, print, and write."""
    check(settings)
    if settings.quick:
        settings = replace(settings, trials=(5, 20), rounds=1)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(settings.threads)
    where = machine(("tyro", "rich"))
    with contextlib.ExitStack() as stack:
        every: dict[str, Callable[[], object]] = {}
        for trials in settings.trials:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            every |= {f"{name}, {trials} trials": one for name, one in contenders(folder, trials).items()}
        every[BARE] = lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)
        found = alternate(every, settings.rounds)
    table = Table(title=f"Seconds, start-up included: median of {settings.rounds} rounds (quartiles)")
    for column in ("command", "seconds", f"ratio to {BARE}"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, values in found.items():
        table.add_row(name, str(Spread.of(values)), str(ratio(values, found[BARE])))
    Console(width=120).print(table)
    figures = {name: asdict(Spread.of(values)) for name, values in found.items()}
    write_figures(settings.out, "status", where, {"trials": settings.trials, "seconds": figures})
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(lambda: main(tyro.cli(Settings, prog="python -m benchmarks.status"))))
