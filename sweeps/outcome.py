"""How a trial's worker or job ended, in one word, one sentence, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """FINISHED: `DONE` is there. The others, by what a runner does next, are in `sweeps.retry`."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # asked to stop, wrote its status; continues from its checkpoint
    PREEMPTED = "preempted"
    TIMED_OUT = "timed out"
    NODE_FAILED = "node failed"
    CANCELLED = "cancelled"  # by a person
    BUSY = "busy"  # another process holds the run directory
    FAILED = "failed"  # the trainer raised an error
    OUT_OF_MEMORY = "out of memory"
    DISK_FULL = "disk full"
    KILLED = "killed"  # ended without a word
    NEVER_STARTED = "never started"  # the job ended before the trainer began


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """`sentence`: what happened, with the error's own words; `cure`: what to do, or ""; `log`: where to read more.

    `error`: the error without what differs from trial to trial (paths, numbers), to tell whether two trials failed of
    the same cause; "" where there was none.
    """

    kind: Kind
    sentence: str = ""
    cure: str = ""
    error: str = ""
    log: str = ""
