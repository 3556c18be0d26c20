"""One task of a hand-written Slurm array (`slurm/array.sbatch`): train the next trial that nobody has, then end.

Tasks of one array and other runners meet at the trial's lock. Slurm's warning makes the trainer checkpoint; the task
then puts itself back into the queue.
"""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from saei.cli import BadInput
from saei.job import slurm_job
from sweeps.locks import Held, hold
from sweeps.slurm.given import Given
from sweeps.trial import Trial, is_busy, settle, status

SCONTROL_S = 60


class _Warning:
    """Slurm's USR2, for the time before the trainer listens itself; afterwards the trainer passes it on."""

    came = False

    def receive(self, *_: object) -> None:
        self.came = True
        raise KeyboardInterrupt


def take_next(trials: Sequence[Trial], trainer: str) -> int:
    """Train the first of `trials` that is not finished and that nobody works on. Returns the exit code.

    `trainer` is "module:function" of a function that takes a Config. A trial that failed in this array is left to the
    next one, so that one bad trial does not use up the tasks of all. Raises BadInput where Slurm started several
    processes, and what the trainer raises.
    """
    if int(os.environ.get("SLURM_NTASKS") or 1) > 1:
        raise BadInput(
            "--take-next trains in one process, and this job has SLURM_NTASKS="
            f"{os.environ['SLURM_NTASKS']}: set --ntasks=1, or launch trials of several processes with --on slurm"
        )
    with _warned() as warning:
        try:
            trial = _train_one(trials, trainer)
        except KeyboardInterrupt:
            if warning.came:
                _requeue()
            raise
    if trial is None:
        print(_why_nothing(trials))
    return 0


def _train_one(trials: Sequence[Trial], trainer: str) -> Trial | None:
    """The trial that was trained to its end; None: there was none to take."""
    module, _, function = trainer.partition(":")
    given = Given(trials[0].results)
    for trial in sorted(trials, key=lambda trial: not _is_mine(trial)):  # sorted() keeps the plan's order
        if settle(trial) or _failed_in_this_array(trial) or is_busy(trial) or given.job_of(trial):
            continue
        try:
            with hold(trial.lock):
                if settle(trial) or _failed_in_this_array(trial):  # since we looked
                    continue
                _mark(trial)
                print(f"taking {trial.arm} seed {trial.seed}: {trial.folder}", flush=True)
                try:
                    getattr(importlib.import_module(module), function)(trial.config)
                except KeyboardInterrupt:
                    _mark_file(trial).unlink(missing_ok=True)  # it did not fail: any task may continue it
                    raise
                return trial
        except Held:
            continue
        except RuntimeError as error:
            if type(error).__name__ != "RunBusy":  # saei.recorder's; importing it would load torch
                raise
            _mark_file(trial).unlink(missing_ok=True)
    return None


@contextmanager
def _warned() -> Iterator[_Warning]:
    warning = _Warning()
    before = signal.signal(signal.SIGUSR2, warning.receive)
    try:
        yield warning
    finally:
        signal.signal(signal.SIGUSR2, before)


# --- which task of this array had a trial ---------------------------------------------------------------------------


def _mark_file(trial: Trial) -> Path:
    return trial.lock.with_suffix(".taken")


def _mark(trial: Trial) -> None:
    _mark_file(trial).write_text(slurm_job())


def _taker(trial: Trial) -> str:
    """The job that took this trial and neither finished it nor was warned; "" where there is none."""
    try:
        return _mark_file(trial).read_text()
    except FileNotFoundError:
        return ""


def _is_mine(trial: Trial) -> bool:
    """Did this task have it before Slurm started the task again?"""
    return bool(slurm_job()) and slurm_job() in (_taker(trial), status(trial).get("job"))


def _failed_in_this_array(trial: Trial) -> bool:
    array, taker = os.environ.get("SLURM_ARRAY_JOB_ID", ""), _taker(trial)
    return bool(array) and taker.startswith(f"{array}_") and taker != slurm_job()


def _why_nothing(trials: Sequence[Trial]) -> str:
    left = [trial for trial in trials if not settle(trial)]
    if not left:
        return f"nothing left to take: all {len(trials)} trials are finished"
    busy = sum(is_busy(trial) for trial in left)
    failed = [trial for trial in left if not is_busy(trial) and _failed_in_this_array(trial)]
    queued = len(left) - busy - len(failed)
    found = [f"{len(trials) - len(left)} of {len(trials)} trials are finished", f"{busy} are being trained"]
    found += [f"{queued} wait in the queue of another launch"] if queued else []
    if failed:
        names = ", ".join(f"{trial.arm} seed {trial.seed}" for trial in failed)
        found.append(f"{len(failed)} did not end well in this array ({names}): read why, then submit the array again")
    return f"nothing left to take: {'; '.join(found)}"


# --- back into the queue --------------------------------------------------------------------------------------------


def _requeue() -> None:
    """Ask Slurm to start this task again; a refusal is told with its cure."""
    job = slurm_job()
    if not job:
        print("warned by SIGUSR2; run the same command again to continue", file=sys.stderr)
        return
    problem = ""
    try:
        ended = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=SCONTROL_S, check=False
        )
        if ended.returncode:
            problem = (ended.stderr or ended.stdout).strip() or f"scontrol ended with code {ended.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"scontrol did not answer within {SCONTROL_S} s"
    except OSError as error:
        problem = f"scontrol: {error.strerror}"
    if problem:
        print(
            f"job {job} was warned, and Slurm did not put it back into the queue ({problem}). Nothing is lost: submit "
            "the array again, and its tasks continue from the checkpoints. Where the cluster allows it, the line "
            "#SBATCH --requeue lets a task do this by itself",
            file=sys.stderr,
        )
    else:
        print(f"job {job} was warned and is back in the queue; it continues from its checkpoint", file=sys.stderr)
