"""Commands of the runner that look at a sweep, or stop it: `python sweeps/run.py status | logs | why | cancel | diff`.

All but `cancel` only read: no file is written, not even a lock. They load neither torch nor Optuna, so that 1,000
trials are shown within a second.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence

COMMANDS = {
    "status": "sweeps.commands.status:main",
    "logs": "sweeps.commands.logs:main",
    "why": "sweeps.commands.why:main",
    "cancel": "sweeps.commands.cancel:main",
    "diff": "sweeps.commands.diff:main",
}


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run the command called `name` with its arguments. Returns the exit code; raises BadInput for bad arguments."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the runner has one of its own while it is loading
    module, _, function = COMMANDS[name].partition(":")
    try:
        code: int = getattr(importlib.import_module(module), function)(list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # `run.py status | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code
