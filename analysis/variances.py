"""How much do seeds, runs and problems vary? The standard deviations behind made-up sweeps, and their measurement.

A made-up score: each problem has a difficulty (logit, normal), each training seed shifts all problems of both arms
(what pairing removes), each run shifts its own (what pairing leaves), and k completions a problem are drawn.
"""

# pandas carries no types that a checker can follow
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import optimize
from scipy.special import expit

from analysis.contrasts import pairs
from analysis.load import SweepData
from saei.schema import FINISHED, SAMPLED


@dataclass(frozen=True, kw_only=True, slots=True)
class Variances:
    """Standard deviations in logits, but for counts: `problems` of the test split, `completions` of each."""

    mean: float
    problem: float
    seed: float
    run: float
    problems: int
    completions: int


MEASURED = Variances(mean=1.066, problem=2.377, seed=0.168, run=0.0, problems=128, completions=8)
"""`measured` on `results/reference/methods` (24 arms, 3 seeds, 40 steps): the pairs, which share their noise, differ no
more than the draw of completions explains."""
HARSH = replace(MEASURED, run=0.24)
"""Per-seed differences of sd 4.6 points, three times the measured ones, as longer training might have; not measured."""
VARIANCES = {"measured": MEASURED, "harsh": HARSH}


def difference_sd(v: Variances) -> float:
    """Standard deviation of a per-seed difference, as a share: two runs' own shifts, and the draw of completions."""
    slope, spread = _slope(v.mean, v.problem), v.completions * v.problems
    return math.sqrt(2 * (v.run * slope) ** 2 + 2 * slope / spread)


def measured(data: SweepData) -> Variances:
    """Moment estimates from the finished runs of a sweep, last step, test split.

    The sd of a per-seed difference is that of all arms against their baseline, pooled; what the draw of completions
    does not explain of it is `run`. Arms of under two pairs, and those that drop groups, are left out. Raises
    ValueError where none is left.
    """
    runs = _runs(data)
    scores = runs.pivot(index="seed", columns="arm", values="accuracy")
    compared = [(arm, against) for arm, against in pairs(data) if against and not {arm, against} & set(data.filtering)]
    differences = [
        (scores[arm] - scores[against]).dropna() for arm, against in compared if {arm, against} <= set(scores.columns)
    ]
    differences = [values for values in differences if len(values) > 1]
    if not differences:
        raise ValueError(f"{data.name} has no arm with two finished seeds beside its baseline's: nothing to measure")
    paired = float(np.mean([values.var() for values in differences]))
    total = float(scores.var().mean())
    drawn = float(runs["drawn"].mean())
    mean, problem = _difficulty(float(runs["accuracy"].mean()), float(runs["doubt"].mean()))
    slope = _slope(mean, problem)
    return Variances(
        mean=mean,
        problem=problem,
        seed=math.sqrt(max(0.0, total - paired / 2)) / slope,
        run=math.sqrt(max(0.0, paired / 2 - drawn)) / slope,
        problems=int(runs["problems"].median()),
        completions=int(runs["completions"].median()),
    )


def _runs(data: SweepData) -> pd.DataFrame:
    """A row per finished run: arm, seed, accuracy, `doubt` (mean p (1 - p)), `drawn` (variance from completions)."""
    items = data.table("problems")
    items = items[(items["split"] == data.test_split) & (items["decoding"] == SAMPLED) & (items["state"] == FINISHED)]
    items = items[items["step"] == items.groupby("trial_id")["step"].transform("max")]
    problems = items.rename(columns={"accuracy": "mean", "samples": "size"})[["arm", "seed", "mean", "size"]]
    # unbiased for p (1 - p)
    problems["doubt"] = problems["mean"] * (1 - problems["mean"]) * problems["size"] / (problems["size"] - 1)
    grouped = problems.groupby(["arm", "seed"], observed=True)
    runs = grouped.agg(
        accuracy=("mean", "mean"), doubt=("doubt", "mean"), problems=("mean", "size"), completions=("size", "median")
    ).reset_index()
    return runs.assign(arm=runs["arm"].astype(str), drawn=runs["doubt"] / (runs["completions"] * runs["problems"]))


def normal_mean(function: Callable[[np.ndarray], np.ndarray], mean: float, sd: float) -> float:
    """Mean of a function of p, where logit p is normal (Gauss-Hermite)."""
    nodes, weights = _nodes()
    return float(weights @ function(expit(mean + sd * nodes)))


@lru_cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(81)
    return nodes, weights / weights.sum()


def _slope(mean: float, sd: float) -> float:
    """Accuracy gained per logit: the mean of p (1 - p)."""
    return normal_mean(lambda p: p * (1 - p), mean, sd)


def _difficulty(accuracy: float, doubt: float) -> tuple[float, float]:
    """Mean and sd of the problems' logits that give this accuracy and this mean of p (1 - p)."""

    def off(found: np.ndarray) -> list[float]:
        return [normal_mean(lambda p: p, *found) - accuracy, _slope(*found) - doubt]

    found = np.asarray(optimize.fsolve(off, [math.log(accuracy / (1 - accuracy)), 1.5]))
    return float(found[0]), abs(float(found[1]))
