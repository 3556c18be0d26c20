"""Handing trials to sbatch, through submitit, so that a kill at any moment neither loses a job nor doubles one.

The tickets are written first, then sbatch is called, then they get their job numbers. Where a runner was killed in
between, `adopt` finds the job by its comment.
"""

import contextlib
import importlib
import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saei.cli import BadInput
from saei.config import Config
from sweeps.slurm.judge import kept_step
from sweeps.slurm.profile import Profile
from sweeps.slurm.queue import Queue
from sweeps.slurm.text import Batch, parameters, python_command
from sweeps.slurm.tickets import Ticket, changing, read_ticket, ticket_path, write_ticket
from sweeps.trial import Trial

TRAINER = "saei.train:train"
NO_TIMEOUT_LIMIT = 1_000_000
"""How often submitit may requeue a trial that ran into its time limit: the runner looks for progress instead."""
UNSEEN_S = 60.0
"""A ticket without a job is believed for so long: its sbatch may still be on its way."""

_LIMIT = re.compile(
    r"MaxSubmit|GrpSubmit|submit limit|maximum number of jobs|temporarily unable to accept|"
    r"Resource temporarily unavailable|Too many jobs",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(r"Invalid job array spec", re.IGNORECASE)
_AWAY = re.compile(
    r"Unable to contact|timed out|Connection refused|communication|Zero Bytes|Unexpected message|Transport endpoint|"
    r"authentication|not responding|Connection reset|could not find|killed for an unknown reason",
    re.IGNORECASE,
)


class TooMany(RuntimeError):
    """Slurm takes no more jobs of this user at present, or no array of that many."""


class Away(RuntimeError):
    """sbatch got no clear answer: the job may or may not be there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A trial to submit, into the run directory of sweep `home`: another's, where that holds its checkpoints."""

    trial: Trial
    home: str
    before: Ticket | None

    @property
    def folder(self) -> Path:
        return self.trial.results / self.home / self.trial.trial_id

    @property
    def config(self) -> Config:
        return replace(self.trial.config, out=str(self.folder))


def demand_slurm() -> None:
    """Raise BadInput where Slurm's commands are missing."""
    for command in ("sbatch", "srun", "squeue"):
        if shutil.which(command) is None:
            raise BadInput(
                f"--on slurm: there is no {command} on PATH; log in to the cluster's submit node, use --on local, or "
                "add --dry-run to see what would be submitted"
            )


def new_token() -> str:
    return uuid.uuid4().hex[:12]


def submit(wanted: Sequence[Wanted], profile: Profile, batch: Batch, trainer: str = TRAINER) -> list[Ticket]:
    """Submit them as one array; returns their tickets, fewer where another runner was faster.

    Raises BadInput with sbatch's words where it refuses, TooMany where it takes none now, Away where that is unclear.
    """
    results = batch.results
    with changing(results):
        free = [one for one in wanted if _is_free(results, one)]
        if not free:
            return []
        batch = replace(batch, count=len(free), throttle=min(batch.throttle, len(free)))
        tickets = [_ticket(one, index, profile, batch) for index, one in enumerate(free)]
        for ticket in tickets:
            write_ticket(results, ticket)
        try:
            jobs = _sbatch([one.config for one in free], profile, batch, trainer)
        except (BadInput, TooMany):
            _take_back(results, free, batch)
            raise
        tickets = [replace(ticket, job=job) for ticket, job in zip(tickets, jobs, strict=True)]
        for ticket in tickets:
            write_ticket(results, ticket)
        return tickets


def _is_free(results: Path, one: Wanted) -> bool:
    """Is its ticket still the one that was looked at?"""
    now = read_ticket(results, one.trial.trial_id)
    return now is None or (now.closed and (one.before is None or now.token == one.before.token))


def _ticket(one: Wanted, index: int, profile: Profile, batch: Batch) -> Ticket:
    before = one.before
    same_home = before is not None and before.sweep == one.home
    return Ticket(
        trial_id=one.trial.trial_id,
        sweep=one.home,
        arm=before.arm if before is not None and same_home else one.trial.arm,
        seed=one.trial.seed,
        token=batch.token,
        index=index,
        logs=str(batch.logs),
        code=batch.code.name,
        gpus=profile.gpus_per_trial,
        limit_s=profile.limit_s,
        parallel=batch.throttle,
        from_step=kept_step(one.folder),
        attempt=before.attempt + 1 if before is not None else 1,
        earlier=before.earlier if before is not None else [],
    )


def _take_back(results: Path, wanted: Sequence[Wanted], batch: Batch) -> None:
    """As if sbatch had not been called."""
    for one in wanted:
        if one.before is not None:
            write_ticket(results, one.before)
        else:
            ticket_path(results, one.trial.trial_id).unlink(missing_ok=True)
    shutil.rmtree(batch.logs, ignore_errors=True)


def _sbatch(configs: Sequence[Config], profile: Profile, batch: Batch, trainer: str) -> list[str]:
    """Job numbers in the order of `configs`."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    batch.logs.mkdir(parents=True, exist_ok=True)
    said = io.StringIO()
    try:
        with _no_job_environment(), contextlib.redirect_stderr(said):  # submitit prints what it also raises
            executor = SlurmExecutor(batch.logs, max_num_timeout=NO_TIMEOUT_LIMIT, python=python_command(profile))
            executor.update_parameters(**parameters(profile, batch))
            jobs = executor.map_array(load(trainer), configs)
    except FailedSubmissionError as error:
        raise Away(str(error)) from error
    except FailedJobError as error:
        raise _refusal(str(error) or said.getvalue()) from error
    return [job.job_id for job in jobs]


def _refusal(words: str) -> Exception:
    """What sbatch's words mean for the runner."""
    line = " ".join(part.removeprefix("sbatch: ").removeprefix("error: ") for part in words.splitlines()).strip()
    if _LIMIT.search(line) or _TOO_LONG.search(line):
        return TooMany(line)
    if not line or _AWAY.search(line):
        return Away(line or "sbatch ended without a word")
    return BadInput(f"sbatch refused the jobs: {line}. Mend the profile (--dry-run shows the text), then launch again")


def load(trainer: str) -> Callable[..., Any]:
    """The function "module:name"; it is pickled by that name."""
    module, _, function = trainer.partition(":")
    return getattr(importlib.import_module(module), function)


@contextlib.contextmanager
def _no_job_environment() -> Iterator[None]:
    """Within a job, its variables would become options of what is submitted; where Slurm is must stay known."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_CONF_SERVER")
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if name.startswith(("SLURM_", "SLURMD_", "SRUN_")) and name not in kept]
    before = {name: os.environ.pop(name) for name in names if inside}
    try:
        yield
    finally:
        os.environ.update(before)


def adopt(trial: Trial, ticket: Ticket, queue: Queue, trainer: str = TRAINER) -> Ticket | None:
    """The ticket with its job, where a runner was killed before it could note it; None where there is no such job.

    The job waits a minute for the pickle that the killed runner did not name, so it is written again.
    """
    wanted = f"_{ticket.index}"
    found = next(
        (fact for fact in queue.by_comment(ticket.comment)
         if fact.job.endswith(wanted) or ("_" not in fact.job and ticket.index == 0)),
        None,
    )  # fmt: skip
    if found is None:
        return None
    from submitit.core.utils import DelayedSubmission, JobPaths

    pickle = JobPaths(ticket.logs, job_id=found.job).submitted_pickle
    if found.is_living and not pickle.exists():
        config = replace(trial.config, out=str(trial.results / ticket.sweep / trial.trial_id))
        delayed = DelayedSubmission(load(trainer), config)
        delayed.set_timeout(ticket.limit_s // 60, NO_TIMEOUT_LIMIT)
        pickle.parent.mkdir(parents=True, exist_ok=True)
        temporary = pickle.with_name(f".{pickle.name}.{os.getpid()}")
        delayed.dump(temporary)
        os.replace(temporary, pickle)
    return replace(ticket, job=found.job)


def is_on_its_way(ticket: Ticket) -> bool:
    """May the sbatch of a ticket without a job still be running?"""
    return time.time() - ticket.submitted < UNSEEN_S
