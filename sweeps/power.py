"""`--plan`: how many seeds, and how many GPU-hours, would find a stated effect? From the finished trials of the sweep.

The pilot's paired differences give a standard deviation; the noncentral t distribution gives the seeds with which a
two-sided paired test at 5 % finds the effect with 80 % power. A standard deviation of few seeds is itself uncertain:
its 80 % interval (chi-square) gives the optimistic and the pessimistic number. The pilot's mean difference is not used.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from sweeps.command import Command
from sweeps.definition import Sweep
from sweeps.estimate import hours_text, is_missing, print_table, sources
from sweeps.live import duration
from sweeps.past import PastRuns
from sweeps.plan import planned_seeds
from sweeps.trial import Trial, final_scores, test_metric

LEAST_PAIRS = 2
SD_CONFIDENCE = 0.8
NAMES = ("optimistic", "expected", "pessimistic")


@dataclass(frozen=True, kw_only=True, slots=True)
class Needed:
    """Of one comparison: paired pilot seeds, the sd of their differences (share, not points) with its interval, and the
    seeds that follow, in the order of NAMES (math.inf: more than `analysis.stats.MOST_SEEDS`)."""

    arm: str
    against: str
    pairs: int
    sd: tuple[float, float, float]
    seeds: tuple[float, float, float]


def needed(arm: str, against: str, differences: Sequence[float], effect: float) -> Needed:
    """What paired differences of a pilot say of the seeds that find `effect` (a share). NaN under two differences."""
    from analysis import stats

    pairs = len(differences)
    spread = sd_interval(differences) if pairs >= LEAST_PAIRS else (math.nan, math.nan, math.nan)
    low, middle, high = (stats.seeds_needed(effect, sd) for sd in spread)
    return Needed(arm=arm, against=against, pairs=pairs, sd=spread, seeds=(low, middle, high))


def sd_interval(values: Sequence[float], confidence: float = SD_CONFIDENCE) -> tuple[float, float, float]:
    """Lower end, estimate and upper end of a normal sample's standard deviation, n - 1 degrees of freedom."""
    import numpy as np
    from scipy.stats import chi2

    freedom, sd = len(values) - 1, float(np.std(values, ddof=1))
    low, high = (sd * math.sqrt(freedom / chi2.ppf((1 + sign * confidence) / 2, freedom)) for sign in (1, -1))
    return low, sd, high


def comparisons(sweep: Sweep, trials: Sequence[Trial], effect: float) -> list[Needed]:
    """The primary contrast first, then every other launched arm against the baseline."""
    scores: dict[str, dict[int, float]] = {}
    for trial in trials:
        score = final_scores(trial).get(test_metric(trial.config))
        if score is not None and math.isfinite(score):
            scores.setdefault(trial.arm, {})[trial.seed] = score
    arms = list(dict.fromkeys(trial.arm for trial in trials))
    others = [(arm, sweep.baseline) for arm in arms if arm not in (sweep.baseline, sweep.primary_contrast[0])]
    found = []
    for arm, against in (sweep.primary_contrast, *others):
        own, other = scores.get(arm, {}), scores.get(against, {})
        found.append(needed(arm, against, [own[seed] - other[seed] for seed in sorted(own.keys() & other)], effect))
    return found


def print_plan(
    command: Command, sweep: Sweep, trials: Sequence[Trial], jobs: int, *, gpus: int = 0, processes: int = 1
) -> None:
    """The seeds, GPU-hours and wall time that the effect needs, and the command that launches them. Runs nothing.

    Raises ValueError where the pilot is too small, with the command that makes one.
    """
    rows = comparisons(sweep, trials, command.effect / 100)
    primary = rows[0]
    if primary.pairs < LEAST_PAIRS:
        only = [word for arm in sweep.primary_contrast for word in ("--only", arm)]
        raise ValueError(
            f"--plan needs {LEAST_PAIRS} seeds of {primary.arm} and {primary.against} that have finished with these "
            f"settings, and finds {primary.pairs}; run first: {_command(command, [*only, '--seeds', '2'], {'only'})}"
        )
    print(
        f"{command.name}: {primary.arm} minus {primary.against} on {test_metric(trials[0].config)}; an effect of "
        f"{command.effect:g} percentage points, power 80 %, two-sided 5 %."
    )
    print_table(_seeds_table(rows))
    if primary.sd[1] == 0:
        print("The pilot's seeds agree exactly, so they say nothing of the spread: run more seeds first.")
    past = PastRuns(command.results, on_slurm=command.on == "slurm", processes=processes)
    print_table(_cost_table(primary, trials, past, jobs, gpus))
    first = {trial.arm: trial for trial in reversed(trials)}
    figures = [past.figures(trial.config) for trial in first.values()]
    print(sources(figures, on_slurm=command.on == "slurm", of="arms"))
    print(_advice(command, primary, trials))


def _seeds_table(rows: Sequence[Needed]) -> Table:
    table = Table()
    for column in ("comparison", "pilot", "sd of the difference (points)", "80 % interval", "seeds"):
        table.add_column(column, no_wrap=True)
    for number, row in enumerate(rows):
        name = f"{row.arm} - {row.against}" + " (primary)" * (number == 0)
        if row.pairs < LEAST_PAIRS:
            table.add_row(name, _paired(row.pairs), "-", "-", "-")
            continue
        low, sd, high = (f"{100 * value:.2f}" for value in row.sd)
        low_seeds, seeds, high_seeds = (_seeds(value) for value in row.seeds)
        table.add_row(name, _paired(row.pairs), sd, f"{low} to {high}", f"{seeds} ({low_seeds} to {high_seeds})")
    return table


def _paired(count: int) -> str:
    return f"{count} paired seed{'s' * (count != 1)}"


def _seeds(value: float) -> str:
    from analysis.stats import MOST_SEEDS

    return f"{value:.0f}" if math.isfinite(value) else f"> {MOST_SEEDS}"


def _cost_table(primary: Needed, trials: Sequence[Trial], past: PastRuns, jobs: int, gpus: int) -> Table:
    """All launched arms with the seeds of the primary contrast: what they take, and what is finished of it."""
    table = Table()
    unit = hours_text(1, gpus).removeprefix("1 ")
    for column in ("", "seeds", "trials", f"{unit} in all", f"{unit} still to run", f"time, {jobs} at a time"):
        table.add_column(column, no_wrap=True)
    of_arm = {trial.arm: past.seconds(trial.config) for trial in reversed(trials)}
    for name, seeds in zip(NAMES, primary.seeds, strict=True):
        if not math.isfinite(seeds):
            table.add_row(name, _seeds(seeds), "-", "-", "-", "-")
            continue
        count = len(of_arm) * int(seeds)
        done = [trial for trial in trials if trial.seed < seeds and not is_missing(trial)]
        all_s = seeds * sum(of_arm.values())
        left_s = max(0.0, all_s - sum(of_arm[trial.arm] for trial in done))
        hours = [f"{seconds * max(1, gpus) / 3600:.3g}" for seconds in (all_s, left_s)]
        at_once = max(1, min(jobs, count - len(done)))
        table.add_row(name, _seeds(seeds), str(count), *hours, duration(left_s / at_once))
    return table


def _advice(command: Command, primary: Needed, trials: Sequence[Trial]) -> str:
    """The launch for the expected number of seeds; where they were not planned, also one that plans them all."""
    wanted = primary.seeds[1]
    if not math.isfinite(wanted):
        return "That many seeds are out of reach: choose a larger effect, or evaluate on more problems."
    seeds = ["--seeds", str(int(wanted))]
    trial = next(trial for trial in trials if trial.arm == primary.arm)
    if wanted <= planned_seeds(command.results / command.name, trial):
        return f"Planned already; launch: {_command(command, seeds)}"
    fresh = ["--results", f"{command.results}-planned"]
    return (
        f"Launch the missing seeds here, marked exploratory in the report:\n  {_command(command, seeds)}\n"
        f"Or plan all of them beforehand, in a folder of their own (the pilot's seeds run again):\n"
        f"  {_command(command, [*seeds, *fresh], {'results'})}"
    )


def _command(command: Command, more: Sequence[str], leave_out: set[str] | None = None) -> str:
    """The command line of this launch without `--plan`, with other seeds."""
    left_out = leave_out or set()
    given: Mapping[str, Sequence[object]] = {
        "only": [word for arm in command.only for word in ("--only", arm)],
        "demo": ["--demo"] if command.demo else [],
        "steps": ["--steps", command.steps] if command.steps else [],
        "settings": [word for setting in command.settings for word in ("--set", setting)],
        "results": ["--results", command.results] if command.results != Path("results") else [],
        "on": ["--on", command.on, "--cluster", command.cluster] if command.on != "local" else [],
        "jobs": ["--jobs", command.jobs] if command.jobs else [],
    }
    words = [str(word) for name, part in given.items() if name not in left_out for word in part]
    return shlex.join(["python", "sweeps/run.py", command.name, *words, *more])
