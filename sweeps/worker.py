"""What a local worker process runs: one trial, under the trial's lock, for as long as its runner lives."""

import importlib
import os
import signal
import threading
import time
from pathlib import Path

from saei.loading import uncollected
from sweeps.locks import Held, hold, is_held
from sweeps.trial import Trial, settle

FINISHED, BUSY, INTERRUPTED = "finished", "busy", "interrupted"
GRACE_S = 20.0
"""Seconds an orphaned worker gets to write its status before it ends itself."""


def work(trial: Trial, trainer: str, runner_lock: Path) -> str:
    """Train `trial` with `trainer` ("module:function"). Returns how it ended; the run directory holds the rest.

    SIGTERM interrupts it as Ctrl-C would. BUSY: another process has this trial.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_watch, args=(runner_lock, os.getppid()), daemon=True).start()
    module, _, function = trainer.partition(":")
    try:
        with hold(trial.lock):
            if not settle(trial):  # another sweep may have finished the equal trial meanwhile
                with uncollected():
                    train = getattr(importlib.import_module(module), function)
                train(trial.config)
    except Held:
        return BUSY
    except KeyboardInterrupt:
        return INTERRUPTED
    except RuntimeError as error:
        if type(error).__name__ == "RunBusy":  # saei.recorder's; importing it would load torch
            return BUSY
        raise
    return FINISHED


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _watch(runner_lock: Path, parent: int) -> None:
    """End this process when the runner or submitit's controller is gone: nobody would see or stop it."""
    while os.getppid() == parent and is_held(runner_lock):
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(130)
