"""Dashboards beside the tables: what `record.trackers` names, through accelerate's trackers (its `log_with`).

They are told of the numbers of every step and of the scores of every evaluation; the parquet tables stay the truth. A
tracker that fails costs a counted warning, never the run. `trackers.json` remembers what each was told, so that a
resumed run tells no step twice.

    python -m saei.train --record.trackers tensorboard --out results/manual/run
    tensorboard --logdir results
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from saei.config import Config, to_dict
from saei.differences import flattened
from saei.distributed import World
from saei.recorder import Recorder

LEDGER_FILE = "trackers.json"
PROJECT = "saei"

OPTIONS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "tensorboard": lambda folder, _: {"logging_dir": str(folder), "run_name": "tensorboard"},
    "aim": lambda folder, _: {"logging_dir": str(folder / "aim"), "run_name": PROJECT},
    "mlflow": lambda folder, trial: {"logging_dir": str(folder / "mlflow"), "run_name": trial},
    # the id makes a resumed run continue its own line
    "wandb": lambda folder, trial: {
        "run_name": PROJECT,
        "name": trial,
        "id": trial,
        "resume": "allow",
        "dir": str(folder),
    },
}
"""Tracker -> what its class is made with, from the run directory and the trial id; others get the project's name."""


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise ValueError for a tracker that accelerate does not know, or whose package is not installed."""
    if not names:
        return
    known, available = _classes(), _available()
    for name in names:
        if name not in known:
            choice = ", ".join(sorted(known))
            raise ValueError(f"record.trackers may name {choice}, got {name!r}; {_installed(available)}")
        if name not in available:
            raise ValueError(f"record.trackers names {name}, whose package is not installed; {_installed(available)}")


def _installed(available: set[str]) -> str:
    cure = "pip install -e '.[trackers]' brings tensorboard"
    return f"installed: {', '.join(sorted(available))}" if available else f"none is installed: {cure}"


def _classes() -> dict[str, Any]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return {str(name): tracker for name, tracker in LOGGER_TYPE_TO_CLASS.items()}


def _available() -> set[str]:
    from accelerate.tracking import get_available_trackers

    return {str(name) for name in get_available_trackers()}


@contextmanager
def tracking(config: Config, recorder: Recorder, world: World) -> Iterator["Trackers"]:
    """The trackers that the settings name, in the process that writes; closed at the end."""
    trackers = Trackers(recorder.folder, recorder.log)
    if world.is_writer and config.record.trackers:
        trackers.start(config, recorder.trial_id)
    try:
        yield trackers
    finally:
        trackers.finish()


class Trackers:
    """The trackers of one run; before `start` there is none, and every method does nothing. `say` gets warnings."""

    def __init__(self, folder: Path = Path(), say: Callable[[str], None] = print) -> None:
        self.failures: dict[str, int] = {}
        self._folder, self._say = folder, say
        self._living: dict[str, Any] = {}
        self._told: dict[str, dict[str, int]] = {}

    def start(self, config: Config, trial: str) -> None:
        """Open what `config.record.trackers` names, and tell those that are new the settings."""
        self._told = self._read_ledger()
        for name in config.record.trackers:
            self._attempt(name, lambda name=name: self._start(name, config, trial))
        torch.set_num_threads(config.threads)  # accelerate may have set them

    def _start(self, name: str, config: Config, trial: str) -> None:
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())  # its trackers refuse to work without
        options = OPTIONS.get(name, lambda *_: {"run_name": PROJECT})(self._folder, trial)
        tracker = _classes()[name](**options)
        tracker.start()
        self._living[name] = tracker
        if name not in self._told:
            self._told[name] = {}
            self._write_ledger()
            settings = {key: _plain(value) for key, value in flattened(to_dict(config)).items()}
            tracker.store_init_configuration({"trial_id": trial, **settings})

    def step(self, row: Mapping[str, Any]) -> None:
        """Tell the numbers of a row of the `steps` table."""
        step = row["step"]
        self._tell("steps", {f"steps/{name}": value for name, value in row.items() if name != "step"}, step)

    def scores(self, scores: Mapping[str, float], step: int) -> None:
        """Tell the scores of an evaluation after `step` steps."""
        self._tell("scores", scores, step)

    def finish(self) -> None:
        """Close the trackers, and say how often each has failed."""
        for name, tracker in list(self._living.items()):
            self._attempt(name, tracker.finish)
        for name, count in self.failures.items():
            self._say(f"tracker {name} failed {count} times in this launch; the tables have everything")

    def _tell(self, what: str, values: Mapping[str, Any], step: int) -> None:
        numbers = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, tracker in list(self._living.items()):
            if step <= self._told[name].get(what, -1):
                continue
            # noted before it is told: a kill in between loses a point of a curve, and never draws one twice
            self._told[name][what] = step
            self._attempt(name, lambda tracker=tracker: (self._write_ledger(), tracker.log(numbers, step=step)))

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            if name not in self.failures:
                self._say(f"tracker {name} failed, the run goes on: {type(error).__name__}: {error}")
            self.failures[name] = self.failures.get(name, 0) + 1

    def _read_ledger(self) -> dict[str, dict[str, int]]:
        try:
            told = json.loads((self._folder / LEDGER_FILE).read_text())
        except (OSError, ValueError):
            return {}
        pairs = told.items() if isinstance(told, dict) else ()
        return {name: steps for name, steps in pairs if isinstance(steps, dict)}

    def _write_ledger(self) -> None:
        temporary = self._folder / f".{LEDGER_FILE}.tmp"
        temporary.write_text(json.dumps(self._told))
        os.replace(temporary, self._folder / LEDGER_FILE)


def _plain(value: Any) -> bool | int | float | str:
    """A value as every tracker takes it."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
