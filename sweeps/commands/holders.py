"""Who holds a lock file, without touching it: Linux lists all locks of the machine in /proc/locks.

A lock of another machine (NFS) is not in that list; `is_held` then tries, which takes the lock for a moment, so it is
asked only about runs that claim to be running.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from sweeps.locks import is_held as try_lock

_LINE = re.compile(r"^\d+: (?:FLOCK|POSIX) .*WRITE (-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ", re.MULTILINE)


class Holders:
    """The locks of this machine at the moment of the first question."""

    def __init__(self) -> None:
        self._listed: dict[tuple[int, int, int], int] | None = None

    def pid(self, path: Path) -> int | None:
        """Process id of the holder on this machine; None where the list knows none."""
        if self._listed is None:
            self._listed = _listed()
        if not self._listed:
            return None
        try:
            found = path.stat()
        except OSError:
            return None
        return self._listed.get((os.major(found.st_dev), os.minor(found.st_dev), found.st_ino))

    def is_held(self, path: Path) -> bool:
        """Does a living process of this machine, or of one that shares locks with it, hold the file?"""
        return self.pid(path) is not None or try_lock(path)


class Runner(NamedTuple):
    """A runner that works on a sweep: its process id on this machine, or, with `pid` 0, who it says it is."""

    pid: int
    name: str


def runner_of(folder: Path, holders: Holders) -> Runner | None:
    """The living runner of the sweep in `folder`, as the locks tell; None where there is none."""
    for name in (".runner.lock", ".study.lock"):
        pid = holders.pid(folder / name)
        if pid is not None:
            return Runner(pid, f"pid {pid} on this machine")
    lock = folder / ".runner.lock"
    try:
        who = lock.read_text(errors="replace").strip()
    except OSError:
        return None
    # another machine's lock is not in the list; one of this machine that is not listed is not held
    is_elsewhere = bool(who) and not who.endswith(f" on {os.uname().nodename}")
    return Runner(0, who) if is_elsewhere and try_lock(lock) else None


def _listed() -> dict[tuple[int, int, int], int]:
    try:
        text = Path("/proc/locks").read_text()
    except OSError:
        return {}
    return {(int(major, 16), int(minor, 16), int(inode)): int(pid) for pid, major, minor, inode in _LINE.findall(text)}
