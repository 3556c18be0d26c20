"""While packages are loaded: Ctrl-C ends without a traceback, and nothing is searched for garbage.

A command line calls `leave_quietly` before its own imports; `saei.cli.run_main` ends it. What imports something heavy
later does so in `uncollected`.
"""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def leave_quietly() -> None:
    """From now on Ctrl-C ends this process at once, with exit code 130, unless somebody handles it already."""
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def loaded() -> None:
    """Ctrl-C is KeyboardInterrupt again."""
    _collect_again()
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def uncollected() -> Iterator[None]:
    """Around imports: what a module defines is no garbage, and to look for some takes a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        _collect_again()


def _collect_again() -> None:
    """A million objects of torch and transformers stay for good: later searches leave them out."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _leave(*_: object) -> None:
    os.write(2, b"\ninterrupted while loading; nothing had begun\n")
    os._exit(130)
