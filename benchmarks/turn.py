"""One turn of a contender: its seconds, their split, what it generated, and how much memory it took."""

import contextlib
import ctypes
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """`phases` add up to `seconds`; `lengths` are those of the completions, `tokens` what a contender counts itself."""

    seconds: float
    phases: dict[str, float]
    lengths: tuple[int, ...] = ()
    tokens: dict[str, int] = field(default_factory=dict)
    peak_mb: float | None = None


def forget_peak() -> None:
    """Give freed memory back to the system and begin a new peak; where the system has no such thing, do nothing.

    Not before a turn that is timed: it would have to fetch its memory anew.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float | None:
    """Highest resident memory of the process since `forget_peak`; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
