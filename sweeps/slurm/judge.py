"""How a job's trial ended: the run directory first, then Slurm's state where it is known, then the job's own words."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from saei import schema
from sweeps.judging import from_run_directory
from sweeps.outcome import Kind, Outcome
from sweeps.slurm.queue import JobFact
from sweeps.slurm.tickets import Ticket
from sweeps.trial import read_status

FRUITLESS = 3
"""So many ends in a row without a newer checkpoint are a failure: more of them would be the same."""
CLOCK_SLACK_S = 5.0
"""How far the clock of a node may be behind that of the runner's machine."""

RESUBMITTED = {Kind.INTERRUPTED, Kind.PREEMPTED, Kind.TIMED_OUT, Kind.NODE_FAILED}
"""No fault of the trial: submitted again, and it continues from its checkpoint."""

_BY_STATE: dict[str, tuple[Kind, str]] = {
    "PREEMPTED": (Kind.PREEMPTED, "pre-empted by another job"),
    "TIMEOUT": (Kind.TIMED_OUT, "its time limit was reached"),
    "DEADLINE": (Kind.TIMED_OUT, "its deadline was reached"),
    "NODE_FAIL": (Kind.NODE_FAILED, "its node failed"),
    "BOOT_FAIL": (Kind.NODE_FAILED, "its node did not start"),
    "LAUNCH_FAILED": (Kind.NODE_FAILED, "its node could not start it"),
    "RECONFIG_FAIL": (Kind.NODE_FAILED, "its node could not be prepared"),
    "CANCELLED": (Kind.CANCELLED, "cancelled"),
    "REVOKED": (Kind.CANCELLED, "taken over by another cluster"),
}

_FRUITLESS_CURES = {
    Kind.TIMED_OUT: "raise time in the profile, or lower checkpoint.every: no checkpoint is written within the limit",
    Kind.PREEMPTED: "use a partition that is pre-empted less, or lower checkpoint.every",
    Kind.INTERRUPTED: "raise signal_delay_s in the profile, so that a step ends between the warning and the end, or "
    "lower checkpoint.every",
    Kind.NODE_FAILED: "look at the node's state (sinfo -R), and leave it out: [extra] exclude in the profile",
}


def judge(folder: Path, ticket: Ticket, state: str, reason: str = "") -> Outcome:
    """How the ended job of `ticket` left the trial in `folder`.

    `state` and `reason` are Slurm's, "" where it no longer knows the job.
    """
    stderr = error_log(ticket)
    since = ticket.submitted - CLOCK_SLACK_S
    ending = f"job {ticket.job}" + (f": {state}" if state and state != "FAILED" else "")
    found = from_run_directory(folder, stderr=stderr, exit_sentence=ending, since=since)
    if found.kind == Kind.FINISHED:
        return found
    if ticket.cancelled:
        return _cancelled(found, f"job {ticket.job} was cancelled by run.py cancel")
    status = status_since(folder, since)
    if status.get("state") == schema.FAILED:
        return found  # the trainer's own word, whatever became of the job afterwards
    if state == "FAILED" and reason.replace(" ", "") in ("JobLaunchFailure", "NodeDown", "NodeFail"):
        state = "NODE_FAIL"
    if not state and not status and not stderr.exists():
        said = f"Slurm no longer knows job {ticket.job}, and it left no trace"
        return replace(found, kind=Kind.NODE_FAILED, sentence=said, cure="", error="")
    if state in _BY_STATE:
        kind, words = _BY_STATE[state]
        said = f"{words} (job {ticket.job}, {state})"
        return _cancelled(found, said) if kind == Kind.CANCELLED else replace(found, kind=kind, sentence=said, cure="")
    return found


def _cancelled(found: Outcome, sentence: str) -> Outcome:
    return replace(found, kind=Kind.CANCELLED, sentence=sentence, cure="launch again: it continues", error="")


def fruitless(ticket: Ticket, outcome: Outcome, step: int) -> Outcome | None:
    """A failure, where this end is one of several in a row that were no fault of the trial but made no progress.

    `step`: of its newest checkpoint now.
    """
    if outcome.kind not in RESUBMITTED or step > ticket.from_step:
        return None
    in_a_row = 1
    for entry in reversed(ticket.earlier):
        if entry.get("kind") not in RESUBMITTED or entry.get("step") != step:
            break
        in_a_row += 1
    return no_progress(outcome, in_a_row, step) if in_a_row >= FRUITLESS else None


def no_progress(outcome: Outcome, times: int, step: int) -> Outcome:
    """The failure of a trial that was stopped so many times at the same checkpoint."""
    return replace(
        outcome,
        kind=Kind.FAILED,
        sentence=f"{outcome.kind.value} {times} times without a checkpoint after step {step}; last: {outcome.sentence}",
        cure=_FRUITLESS_CURES.get(outcome.kind, ""),
        error=f"no progress: {outcome.kind.value}",
    )


HELD = ("held", "JobHeldUser", "JobHeldAdmin")
_SIZE = "cpus, mem_gb, gpus, nodes, constraint and partition"
NEVER: dict[str, str] = {
    "PartitionTimeLimit": "time and partition", "PartitionNodeLimit": "nodes and partition",
    "PartitionConfig": "cpus, mem_gb, gpus, nodes, time and partition", "BadConstraints": _SIZE,
    "Requestednodeconfigurationisnotavailable": _SIZE, "InvalidAccount": "account", "InvalidQOS": "qos",
    "AccountNotAllowed": "account and partition", "QOSNotAllowed": "qos and partition",
    "DependencyNeverSatisfied": "extra (dependency)", "QOSMaxWallDurationPerJobLimit": "time and qos",
    "QOSMaxGRESPerJob": "gpus and qos", "QOSMaxCpuPerJobLimit": "cpus and qos", "QOSMaxMemoryPerJob": "mem_gb and qos",
    "QOSMaxNodePerJobLimit": "nodes and qos", "AssocMaxWallDurationPerJobLimit": "time and account",
    "AssocMaxGRESPerJob": "gpus and account", "AssocMaxCpuPerJobLimit": "cpus and account",
    "AssocMaxMemPerJob": "mem_gb and account", "AssocMaxNodePerJobLimit": "nodes and account",
}  # fmt: skip
"""Reasons of a waiting job that waiting does not mend, with the keys of the profile to look at.

Resources, ReqNodeNotAvail, nodes that are down and limits of a user's or group's jobs together are not: they pass.
"""


def stuck(fact: JobFact) -> str:
    """What to say of a pending job that will not start by itself; "" for one that only waits for its turn."""
    if not fact.is_pending:
        return ""
    if fact.state in ("REQUEUE_HOLD", "SPECIAL_EXIT") or any(word in fact.reason for word in HELD):
        why = fact.reason or fact.state
        return f"job {fact.job} is held ({why}); to let it go on: scontrol release {fact.job}"
    if keys := wrong_keys(fact):
        words = f"job {fact.job} will never start as it was submitted ({fact.reason})"
        return f"{words}: look at {keys} in the cluster profile"
    return ""


def wrong_keys(fact: JobFact) -> str:
    """The keys of the profile that keep a pending job from ever starting; "" for one that may start."""
    words = fact.reason.partition(",")[0].strip("()").replace(" ", "").replace("_", "")
    return NEVER.get(words, "") if fact.is_pending else ""


def never_started(fact: JobFact) -> Outcome:
    """The failure of a job that was cancelled because it could not start."""
    return Outcome(
        kind=Kind.NEVER_STARTED,
        sentence=f"Slurm would never have started job {fact.job} ({fact.reason}), so it was cancelled",
        cure=f"look at {wrong_keys(fact)} in the cluster profile (sinfo -o '%P %l %D %c %m %G %f' shows each "
        "partition's time limit and nodes with their CPUs, memory in MB, GPUs and features), then launch again",
        error=f"never started: {fact.reason}",
    )


def error_log(ticket: Ticket) -> Path:
    """Standard error of the job's first process, as submitit names it."""
    return Path(ticket.logs) / f"{ticket.job}_0_log.err"


def status_since(folder: Path, since: float) -> dict[str, Any]:
    """The trial's status, {} where it was last written before `since` (seconds of the epoch)."""
    found = read_status(folder)
    return found if (found.get("heartbeat") or 0.0) >= since else {}


def kept_step(folder: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none. Reads names only."""
    try:
        names = os.listdir(folder / schema.CHECKPOINTS_FOLDER)
    except OSError:
        return 0
    return max((int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))), default=0)
