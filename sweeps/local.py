"""The local executor: a queue of worker processes through submitit, which itself starts everything at once.

One process with one thread per core is fastest at this size (DESIGN 6). The run directories decide what is finished;
what submitit says is only used for error messages. Every worker ends with its runner, however that ends.
"""

import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submitit import Job, LocalExecutor

from sweeps import worker
from sweeps.budget import Budget
from sweeps.judging import from_run_directory
from sweeps.live import Screen
from sweeps.locks import hold, is_held
from sweeps.outcome import Kind, Outcome
from sweeps.retry import Retries
from sweeps.slurm.given import Given
from sweeps.source import Source
from sweeps.trial import Trial, is_busy, settle

ROOT = Path(__file__).resolve().parent.parent
POLL_S = 0.2
STOP_S = 30.0
"""Seconds that workers get to write their status after Ctrl-C."""
_NO_LIMIT_MINUTES = 60 * 24 * 365


@dataclass(slots=True)
class Worker:
    trial: Trial
    job: Job[str]
    since: float
    """When it was started, in seconds of the epoch."""


@dataclass(slots=True)
class Runner:
    """One launch. `elsewhere`: another runner or Slurm has these; they are looked at again until they are finished."""

    source: Source
    screen: Screen
    retries: Retries
    budget: Budget | None
    given: Given
    executor: LocalExecutor
    jobs: int
    trainer: str
    lock: Path
    settled: set[str]
    """Finished before this launch."""
    waiting: deque[Trial] = field(default_factory=deque)
    running: dict[str, Worker] = field(default_factory=dict)
    elsewhere: list[Trial] = field(default_factory=list)
    failed: dict[str, Outcome] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    refused: bool = False

    @property
    def is_over(self) -> bool:
        return not (self.waiting or self.running or self.elsewhere) and self.source.is_exhausted

    def reap(self) -> None:
        """Take ended workers out of their slots and read from the run directory how they ended."""
        for key, ended in list(self.running.items()):
            if not ended.job.done():
                continue
            del self.running[key]
            trial, outcome = ended.trial, _outcome(ended)
            again = self.retries.again(trial, outcome)
            if outcome.kind == Kind.FINISHED:
                self.screen.say(trial, "finished")
                self._end(trial, outcome)
            elif outcome.kind == Kind.BUSY:
                self.elsewhere.append(trial)
            elif again:
                tries = f"try {self.retries.tried(trial) + 1} of {self.retries.retry_failed + 1}"
                self.screen.say(trial, f"{_told(outcome)}\n  trying again from its checkpoint, {tries}")
                self.waiting.append(trial)
            else:
                self.screen.say(trial, f"FAILED: {_told(outcome)}")
                self.failed[key] = outcome
                self._end(trial, outcome)

    def launch(self) -> None:
        """Fill the free slots. A trial that another process works on is put aside."""
        for trial in list(self.elsewhere):
            if not self._holder(trial):
                self.elsewhere.remove(trial)  # its worker finished, or died
                self.waiting.appendleft(trial)
        while len(self.running) < self.jobs:
            if not self.waiting:
                self.waiting.extend(self.source.take(self.jobs - len(self.running)))
            if not self.waiting:
                return
            self._start(self.waiting.popleft())

    def _start(self, trial: Trial) -> None:
        if settle(trial):
            if trial.trial_id not in self.settled:
                self.screen.say(trial, "finished by another runner")
            self._end(trial, Outcome(kind=Kind.FINISHED))
        elif holder := self._holder(trial):
            self.screen.say(trial, f"{holder} has it; waiting for it")
            self.elsewhere.append(trial)
        elif self.budget is not None and (refusal := self.budget.refuses(trial)):
            if not self.refused:
                self.screen.say(trial, f"not started: {refusal}")
            self.refused = True
            self._end(trial, Outcome(kind=Kind.NEVER_STARTED, sentence=refusal))
        else:
            if trial.trial_id not in self.started:
                self.started.add(trial.trial_id)
                self.source.started(trial)
            if self.budget is not None:
                self.budget.started(trial)
            self.running[trial.trial_id] = self._submit(trial)
            self.screen.say(trial, "started")

    def _submit(self, trial: Trial) -> Worker:
        self.executor.update_parameters(**_parameters(trial))
        since = time.time()
        with _workers_environment(trial):
            job = self.executor.submit(worker.work, trial, self.trainer, self.lock)
        # submitit names files by the process id, which some earlier worker may have had
        for leftover in (job.paths.result_pickle, job.paths.stderr, job.paths.stdout):
            if leftover.exists() and leftover.stat().st_mtime < since - 1:
                leftover.unlink(missing_ok=True)
        return Worker(trial, job, since)

    def _holder(self, trial: Trial) -> str:
        """Who works on it already; "": nobody."""
        job = self.given.job_of(trial)
        return f"Slurm job {job}" if job else "another runner" if is_busy(trial) else ""

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        self.source.ended(trial, outcome)
        if self.budget is not None:
            self.budget.ended(trial)

    def stop(self) -> None:
        """Interrupt the workers and wait; whoever does not end in time loses its controller and ends itself."""
        for one in self.running.values():
            _signal(one.job, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while any(not one.job.done() for one in self.running.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for one in self.running.values():
            if not one.job.done():
                _signal(one.job, signal.SIGKILL)


def run_local(
    source: Source,
    screen: Screen,
    *,
    results: Path,
    jobs: int,
    logs: Path,
    trainer: str,
    retries: Retries,
    budget: Budget | None = None,
) -> dict[str, Outcome]:
    """Run what is not finished, `jobs` at a time. Returns {trial_id: how it failed} of what failed for good.

    `trainer` is "module:function" of a function that takes a Config and writes its run directory. Where
    `retries.stop()` says so, the workers are interrupted and the rest is left; KeyboardInterrupt stops cleanly too.
    """
    locks = results.resolve() / ".locks"
    for leftover in locks.glob("runner-*"):
        if not is_held(leftover):
            leftover.unlink(missing_ok=True)
    runner_lock = locks / f"runner-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    runner = Runner(
        source=source, screen=screen, retries=retries, budget=budget, given=Given(results.resolve()),
        executor=LocalExecutor(folder=logs), jobs=jobs, trainer=trainer, lock=runner_lock,
        settled={trial.trial_id for trial in source.trials if settle(trial)},
    )  # fmt: skip
    with hold(runner_lock):
        try:
            while not runner.is_over:
                runner.reap()
                if retries.stop() is not None:
                    break
                runner.launch()
                elsewhere = {trial.trial_id for trial in runner.elsewhere}
                screen.update(runner.running.keys(), elsewhere, runner.failed)
                if not runner.is_over:
                    time.sleep(POLL_S)
        finally:
            runner.stop()
            runner_lock.unlink(missing_ok=True)
    return runner.failed


def _outcome(ended: Worker) -> Outcome:
    said = _returned(ended.job)
    if said == worker.BUSY:
        return Outcome(kind=Kind.BUSY)
    outcome = from_run_directory(ended.trial.folder, stderr=ended.job.paths.stderr, since=ended.since)
    if outcome.kind == Kind.FINISHED:
        return outcome
    if said == worker.INTERRUPTED or outcome.kind == Kind.INTERRUPTED:
        # nobody takes a local worker away from its runner but a person, who would not like to see it start again
        return Outcome(
            kind=Kind.CANCELLED,
            sentence="its worker was told to stop by a signal",
            cure="launch again: it continues from its checkpoint",
            log=outcome.log,
        )
    if said == worker.FINISHED:
        words = "the trainer ended without DONE"
        return Outcome(kind=Kind.FAILED, sentence=words, error=words, log=outcome.log)
    return outcome


def _returned(job: Job[str]) -> str:
    """What the worker returned; "": it raised an error, or ended before it could return."""
    try:
        return "" if not job.paths.result_pickle.exists() or job.exception() is not None else str(job.result())
    except Exception:  # a result that cannot be read, of a full disk: the run directory knows more
        return ""


def _told(outcome: Outcome) -> str:
    return "\n  ".join(part for part in (outcome.sentence, outcome.cure, outcome.log) if part)


def _signal(job: Job[str], number: signal.Signals) -> None:
    """To submitit's controller, our child, which passes SIGTERM on to the worker."""
    if not job.done():  # polls, so that the number cannot belong to another process
        os.kill(int(job.job_id), number)


def _parameters(trial: Trial) -> dict[str, Any]:
    import torch  # loaded by now, to name the trials

    visible: list[int] = []
    # submitit hides all GPUs from a worker that did not ask for any: "auto" would mean the CPU
    if trial.config.model.device != "cpu" and torch.cuda.is_available():
        every = ",".join(map(str, range(torch.cuda.device_count())))
        visible = [int(gpu) for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",") if gpu.isdigit()]
    return {"timeout_min": _NO_LIMIT_MINUTES, "gpus_per_node": len(visible), "visible_gpus": visible}


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
