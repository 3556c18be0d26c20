"""A trainer of no model with the manners of the real one: lock, status, checkpoints, warning, resume, DONE.

Environment, which jobs inherit from their runner: TOY_LOG gets a line per execution, "trial first-step job restarts";
TOY_GATE is a folder: before its step 2 a trial waits for the file of its name in there, or for `all`; with TOY_DEAF it
heeds no warning.
"""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saei.config import Config
from saei.job import restarts, slurm_job

TRAINER = "tests.slurm.toy_trainer:train"
STEPS, GATED_STEP = 4, 2
STEP_S = 0.1
WARNINGS = (signal.SIGUSR2, signal.SIGTERM)


def train(config: Config) -> None:
    """Write `rows.txt`, a line per step that depends on seed and step alone, and a checkpoint after every step."""
    folder = Path(config.out)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    warnings: list[int] = []
    warn = (lambda _: None) if os.environ.get("TOY_DEAF") else warnings.append
    before = {number: signal.signal(number, lambda got, _: warn(got)) for number in WARNINGS}
    with _locked(folder):
        if (folder / "DONE").exists():
            return
        first = _kept(folder)
        with open(os.environ["TOY_LOG"], "a") as log:
            log.write(f"{folder.name} {first} {slurm_job()} {restarts()}\n")
        rows = folder / "rows.txt"
        rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:first] if first else []))
        for step in range(first, STEPS):
            _status(folder, config, "running", step)
            while step == GATED_STEP and not _is_open(folder.name) and not warnings:
                time.sleep(0.05)
            time.sleep(STEP_S)
            if warnings:
                _status(folder, config, "interrupted", step)
                break
            with open(rows, "a") as file:
                file.write(f"{step} {(config.seed + 1) * (step + 1)}\n")
            (folder / "checkpoints" / f"step-{step + 1:06d}").mkdir()
        else:
            _status(folder, config, "finished", STEPS)
            _write(folder / "DONE", {"trial_id": folder.name, "scores": {"validation/mean@8": 0.5, "test/mean@8": 0.5}})
            return
    for number, handler in before.items():
        signal.signal(number, handler)
    if warnings[0] == signal.SIGUSR2 and callable(handler := before[signal.SIGUSR2]):
        handler(signal.SIGUSR2, None)  # submitit's: it puts the job back into the queue
    raise KeyboardInterrupt


def checkpoint(config: Config) -> Any:
    """submitit's protocol: what a requeued job runs."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(train, config)


train.checkpoint = checkpoint  # pyright: ignore[reportFunctionMemberAccess]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A requeued job may start before its predecessor is gone; nobody else waits."""
    deadline = time.monotonic() + (30 if restarts() else 0)
    with open(folder / ".lock", "a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    raise RunBusy(f"{folder} is held by another process") from None
                time.sleep(0.1)
            else:
                break
        yield


class RunBusy(RuntimeError):
    pass


def _is_open(trial: str) -> bool:
    gate = os.environ.get("TOY_GATE")
    return gate is None or any((Path(gate) / name).exists() for name in (trial, "all"))


def _kept(folder: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*")), default=0)


def _status(folder: Path, config: Config, state: str, step: int) -> None:
    where = {"state": state, "trial_id": folder.name, "step": step, "steps": STEPS, "heartbeat": time.time()}
    _write(folder / "status.json", where | {"pid": os.getpid(), "job": slurm_job(), "restarts": restarts()})


def _write(path: Path, tree: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(tree))
    os.replace(temporary, path)
