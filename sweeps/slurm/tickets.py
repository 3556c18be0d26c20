"""Tickets: which Slurm job was given a trial. One small file a trial, `results/.jobs/<trial_id>.json`.

A ticket is written before sbatch is called (`job` empty, a token that is also the job's comment) and completed by
its answer, so that a runner killed in between finds its job again. It says who works on a trial, never how the trial
ended: that is in the run directory. The folder is shared by all sweeps: a trial of two sweeps is submitted once.
"""

import json
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from saei.atomic import write_json
from sweeps.locks import hold

FOLDER = ".jobs"
COMMENT = "saei-"
"""A job's comment is this and the token of its tickets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """`job` is "12" or "12_3", empty until sbatch has answered; `index` is the number in the array of `token`.

    `logs`: submitit's folder; `code`: name of the snapshot that runs; `gpus`: of the whole job; `limit_s`: its time
    limit; `parallel`: throttle of its array; `attempt`: 1 for the first submission; `from_step`: the checkpoint at
    submission; `cancelled`: by `run.py cancel`; `closed`: the runner has seen the end of the job; `earlier`: ended
    attempts, oldest first, as {job, kind, sentence}.
    """

    trial_id: str
    sweep: str
    arm: str
    seed: int
    token: str
    index: int
    logs: str
    code: str
    gpus: int
    limit_s: int
    parallel: int
    from_step: int
    job: str = ""
    submitted: float = field(default_factory=time.time)
    attempt: int = 1
    cancelled: bool = False
    closed: bool = False
    earlier: list[dict[str, Any]] = field(default_factory=list)

    @property
    def comment(self) -> str:
        return COMMENT + self.token


def ticket_path(results: Path, trial_id: str) -> Path:
    return results / FOLDER / f"{trial_id}.json"


def write_ticket(results: Path, ticket: Ticket) -> None:
    """Replace the trial's ticket at once."""
    path = ticket_path(results, ticket.trial_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(ticket))


def read_ticket(results: Path, trial_id: str) -> Ticket | None:
    """The trial's ticket; None where it was never submitted, or where the file is not a ticket."""
    try:
        return Ticket(**json.loads(ticket_path(results, trial_id).read_text()))
    except (OSError, ValueError, TypeError):  # half a file, bytes that are no text, fields of other code
        return None


def read_tickets(results: Path) -> dict[str, Ticket]:
    """All tickets of a results folder by trial id."""
    found = (read_ticket(results, path.stem) for path in sorted((results / FOLDER).glob("[!.]*.json")))
    return {ticket.trial_id: ticket for ticket in found if ticket is not None}


def update_ticket(results: Path, trial_id: str, **changes: Any) -> Ticket | None:
    """Change fields of the trial's ticket, as it is on disk now. None where there is none."""
    with changing(results):
        found = read_ticket(results, trial_id)
        if found is None:
            return None
        changed = replace(found, **changes)
        write_ticket(results, changed)
        return changed


def changing(results: Path) -> AbstractContextManager[None]:
    """A context in which nobody else submits or changes tickets under `results`."""
    return hold(results / FOLDER / ".lock", wait=True)
