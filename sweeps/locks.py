"""Advisory locks that the kernel releases when their holder dies, so that none is ever stale.

`flock` works between processes of one machine and, on most sites, over NFS v4; where a file system ignores it, start
one runner at a time.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Held(RuntimeError):
    """Another living process holds the lock."""


@contextmanager
def hold(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file at `path`. When another process has it: wait for it, or raise Held at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise Held(f"{path} is held by another process") from None
        yield


def is_held(path: Path) -> bool:
    """Does a living process hold the lock at `path`? Nobody holds a file that does not exist."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
