"""The watching runner: submits what is missing, feeds the queue, submits again what Slurm took away, to the end.

It keeps nothing of its own: run directories say what is finished, tickets who has a trial, squeue which jobs live.
So it may be killed at any moment and started again; jobs go on without it.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from saei.cli import BadInput
from sweeps.budget import Budget
from sweeps.live import Screen
from sweeps.locks import Held, hold
from sweeps.outcome import Outcome
from sweeps.retry import Retries
from sweeps.slurm.feed import Feeder, max_array
from sweeps.slurm.profile import Profile
from sweeps.slurm.runner import Runner, cancel_jobs
from sweeps.slurm.snapshot import snapshot
from sweeps.slurm.submit import TRAINER, demand_slurm
from sweeps.slurm.tickets import read_ticket, read_tickets, update_ticket
from sweeps.source import Source

POLL_S = 2.0
SLOWEST_POLL_S = 15.0
LOCK_FILE = ".runner.lock"


def run_on_slurm(
    source: Source,
    screen: Screen,
    *,
    name: str,
    results: Path,
    profile: Profile,
    retries: Retries,
    budget: Budget | None,
    detach: bool,
    trainer: str = TRAINER,
    poll_s: float = POLL_S,
) -> dict[str, Outcome]:
    """Run what is not finished as Slurm jobs. Returns {trial_id: how it failed} of what failed for good.

    `detach`: submit what fits now and return. Otherwise it ends when every trial has; KeyboardInterrupt leaves the
    jobs running. Raises BadInput where Slurm is missing or refuses the profile, or where another runner has the sweep.
    """
    demand_slurm()
    results = results.resolve()
    with only_runner(results, name):
        feeder = Feeder(
            profile=profile, name=name, results=results, code=snapshot(results), folder=Path.cwd(),
            largest=max_array(profile), trainer=trainer,
        )  # fmt: skip
        for ticket in read_tickets(results).values():  # arrays of trials that this launch does not ask for, too
            feeder.know(ticket)
        runner = Runner(source=source, screen=screen, feeder=feeder, retries=retries, budget=budget, detach=detach)
        while True:
            runner.poll()
            runner.show()
            if retries.stop() is not None:
                _give_up(runner)
                break
            if runner.is_over or (detach and not runner.is_unsettled):
                break
            _pause(runner, poll_s)
        if detach and runner.watched and not runner.tokens:
            screen.note(f"nothing new was submitted: {len(runner.watched)} queued or running already")
    return runner.failed


def _give_up(runner: Runner) -> None:
    """Cancel this sweep's jobs; the trials keep their checkpoints."""
    jobs = []
    for key in runner.watched:
        ticket = read_ticket(runner.results, key)
        if ticket is not None and ticket.job and not ticket.closed and not runner.is_theirs(ticket):
            update_ticket(runner.results, key, cancelled=True)
            jobs.append(ticket.job)
    if jobs:
        cancel_jobs(jobs)
        count = f"{len(jobs)} jobs" if len(jobs) > 1 else "job"
        runner.screen.note(f"cancelled the other {count} of this sweep; the same command continues their trials")


def _pause(runner: Runner, poll_s: float) -> None:
    """Wait for the next poll: longer when nothing has changed for long."""
    quiet = time.monotonic() - runner.changed
    until = time.monotonic() + min(max(poll_s, quiet / 20), max(poll_s, SLOWEST_POLL_S))
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        runner.show()


@contextlib.contextmanager
def only_runner(results: Path, name: str) -> Iterator[None]:
    """Hold the sweep's runner lock. Raises BadInput naming who has it."""
    path = results / name / LOCK_FILE
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(path))
        except Held:
            who = path.read_text().strip() or "another process"
            raise BadInput(
                f"{name} is being run on Slurm already, by {who}; watch it with: python sweeps/run.py status {name}"
            ) from None
        path.write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
        yield
