"""What would a launch do and cost? The trial table and the estimate of `--dry-run`."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sweeps.live import duration
from sweeps.past import DEFAULT_REST, Figures, PastRuns
from sweeps.trial import Trial, find_twin, finished_folder, is_busy, status


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


def cost_line(
    trials: Sequence[Trial], results: Path, jobs: int, *, gpus: int = 0, on_slurm: bool = False, processes: int = 1
) -> str:
    """Time and GPU-hours of what is missing, with evaluation and start-up. `gpus`, `processes`: of one trial."""
    missing = [trial for trial in trials if is_missing(trial)]
    if not missing:
        return "Nothing to run: every trial is finished."
    past = PastRuns(results, on_slurm=on_slurm, processes=processes)
    steps = sum(trial.config.steps - _step(trial) for trial in missing)
    seconds = sum(past.seconds(trial.config, from_step=_step(trial)) for trial in missing)
    found = [past.figures(trial.config) for trial in missing]
    speed = sum((trial.config.steps - _step(trial)) * one.step_s for trial, one in zip(missing, found, strict=True))
    at_once = min(jobs, len(missing))
    return (
        f"To run: {len(missing)} of {len(trials)} trials, {steps} steps of {speed / max(1, steps):.2f} s, and "
        f"evaluation and start-up: {duration(seconds)} of one worker, about {duration(seconds / at_once)} with "
        f"{at_once} at a time; {hours_text(seconds * max(1, gpus) / 3600, gpus)}.\n{sources(found, on_slurm=on_slurm)}"
    )


def _step(trial: Trial) -> int:
    return min(status(trial).get("step", 0), trial.config.steps)


def sources(figures: Sequence[Figures], *, on_slurm: bool, of: str = "trials") -> str:
    """Where the figures of some trials, or arms, come from, in sentences."""
    counted = Counter(figure.source for figure in figures)
    named = "; ".join(
        source if len(counted) == 1 else f"{source} (for {count} {of if count > 1 else of.removesuffix('s')})"
        for source, count in counted.most_common()
    )
    parts = [f"Figures: {named}."]
    if any(math.isnan(figure.problem_s) for figure in figures):
        parts.append(
            f"Where no past run says it, evaluation and start-up are taken as {DEFAULT_REST:.0%} of the steps."
        )
    if on_slurm and any(figure.foreign for figure in figures):
        parts.append("No like run came from the cluster: these are figures of this machine.")
    return " ".join(parts)


def hours_text(hours: float, gpus: int) -> str:
    """GPU-hours where trials have GPUs, else worker-hours; of less than a tenth, the minutes too."""
    text = f"{hours:.3g} {'GPU' if gpus else 'worker'}-hours"
    return f"{text} ({duration(hours * 3600)})" if 0 < hours < 0.1 else text


def local_gpus(device: str) -> int:
    """GPUs that a trial takes when it runs on this machine."""
    import torch

    return int(device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()))


def print_table(table: Table) -> None:
    """To stdout; wide enough for every cell where the output is not a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(table)


def describe(settings: dict[str, object]) -> str:
    """The launch's own settings in a line."""
    return json.dumps(settings, default=str) if settings else "the definition's own"
