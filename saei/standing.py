"""`status.json`: where a run is, for those who watch it. Never a ledger: the checkpoints and `DONE` are the truth."""

import json
import os
import time
from pathlib import Path
from typing import Any

from saei import schema
from saei.atomic import write_json
from saei.job import restarts, slurm_job

BEAT_S = 10.0
"""Seconds between heartbeats within a step or an evaluation."""


class Standing:
    """What `status.json` says of a run. `facts` are the fields that stay until they are changed.

    `seconds` is the time of all launches, as far as they could write it down.
    """

    def __init__(self, folder: Path, trial_id: str, steps: int) -> None:
        self._path = folder / schema.STATUS_FILE
        self._began, self._written = time.monotonic(), float("-inf")
        self._before = _seconds(self._path)
        self._now: dict[str, Any] = {}
        self.facts: dict[str, Any] = {
            "trial_id": trial_id,
            "steps": steps,
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "job": slurm_job(),
            "restarts": restarts(),
            "world_size": 1,
            "gpus": 0,
            "metric": None,  # mean@k of the last evaluation on the validation split
            "metric_step": None,
        }

    def write(self, state: str, *, step: int, message: str, **values: Any) -> None:
        """Replace the file. `values` stay, too."""
        self.facts |= values
        self._now = {"state": state, "step": step, "message": message}
        self._write()

    def beat(self) -> None:
        """Renew the heartbeat, if the last one is a while ago. Cheap enough for every forward pass."""
        if self._now and time.monotonic() - self._written > BEAT_S:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        seconds = round(self._before + self._written - self._began, 3)
        write_json(self._path, {**self._now, "heartbeat": time.time(), "seconds": seconds, **self.facts})


def _seconds(path: Path) -> float:
    try:
        return float(json.loads(path.read_text())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
