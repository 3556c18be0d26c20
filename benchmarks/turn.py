"""One turn of a contender: its seconds, their split, what it generated, and how much memory it took."""

import contextlib
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """`phases` add up to `seconds`; `lengths` are those of the completions, `tokens` what a contender counts itself.

    `cpu_seconds` are those that all threads of the process computed: other load on the machine disturbs them less.
    `grown_mb` is by how much its peak of resident memory was above what the process held before.
    """

    seconds: float
    cpu_seconds: float
    phases: dict[str, float]
    lengths: tuple[int, ...] = ()
    tokens: dict[str, int] = field(default_factory=dict)
    grown_mb: float | None = None


def stopwatch() -> Callable[[], tuple[float, float]]:
    """What says how many seconds went by since now, and how many of them were computed, summed over threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: (time.perf_counter() - wall, time.process_time() - cpu)


def growth() -> Callable[[], float | None]:
    """What says by how many MB the process was, at its peak since now, above now; None where the system is not Linux.

    Freed memory is given back first. Not before a turn that is timed: it would have to fetch its memory anew.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _peak_mb()
        return lambda: _peak_mb() - before
    return lambda: None


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
