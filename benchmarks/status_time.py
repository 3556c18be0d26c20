"""Seconds of `run.py status` on a sweep of many trials in all states, start-up included, squeue played by a script.

python -m benchmarks.status_time --trials 1000
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from saei import schema
from saei.cli import run_main
from sweeps.slurm.queue import _SEPARATOR, job_name
from sweeps.slurm.tickets import COMMENT, Ticket, write_ticket

ROOT = Path(__file__).resolve().parent.parent
SWEEP = "many"
STATES = ("finished", "finished", "finished", "running", "queued", "failed", "interrupted", "missing")
"""The trials take these in turn: as many finished ones as everything that is harder to tell."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    trials: int = 1000
    """Trials of the made-up sweep."""
    repeats: int = 3
    """The best of so many runs counts."""
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


def seconds(results: Path, tools: Path, *words: str) -> float:
    """Wall seconds of the command, from its start to its end."""
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "sweeps" / "run.py"), "status", *words, "--results", str(results)]
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - start


def main(settings: Settings) -> int:
    with tempfile.TemporaryDirectory() as folder:
        results, tools = Path(folder) / "results", Path(folder) / "bin"
        tools.mkdir()
        (tools / "jobs").write_text("".join(f"{line}\n" for line in write_many(results, settings.trials)))
        (tools / "squeue").write_text(f"#!/bin/sh\ncat {tools / 'jobs'}\n")
        (tools / "squeue").chmod(0o755)
        best = {
            name: min(seconds(results, tools, *words) for _ in range(settings.repeats))
            for name, words in (("status NAME", (SWEEP,)), ("status", ()))
        }
    for name, value in best.items():
        print(f"{name}: {value:.2f} s for {settings.trials} trials, best of {settings.repeats}, start-up included")
    if settings.out:
        Path(settings.out).write_text(json.dumps({"trials": settings.trials, "seconds": best}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(tyro.cli(Settings))))
