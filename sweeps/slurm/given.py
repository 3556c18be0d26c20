"""For the local runner: is a Slurm job about to work, or at work, on a trial? Asked of the tickets, then of squeue."""

import time
from pathlib import Path

from sweeps.slurm.queue import Queue, look
from sweeps.slurm.tickets import read_ticket
from sweeps.trial import Trial

LOOK_EVERY_S = 10.0
ASK_AGAIN_S = 120.0
"""Where squeue did not answer, which may take its whole time limit."""


class Given:
    """squeue is asked only where a trial has an open ticket, and not for every trial."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._queue, self._next_look = Queue(answered=False), 0.0

    def job_of(self, trial: Trial) -> str:
        """The living job that was given the trial; "" where there is none, or Slurm does not answer.

        Without an answer the trial may be run here: its lock keeps a job that lives after all from running it too.
        """
        ticket = read_ticket(self._results, trial.trial_id)
        if ticket is None or ticket.closed:
            return ""
        if time.monotonic() >= self._next_look:
            self._queue = look(self._results)
            self._next_look = time.monotonic() + (LOOK_EVERY_S if self._queue.answered else ASK_AGAIN_S)
        if not ticket.job:  # its runner has not read sbatch's answer
            return next((fact.job for fact in self._queue.by_comment(ticket.comment) if fact.is_living), "")
        fact = self._queue.of(ticket)
        return fact.job if fact is not None and fact.is_living else ""
