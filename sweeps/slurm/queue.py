"""What Slurm says of jobs, from one call of squeue. Advisory: it may not answer, and its states may be unknown to us.

A job that it shows in no final state lives. One that it does not show has ended, if it answered: how, the run
directory says, and `history` where Slurm keeps accounts.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.slurm.tickets import COMMENT, FOLDER, Ticket

TIMEOUT_S = 20.0
ENDED = frozenset({
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "OUT_OF_MEMORY",
    "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL",
})  # fmt: skip
"""Slurm's final states; anything else that squeue shows is a job that lives, words that we do not know included."""
_SEPARATOR = "\x1f"
_FIELDS = ("%i", "%T", "%U", "%N", "%L", "%M", "%r", "%j", "%k")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFact:
    """`job` is "12" or "12_3"; `state` Slurm's word; `reason` why it waits; times in seconds, None: unknown."""

    job: str
    name: str
    state: str
    reason: str = ""
    node: str = ""
    time_left_s: float | None = None
    elapsed_s: float | None = None
    comment: str = ""
    user: int = -1

    @property
    def is_living(self) -> bool:
        """Pending, running, ending or requeued: not over."""
        return self.state not in ENDED

    @property
    def is_pending(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """`jobs` by id; `answered` is False, and `problem` says why, where squeue did not answer: nothing is known then."""

    answered: bool
    jobs: dict[str, JobFact] = field(default_factory=dict)
    problem: str = ""

    def of(self, ticket: Ticket) -> JobFact | None:
        """The ticket's job; None where squeue does not show it, or shows another job under its number."""
        fact = self.jobs.get(ticket.job) if ticket.job else None
        return fact if fact is not None and is_same(fact, ticket) else None

    def by_comment(self, comment: str) -> list[JobFact]:
        """Jobs that were submitted with this comment."""
        return [fact for fact in self.jobs.values() if fact.comment == comment]

    @property
    def own_living(self) -> int:
        """How many jobs of this user are in the queue, ours or not: what submit limits count."""
        return sum(fact.is_living and fact.user == os.getuid() for fact in self.jobs.values())


def is_same(fact: JobFact, ticket: Ticket) -> bool:
    """Is it the ticket's job? A controller that lost its state gives numbers out again; some sites set comments."""
    if fact.comment.startswith(COMMENT):
        return fact.comment == ticket.comment
    return fact.name == job_name(ticket.sweep)


def job_name(sweep: str) -> str:
    return f"saei-{sweep}"


def look(results: Path | None = None) -> Queue:
    """The jobs of this user, ended ones included for as long as squeue shows them (Slurm's MinJobAge).

    With `results`, also the jobs of whoever submitted trials there.
    """
    users = ",".join(str(user) for user in sorted({os.getuid()} | _owners(results)))
    command = ["squeue", "-h", "-r", "-t", "all", "-u", users, "-o", _SEPARATOR.join(_FIELDS)]
    answer, problem = _ask(command)
    if answer is None:
        return Queue(answered=False, problem=problem)
    facts = (_fact(line) for line in answer.splitlines())
    return Queue(answered=True, jobs={fact.job: fact for fact in facts if fact is not None})


def history(jobs: Iterable[str], sweeps: Collection[str]) -> dict[str, str]:
    """Final states of jobs that squeue no longer shows, from sacct; {} where Slurm keeps no accounts."""
    wanted = ",".join(sorted(jobs))
    if not wanted:
        return {}
    answer, _ = _ask(["sacct", "-X", "-n", "-P", "-o", "JobID,JobName,State", "-j", wanted])
    names, found = {job_name(sweep) for sweep in sweeps}, {}
    for line in (answer or "").splitlines():
        job, _, rest = line.partition("|")
        name, _, state = rest.rpartition("|")
        if name in names and state:
            found[job] = state.split()[0].rstrip("+")  # "CANCELLED by 1000"
    return found


def cancel_jobs(jobs: list[str]) -> None:
    """scancel; a job that has ended meanwhile is no error."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scancel", "--quiet", *jobs], capture_output=True, timeout=60, check=False)


def _ask(command: list[str]) -> tuple[str | None, str]:
    """What a command of Slurm prints, or None and why it did not answer."""
    # variables such as SQUEUE_PARTITION would hide jobs
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return None, f"{command[0]} did not answer within {TIMEOUT_S:.0f} s"
    except OSError as error:
        return None, f"{command[0]}: {error.strerror}"
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        return None, said[-1] if said else f"{command[0]} ended with code {ended.returncode}"
    return ended.stdout, ""


def _fact(line: str) -> JobFact | None:
    parts = [part.strip() for part in line.split(_SEPARATOR, len(_FIELDS) - 1)]
    if len(parts) != len(_FIELDS) or not re.fullmatch(r"\d+(_\d+)?", parts[0]):
        return None  # a heading, a warning, an array that a tool shows folded
    job, state, user, node, left, elapsed, reason, name, comment = parts
    return JobFact(
        job=job,
        name=name,
        state=state,
        reason="" if reason == "None" else reason,
        node="" if node == "(null)" else node,
        time_left_s=seconds(left),
        elapsed_s=seconds(elapsed),
        comment="" if comment == "(null)" else comment,
        user=int(user) if user.isdigit() else -1,
    )


def seconds(text: str) -> float | None:
    """Slurm's "MM:SS", "HH:MM:SS" or "D-HH:MM:SS"; None for words such as UNLIMITED or NOT_SET."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def _owners(results: Path | None) -> set[int]:
    """Users who wrote tickets under `results`."""
    if results is None:
        return set()
    found = set()
    for path in (results / FOLDER).glob("[!.]*.json"):
        try:
            found.add(path.stat().st_uid)
        except OSError:
            continue
    return found
