"""Ctrl-C while a command still loads its packages: nothing has begun, so it ends without a traceback.

A command line calls `leave_quietly` before its own imports; `saei.cli.run_main` ends it.
"""

import os
import signal


def leave_quietly() -> None:
    """From now on Ctrl-C ends this process at once, with exit code 130, unless somebody handles it already."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def loaded() -> None:
    """Ctrl-C is KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    os.write(2, b"\ninterrupted while loading; nothing had begun\n")
    os._exit(130)
