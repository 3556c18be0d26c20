"""One trial as the runner sees it: its settings, its run directory, and what that directory says (DESIGN 4.4)."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei import schema
from saei.atomic import write_atomically
from saei.config import Config
from sweeps.locks import is_held


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """`config.out` is the run directory, `<results>/<sweep>/<trial_id>`."""

    trial_id: str
    arm: str
    seed: int
    config: Config

    @property
    def folder(self) -> Path:
        return Path(self.config.out)

    @property
    def results(self) -> Path:
        return self.folder.parent.parent

    @property
    def lock(self) -> Path:
        """Held by the process that works on this trial, whichever sweep asked for it."""
        return self.results / ".locks" / f"{self.trial_id}.lock"


def is_busy(trial: Trial) -> bool:
    """Is another process working on it: a worker of any sweep here, or a trainer in its directory?"""
    return is_held(trial.lock) or is_held(trial.folder / ".lock")


def finished_folder(trial: Trial) -> Path | None:
    """The directory that holds its sealed run: its own or the one that SAME_AS points to. None: not finished."""
    return sealed_folder(trial.folder)


def sealed_folder(folder: Path) -> Path | None:
    """`finished_folder` for a run directory."""
    if (folder / schema.DONE_FILE).exists():
        return folder
    try:
        pointed = folder / (folder / schema.SAME_AS_FILE).read_text().strip()
    except OSError:
        return None
    return pointed.resolve() if (pointed / schema.DONE_FILE).exists() else None


def find_twin(trial: Trial) -> Path | None:
    """The finished run of the equal trial in another sweep under the same results folder."""
    sealed = sorted(trial.results.glob(f"*/{trial.trial_id}/{schema.DONE_FILE}"))
    return next((path.parent for path in sealed if path.parent != trial.folder), None)


def point_to(trial: Trial, twin: Path) -> None:
    """Write SAME_AS, the twin's path relative to this run directory, in place of training again."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(trial.folder / schema.SAME_AS_FILE, f"{os.path.relpath(twin, trial.folder)}\n".encode())


def settle(trial: Trial) -> bool:
    """Is nothing left to do? Points to a finished twin where there is one; removes a pointer to nothing."""
    if finished_folder(trial) is not None:
        return True
    (trial.folder / schema.SAME_AS_FILE).unlink(missing_ok=True)
    twin = find_twin(trial)
    if twin is not None:
        point_to(trial, twin)
    return twin is not None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object at `path`, or {} when there is none (yet), or something else: half a file, bytes, a list."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


_NUMBERS = frozenset({"heartbeat", "step", "steps", "restarts", "seconds", "gpus", "world_size", "time_step"})


def read_status(folder: Path) -> dict[str, Any]:
    """`status.json` of a run directory, without what should be a number and is none; {} where there is no such file."""
    found = read_json(folder / schema.STATUS_FILE)
    return {name: value for name, value in found.items() if name not in _NUMBERS or _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def status(trial: Trial) -> dict[str, Any]:
    """Its `status.json`: step, steps, reward, entropy, time_step ... or {}."""
    return read_status(trial.folder)


def final_scores(trial: Trial) -> dict[str, float]:
    """The scores in DONE of a finished trial."""
    folder = finished_folder(trial)
    return read_json(folder / schema.DONE_FILE).get("scores", {}) if folder else {}


def validation_metric(config: Config) -> str:
    """What Optuna is told: search and pruning read the validation split only."""
    return f"{config.data.validation_split}/mean@{config.eval.samples}"


def test_metric(config: Config) -> str:
    """The reported figure: that of the last step on the test split."""
    return f"{config.data.test_split}/mean@{config.eval.samples}"
