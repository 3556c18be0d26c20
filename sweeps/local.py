"""The local executor: a queue of worker processes through submitit, which itself starts everything at once.

One process with one thread per core is fastest at this size (DESIGN 6). The run directories decide what is finished;
what submitit says is only used for error messages. Every worker ends with its runner, however that ends.
"""

import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit import Job, LocalExecutor

from sweeps import worker
from sweeps.live import Screen
from sweeps.locks import hold, is_held
from sweeps.study import SweepStudy
from sweeps.trial import Trial, finished_folder, is_busy, settle

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.2
STOP_S = 30.0
"""Seconds that workers get to write their status after Ctrl-C."""
_NO_LIMIT_MINUTES = 60 * 24 * 365


@dataclass(slots=True)
class Queue:
    """Trials by state. `elsewhere`: another runner has them; they are looked at again until they are finished."""

    waiting: deque[Trial]
    running: dict[str, tuple[Trial, Job[str]]] = field(default_factory=dict)
    elsewhere: list[Trial] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self.running or self.elsewhere)


def run_local(
    trials: Sequence[Trial], study: SweepStudy, screen: Screen, *, jobs: int, logs: Path, trainer: str
) -> dict[str, str]:
    """Run what is not finished, `jobs` at a time. Returns {trial_id: why it failed}; KeyboardInterrupt stops cleanly.

    `trainer` is "module:function" of a function that takes a Config and writes its run directory.
    """
    queue = Queue(waiting=deque(trial for trial in trials if not settle(trial)))
    locks = trials[0].results / ".locks"
    runner_lock = locks / f"runner-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    executor = _executor(logs, trials)
    with hold(runner_lock):
        try:
            while not queue.is_empty:
                _reap(queue, study, screen)
                _launch(queue, study, screen, executor, jobs, trainer, runner_lock)
                screen.update(queue.running.keys(), {trial.trial_id for trial in queue.elsewhere}, queue.failed)
                time.sleep(POLL_S)
        finally:
            _stop(queue)
            runner_lock.unlink(missing_ok=True)
    return queue.failed


def _launch(
    queue: Queue,
    study: SweepStudy,
    screen: Screen,
    executor: LocalExecutor,
    jobs: int,
    trainer: str,
    runner_lock: Path,
) -> None:
    """Fill the free slots. A trial that another process works on is put aside."""
    for trial in [trial for trial in queue.elsewhere if not is_busy(trial)]:
        queue.elsewhere.remove(trial)  # its worker finished, or died
        if settle(trial):
            screen.say(trial, "finished by another runner")
        else:
            queue.waiting.append(trial)
    while queue.waiting and len(queue.running) < jobs:
        trial = queue.waiting.popleft()
        if settle(trial):
            screen.say(trial, "finished by another runner")
        elif is_busy(trial):
            screen.say(trial, "another runner has it; waiting for it")
            queue.elsewhere.append(trial)
        else:
            study.ask(trial)
            with _workers_environment(trial):
                queue.running[trial.trial_id] = (trial, executor.submit(worker.work, trial, trainer, runner_lock))
            screen.say(trial, "started")


def _reap(queue: Queue, study: SweepStudy, screen: Screen) -> None:
    """Take ended workers out of their slots and read from the run directory how they ended."""
    for key, (trial, job) in list(queue.running.items()):
        if not job.done():
            continue
        del queue.running[key]
        outcome, why = _outcome(job)
        if finished_folder(trial) is not None:
            screen.say(trial, "finished")
        elif outcome == worker.BUSY:
            queue.elsewhere.append(trial)
        else:
            queue.failed[key] = why
            screen.say(trial, f"FAILED: {why}\n  {job.paths.stderr}")
        study.tell(trial)


def _outcome(job: Job[str]) -> tuple[str, str]:
    """What the worker returned, and a sentence for the case that its trial is not finished."""
    if not job.paths.result_pickle.exists():
        return "", f"the worker was killed\n{_tail(job.paths.stderr)}".rstrip()
    error = job.exception()
    if error is not None:
        lines = [line for line in str(error).splitlines() if line.strip(" -^~\t")]
        return "", "\n".join(["the last lines of its error:", *(f"    {line}" for line in lines[-6:])])
    outcome = str(job.result())
    return outcome, "it was interrupted" if outcome == worker.INTERRUPTED else "the trainer ended without DONE"


def _tail(path: Path, lines: int = 4) -> str:
    try:
        return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _stop(queue: Queue) -> None:
    """Interrupt the workers and wait; whoever does not end in time loses its controller and ends itself."""
    for _, job in queue.running.values():
        _signal(job, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while any(not job.done() for _, job in queue.running.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _, job in queue.running.values():
        if not job.done():
            _signal(job, signal.SIGKILL)


def _signal(job: Job[str], number: signal.Signals) -> None:
    """To submitit's controller, our child, which passes SIGTERM on to the worker."""
    if not job.done():  # polls, so that the number cannot belong to another process
        os.kill(int(job.job_id), number)


def _executor(logs: Path, trials: Sequence[Trial]) -> LocalExecutor:
    for leftover in (trials[0].results / ".locks").glob("runner-*"):
        if not is_held(leftover):
            leftover.unlink(missing_ok=True)
    executor = LocalExecutor(folder=logs)
    parameters: dict[str, Any] = {"timeout_min": _NO_LIMIT_MINUTES}
    if any(trial.config.model.device.startswith("cuda") for trial in trials):
        # submitit hides all GPUs from a worker that did not ask for any
        visible = [int(gpu) for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",") if gpu.isdigit()]
        parameters |= {"gpus_per_node": len(visible), "visible_gpus": visible}
    executor.update_parameters(**parameters)
    return executor


@contextmanager
def _workers_environment(trial: Trial) -> Iterator[None]:
    """What a worker inherits: pinned threads, our packages, and a deaf ear for the terminal's Ctrl-C.

    Ctrl-C goes to the whole process group, and submitit's controller would kill its worker a second later; with
    SIGINT blocked only the runner hears it, and interrupts the workers itself.
    """
    threads = str(trial.config.threads)
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    wanted = {**pinned, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
    before = {name: os.environ.get(name) for name in wanted}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
