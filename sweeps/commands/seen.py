"""What is known of each trial at this moment: its state, where it runs, how far it is. Reads only.

The run directory is believed first, then the locks that living processes hold, then Slurm. A word of Slurm that we do
not know is shown as it is, and no answer of Slurm changes nothing but what is shown.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from saei import schema
from sweeps.commands.holders import Holders
from sweeps.commands.recorded import Entry, read_tree, real_folder, run_folders, sweep_folders
from sweeps.outcome import Kind
from sweeps.slurm.queue import JobFact, Queue, look
from sweeps.slurm.tickets import FOLDER, Ticket, read_ticket

FINISHED, RUNNING, STARTING, QUEUED, SUBMITTED = "finished", "running", "starting", "queued", "submitted"
FAILED, STOPPED, CANCELLED, PRUNED, MISSING = "failed", "stopped", "cancelled", "pruned", "missing"
STATES = (FAILED, RUNNING, STARTING, QUEUED, SUBMITTED, STOPPED, CANCELLED, MISSING, PRUNED, FINISHED)
"""What calls for a person first. `submitted`: a ticket says so, and Slurm does not answer, or not yet."""
STALE_S = 300.0
"""Age of a heartbeat, in seconds, from which a run without a lock or a living job is taken for dead."""
SUBMITTING_S = 120.0
_STEPS_OF_SILENCE = 5
_NOT_FAILURES = {Kind.FINISHED, Kind.INTERRUPTED, Kind.PREEMPTED, Kind.TIMED_OUT, Kind.NODE_FAILED, Kind.CANCELLED,
                 Kind.BUSY}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One trial as it is now. `folder` is where its run really lies; numbers are None where nothing tells them.

    `age_s`: since the last heartbeat; `left_s`: of this run alone; `message`: its last error or remark; `spent_s` wall
    seconds so far on `gpus` GPUs, those that its job holds, 0 for a run that another sweep pays for; `shared`: which.
    """

    entry: Entry
    folder: Path
    state: str
    where: str = ""
    step: int | None = None
    steps: int | None = None
    metric: float | None = None
    age_s: float | None = None
    left_s: float | None = None
    message: str = ""
    spent_s: float = 0.0
    gpus: int = 0
    step_s: float | None = None
    shared: str = ""
    ticket: Ticket | None = None
    job: JobFact | None = None

    @property
    def is_active(self) -> bool:
        return self.state not in (FINISHED, FAILED, STOPPED, CANCELLED, PRUNED, MISSING)


@dataclass(kw_only=True)
class Surroundings:
    """What all trials of a results folder share: tickets, one answer of squeue, the locks, runs by trial id."""

    results: Path
    tickets: dict[str, Ticket]
    queue: Queue
    holders: Holders = field(default_factory=Holders)
    now: float = field(default_factory=time.time)
    host: str = field(default_factory=lambda: os.uname().nodename)

    @cached_property
    def sealed(self) -> dict[str, str]:
        """trial id -> a sweep under the same results that has finished it."""
        found: dict[str, str] = {}
        for name in sweep_folders(self.results):
            for key in run_folders(self.results / name):
                if key not in found and (self.results / name / key / schema.DONE_FILE).exists():
                    found[key] = name
        return found


def surroundings(results: Path, entries: Iterable[Entry], queue: Queue | None = None) -> Surroundings:
    """Read tickets and, only where one is open, ask squeue once (`queue` in place of asking)."""
    tickets: dict[str, Ticket] = {}
    present = _ticket_names(results)
    for key in {entry.trial_id for entry in entries} & present:
        ticket = ticket_of(results, key)
        if ticket is not None:
            tickets[key] = ticket
    if queue is None:
        is_asked = any(not ticket.closed for ticket in tickets.values())
        queue = look(results) if is_asked else Queue(answered=True)
    return Surroundings(results=results, tickets=tickets, queue=queue)


def _ticket_names(results: Path) -> set[str]:
    try:
        return {name.removesuffix(".json") for name in os.listdir(results / FOLDER) if name.endswith(".json")}
    except OSError:
        return set()


def ticket_of(results: Path, key: str) -> Ticket | None:
    """The trial's ticket; None where there is none that can be read."""
    try:
        return read_ticket(results, key)
    except ValueError:  # bytes that are no text
        return None


def see(entries: Sequence[Entry], around: Surroundings) -> list[Seen]:
    """Every trial as it is now, in the order given."""
    return [_see(entry, around) for entry in entries]


def _see(entry: Entry, around: Surroundings) -> Seen:
    folder = real_folder(entry.folder)
    shared = folder.parent.name if folder != entry.folder else ""
    done = read_tree(folder / schema.DONE_FILE)
    sealed = bool(done) or (folder / schema.DONE_FILE).exists()
    if not sealed and not folder.is_dir() and entry.trial_id in around.sealed:
        shared, sealed = around.sealed[entry.trial_id], True  # the next launch points to it
        folder = around.results / shared / entry.trial_id
        done = read_tree(folder / schema.DONE_FILE)
    status = read_tree(folder / schema.STATUS_FILE)
    ticket = around.tickets.get(entry.trial_id)
    job = around.queue.of(ticket) if ticket is not None and not ticket.closed else None
    if sealed:
        state, where = FINISHED, ""
    elif entry.pruned:
        state, where = PRUNED, ""
    else:
        state, where = _state(folder, status, ticket, job, around)
    heartbeat, steps = _number(status.get("heartbeat")), _count(status.get("steps"))
    step = _count(status.get("step"))
    if state in (STOPPED, CANCELLED, FAILED):
        step = newest_checkpoint(folder, step)
    step_s = _step_seconds(status)
    return Seen(
        entry=entry,
        folder=folder,
        state=state,
        where=where or (f"in {shared}" if shared else ""),
        step=steps if sealed and steps is not None else step,
        steps=steps,
        metric=_metric(status, done),
        age_s=None if heartbeat is None else max(0.0, around.now - heartbeat),
        left_s=None if step_s is None or step is None or steps is None or sealed else step_s * max(0, steps - step),
        message=_message(status, ticket, state),
        spent_s=0.0 if shared else _number(status.get("seconds")) or 0.0,
        gpus=max(_count(status.get("gpus")) or 0, ticket.gpus if ticket is not None else 0),
        step_s=step_s,
        shared=shared,
        ticket=ticket,
        job=job,
    )


def _state(
    folder: Path, status: dict[str, Any], ticket: Ticket | None, job: JobFact | None, around: Surroundings
) -> tuple[str, str]:
    """State and place of a trial that is not finished."""
    said = status.get("state")
    if job is not None and job.is_living:
        return _state_of_job(job, said)
    lock = folder / ".lock"
    worker_lock = around.results / ".locks" / f"{folder.name}.lock"
    pid = around.holders.pid(lock) or around.holders.pid(worker_lock)
    if pid is not None:
        return (RUNNING if said == schema.RUNNING else STARTING), f"pid {pid}"
    if said not in (None, "", schema.FAILED, schema.INTERRUPTED, schema.FINISHED) and _is_alive(lock, status, around):
        return str(said), _place(status, around.host)
    if ticket is not None and not ticket.closed:
        if not around.queue.answered:
            return SUBMITTED, f"{ticket.job or 'no job yet'}, no answer"
        if not ticket.job and around.now - ticket.submitted < SUBMITTING_S:
            return SUBMITTED, "no job yet"
    return _state_at_rest(status, ticket)


def _state_of_job(job: JobFact, said: Any) -> tuple[str, str]:
    if job.is_pending:
        return QUEUED, f"{job.job} {job.reason}".strip()
    place = f"{job.job} {job.node}".strip()
    if job.state in ("RUNNING", "COMPLETING"):
        return (RUNNING if said == schema.RUNNING else STARTING), place
    return job.state.lower().replace("_", " "), place


def _state_at_rest(status: dict[str, Any], ticket: Ticket | None) -> tuple[str, str]:
    if status.get("state") == schema.FAILED:
        return FAILED, ""
    if ticket is not None and ticket.cancelled:
        return CANCELLED, ""
    if status:
        return STOPPED, ""
    failed = ticket is not None and ticket.closed and _failure(ticket) is not None
    return (FAILED if failed else MISSING), ""


def _failure(ticket: Ticket) -> dict[str, Any] | None:
    """The ticket's last attempt where it failed."""
    last = ticket.earlier[-1] if ticket.earlier else {}
    is_failure = isinstance(last, dict) and last.get("kind") and last["kind"] not in _NOT_FAILURES
    return last if is_failure else None


def _is_alive(lock: Path, status: dict[str, Any], around: Surroundings) -> bool:
    """Does the process live that last wrote the status? On this machine its lock tells, elsewhere its heartbeat too."""
    if around.holders.is_held(lock):
        return True
    if status.get("host") == around.host:
        return False
    heartbeat = _number(status.get("heartbeat")) or 0.0
    return around.now - heartbeat < max(STALE_S, _STEPS_OF_SILENCE * (_number(status.get("time_step")) or 0.0))


def _place(status: dict[str, Any], host: str) -> str:
    if status.get("job"):
        return f"{status['job']} {status.get('host', '')}".strip()
    pid = f"pid {status['pid']}" if status.get("pid") else ""
    return pid if status.get("host") in (host, None) else f"{status['host']} {pid}".strip()


def _message(status: dict[str, Any], ticket: Ticket | None, state: str) -> str:
    """The last error or remark, one line."""
    failure = _failure(ticket) if ticket is not None else None
    text = str(status.get("message") or "") or (str(failure.get("sentence") or "") if failure else "")
    return " ".join(text.split()) if state != FINISHED else ""


def newest_checkpoint(folder: Path, step: int | None) -> int | None:
    """The step from which the next launch continues; `step` where there is no folder of checkpoints to tell."""
    try:
        names = os.listdir(folder / schema.CHECKPOINTS_FOLDER)
    except OSError:
        return step
    steps = [int(number) for name in names if (number := name.removeprefix("step-")).isdigit()]
    return max(steps, default=0)


def _metric(status: dict[str, Any], done: dict[str, Any]) -> float | None:
    """The last validation score: of the status, or the first score of DONE, which is that of the validation split."""
    found = _number(status.get("metric"))
    scores = done.get("scores")
    if found is None and isinstance(scores, dict):
        found = next((_number(value) for name, value in scores.items() if "/mean@" in str(name)), None)
    return found


def _step_seconds(status: dict[str, Any]) -> float | None:
    """Wall seconds a step, evaluations included where the run is long enough to tell; else its last step's."""
    seconds, step = _number(status.get("seconds")), _count(status.get("step"))
    last = _number(status.get("time_step"))
    if seconds and step and step >= _STEPS_OF_SILENCE:
        return seconds / step
    return last


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(value) if is_number else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
