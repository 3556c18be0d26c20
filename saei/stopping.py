"""The warning before the end: Slurm's signal makes a run stop at the end of its step, with a checkpoint.

USR2 (what submitit asks Slurm to send before a time limit or a pre-emption), and inside a Slurm job TERM too, only set
a flag; `train` looks at it between steps. After USR2 the signal goes on to the handler that was there before: that of
submitit, which puts the job back into the queue. Outside of Slurm TERM interrupts at once, as Ctrl-C does everywhere.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from saei.distributed import World
from saei.job import in_slurm

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
KILL_S = 60
"""Seconds that a process which may not end first waits to be ended with its job."""


class Warned(KeyboardInterrupt):
    """The run stopped at a step boundary because signal `number` warned it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"warned by {signal.Signals(self.number).name} that it has to end; run again to continue"


class CutShort(Exception):
    """An evaluation was left because of a warning; its rows are thrown away."""


class Stopping:
    """Which signal, if any, has warned this process. `cuts`: an evaluation is going on that may be cut short."""

    def __init__(self) -> None:
        self.number = 0
        self.cuts = False
        self._terminations = 0

    def receive(self, number: int, _: Any = None) -> None:
        """The handler of SIGNALS."""
        if number == signal.SIGTERM:
            self._terminations += 1
            if self._terminations > 1 or not in_slurm():
                raise KeyboardInterrupt
        self.number = self.number or number

    def agreed(self, world: World) -> int:
        """The signal that warned any process of the trial, 0 for none: the same answer in all of them."""
        return max(world.gathered([self.number]))

    def cut_short(self) -> None:
        """Raise CutShort in the middle of an evaluation that may be left, if this process was warned."""
        if self.cuts and self.number:
            raise CutShort


@contextmanager
def until_warned() -> Iterator[Stopping]:
    """Listen for SIGNALS, in the main thread, as Python demands. Passes USR2 on when Warned comes out of it."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, stopping.receive) for number in SIGNALS}
    try:
        yield stopping
    except Warned as warned:
        _restore(before)
        if warned.number == signal.SIGUSR2 and callable(handler := before[signal.SIGUSR2]):
            handler(signal.SIGUSR2, None)
            _await_the_end()
        raise
    finally:
        _restore(before)


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _await_the_end() -> None:
    """Only the first task of a step puts the job back; one that ended before might take the others with it."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        time.sleep(KILL_S)
