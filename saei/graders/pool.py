"""Persistent grader processes with a watchdog in the parent: a task over its time costs the worker its life.

The parent uses no alarm signal and no thread; it waits on the workers' pipes, one task in flight at each. Workers are
plain subprocesses that import neither torch nor the program's main module: a new one is ready in about half a second.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Task = tuple[str, str]
"""(answer, gold)."""
Outcome = tuple[bool, str]
"""(equal, status)."""

STARTUP_S = 60.0
KILL_SHARE = 0.6  # of the time limit: the rest is for the kill and for the start of a new worker
START_ATTEMPTS = 3
SPARES = 1  # ready workers beyond those that compute: after a kill the next answer need not wait for a start


class GraderBug(RuntimeError):
    """The grader's own code failed: not an outcome of an answer, but an error to mend."""


class _Worker:
    """One grader process, its pipes and the task it is on (an index into the batch)."""

    def __init__(self, timeout_s: float) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "saei.graders.worker", str(os.getpid()), str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
        assert self.process.stdin is not None and self.process.stdout is not None, "both are pipes"
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.buffer = b""
        self.ready = False
        self.task: int | None = None
        self.deadline = time.monotonic() + STARTUP_S

    def send(self, index: int, task: Task, rule: str, timeout_s: float) -> None:
        self.task, self.deadline = index, time.monotonic() + timeout_s * KILL_SHARE
        self.stdin.write((json.dumps({"answer": task[0], "gold": task[1], "rule": rule}) + "\n").encode())
        self.stdin.flush()

    def receive(self) -> list[bytes] | None:
        """The whole lines that have arrived; None when the process is gone."""
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        if not chunk:
            return None
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        return lines

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(BrokenPipeError):  # unsent bytes in the buffer
                pipe.close()


class WorkerPool:
    """Compares answers in `workers` processes (and a spare); started at the first task, closed by `close`."""

    def __init__(self, workers: int, timeout_s: float) -> None:
        self.size, self.timeout_s = workers, timeout_s
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    @property
    def process_ids(self) -> list[int]:
        """Process ids of the workers that were started last."""
        return [worker.process.pid for worker in self._workers]

    def start(self) -> None:
        """Start the missing workers and the spare, without waiting for them."""
        while len(self._workers) < self.size + SPARES:
            self._workers.append(_Worker(self.timeout_s))

    def close(self) -> None:
        """Kill all workers and wait for their end."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def compare(self, tasks: Sequence[Task], rule: str = "mathematics") -> list[Outcome]:
        """(equal, status) of each (answer, gold) by a rule of `saei.graders.worker.RULES`, in order.

        Raises GraderBug for an error in the grader's own code.
        """
        outcomes: list[Outcome | None] = [None] * len(tasks)
        waiting, attempts = deque(range(len(tasks))), [0] * len(tasks)
        try:
            while waiting or any(worker.task is not None for worker in self._workers):
                self.start()
                self._hand_out(tasks, rule, waiting)
                self._collect(waiting, attempts, outcomes)
        except BaseException:
            self.close()  # a worker in the middle of a task would answer the next batch
            raise
        self.start()  # replacements get ready while the caller works
        assert all(outcome is not None for outcome in outcomes), "every task has an outcome"
        return [outcome for outcome in outcomes if outcome is not None]

    def _hand_out(self, tasks: Sequence[Task], rule: str, waiting: deque[int]) -> None:
        """Give waiting tasks to ready workers, at most `size` at a time."""
        for worker in list(self._workers):
            busy = sum(worker.task is not None for worker in self._workers)
            if not waiting or busy >= self.size:
                return
            if not worker.ready or worker.task is not None:
                continue
            if worker.process.poll() is not None:  # killed while idle
                self._remove(worker)
                continue
            index = waiting.popleft()
            try:
                worker.send(index, tasks[index], rule, self.timeout_s)
            except BrokenPipeError:  # killed just now, the task is untouched
                self._remove(worker)
                waiting.appendleft(index)

    def _collect(self, waiting: deque[int], attempts: list[int], outcomes: list[Any]) -> None:
        """Wait for the next reply or deadline, and take in all there is."""
        busy = [worker for worker in self._workers if worker.task is not None or not worker.ready]
        if not busy:
            return
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
            left = min(worker.deadline for worker in busy) - time.monotonic()
            arrived = [key.data for key, _ in selector.select(max(0.0, left))]
        for worker in arrived:
            lines = worker.receive()
            if lines is None:
                self._lose(worker, waiting, attempts, outcomes)
            else:
                self._take_in(worker, lines, outcomes)
        for worker in [worker for worker in busy if worker not in arrived]:
            if time.monotonic() >= worker.deadline:
                self._time_out(worker, outcomes)

    def _take_in(self, worker: _Worker, lines: list[bytes], outcomes: list[Any]) -> None:
        for line in lines:
            if not worker.ready:
                worker.ready = True
                self._failed_starts = 0
                continue
            reply = json.loads(line)
            if "bug" in reply:
                raise GraderBug(f"the grader's own code failed in a worker:\n{reply['bug']}")
            assert worker.task is not None, "a worker answers only what it was asked"
            outcomes[worker.task] = (reply["equal"], reply["status"])
            worker.task = None

    def _time_out(self, worker: _Worker, outcomes: list[Any]) -> None:
        if not worker.ready:
            raise GraderBug(
                f"a grader process was not ready after {STARTUP_S:g} s: run python -m saei.graders.worker 0 1"
            )
        assert worker.task is not None, "only a worker with a task has a deadline"
        outcomes[worker.task] = (False, "timeout")
        self._remove(worker)

    def _lose(self, worker: _Worker, waiting: deque[int], attempts: list[int], outcomes: list[Any]) -> None:
        """A worker is gone: its task is tried again, and in the end counts as a crash."""
        self._remove(worker)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts < START_ATTEMPTS:
                return
            raise GraderBug(
                f"a grader process ended with code {worker.process.returncode} while starting: check that "
                f"{sys.executable} -c 'import saei.graders.mathematics' works"
            )
        if worker.task is None:
            return
        attempts[worker.task] += 1
        # All idle workers may have been killed at once, from outside: only after more deaths is it the answer's doing.
        if attempts[worker.task] <= self.size + SPARES:
            waiting.append(worker.task)
        else:
            outcomes[worker.task] = (False, "crash")

    def _remove(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)
