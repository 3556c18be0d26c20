"""What would a launch do and cost? The trial table and the estimate of `--dry-run`."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from saei import schema
from sweeps.live import duration
from sweeps.trial import Trial, find_twin, finished_folder, is_busy, read_json, status

DEFAULT_STEP_S = {"tiny": 1.5}
OTHER_STEP_S = 60.0
"""Seconds per step where no run of the model was found: the tiny model on one CPU thread, and a guess for others."""


def trial_state(trial: Trial) -> str:
    """What the runner would find, in a few words. Reads only."""
    found = finished_folder(trial)
    if found is not None:
        return "finished" if found == trial.folder else f"finished: {found.parent.name}"
    twin = find_twin(trial)
    if twin is not None:
        return f"finished: {twin.parent.name}"
    if is_busy(trial):
        return "running elsewhere"
    step = status(trial).get("step")
    return "missing" if step is None else f"stopped at step {step}"


def is_missing(trial: Trial) -> bool:
    """Would the runner train it?"""
    return finished_folder(trial) is None and find_twin(trial) is None


def trial_table(trials: Sequence[Trial]) -> Table:
    """One row per trial of the launch."""
    table = Table()
    for column in ("trial", "arm", "seed", "steps", "state"):
        table.add_column(column, no_wrap=True)
    for trial in trials:
        table.add_row(trial.trial_id, trial.arm, str(trial.seed), str(trial.config.steps), trial_state(trial))
    return table


def step_seconds(results: Path, model: str) -> tuple[float, str]:
    """Median seconds per step of past runs of this model under `results`, and where the figure comes from."""
    speeds = []
    for path in results.glob(f"*/*/{schema.CONFIG_FILE}"):
        if read_json(path).get("config", {}).get("model", {}).get("path") == model:
            speeds += _median_step(path.parent)
    if speeds:
        return median(speeds), f"the median of {len(speeds)} past runs of {model}"
    return DEFAULT_STEP_S.get(model, OTHER_STEP_S), f"a default, for want of past runs of {model}"


def _median_step(run: Path) -> list[float]:
    """The run's median seconds per step, or nothing when no step is recorded (or a live run just replaced its part)."""
    try:
        parts = [pq.read_table(part, columns=["time_step"]) for part in sorted((run / "steps").glob("*.parquet"))]
    except OSError:
        return []
    seconds = [value for part in parts for value in part["time_step"].to_pylist() if value is not None]
    return [median(seconds)] if seconds else []


def cost_line(trials: Sequence[Trial], results: Path, jobs: int) -> str:
    """Steps, seconds, hours of what is missing; evaluation and start-up are not counted."""
    missing = [trial for trial in trials if is_missing(trial)]
    if not missing:
        return "Nothing to run: every trial is finished."
    seconds, source = step_seconds(results, missing[0].config.model.path)
    steps = sum(trial.config.steps - status(trial).get("step", 0) for trial in missing)
    at_once = min(jobs, len(missing))
    return (
        f"To run: {len(missing)} of {len(trials)} trials, {steps} steps of {seconds:.2f} s ({source}): "
        f"{duration(steps * seconds)} of one worker, about {duration(steps * seconds / at_once)} with {at_once} at a "
        "time; evaluation comes on top."
    )


def print_table(table: Table) -> None:
    """To stdout; wide enough for every cell where the output is not a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(table)


def describe(settings: dict[str, object]) -> str:
    """The launch's own settings in a line."""
    return json.dumps(settings, default=str) if settings else "the definition's own"
