"""Figures of a probe: means by condition, and paired differences from a second clean draw with 95 % intervals."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan, sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit

from saei.probe.conditions import CLEAN, CONTROL

Row = dict[str, Any]

LABELS = {
    "entropy_kept": "entropy, teacher-forced, kept",
    "entropy_all": "entropy, teacher-forced, all",
    "entropy_fresh": "entropy, fresh completions",
    "tokens": "tokens per completion",
    "distinct": "distinct answers, alone",
    "distinct_group": "distinct answers, group",
    "reward": "reward",
    "accuracy": "accuracy",
    "new": "solved, first clean draw not",
    "zero_signal": "zero-signal groups, alone",
    "zero_signal_group": "zero-signal groups",
    "grad_norm": "gradient norm, group",
    "grad_norm_alone": "gradient norm, alone",
    "grad_cosine": "cosine with clean group",
    "grad_cosine_alone": "cosine with first clean draw",
}
"""Column -> label, in the order of tables and figures; pass@k is added after `accuracy`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Mean over pairs of (condition - second clean draw); `half`: half the 95 % interval, NaN below two pairs."""

    step_size: float
    condition: str
    metric: str
    mean: float
    half: float
    pairs: int


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, int]:
    """Mean, half the 95 % interval (t distribution, sd / sqrt(n)), and n; values that are NaN are left out."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[~np.isnan(finite)]
    n = len(finite)
    if n == 0:
        return nan, nan, 0
    half = float(stdtrit(n - 1, 0.975)) * float(finite.std(ddof=1)) / sqrt(n) if n > 1 else nan
    return float(finite.mean()), half, n


def metrics(columns: Collection[str]) -> dict[str, str]:
    """Metric -> label, of those that `columns` has."""
    labels: dict[str, str] = {}
    for column, label in LABELS.items():
        if column in columns:
            labels[column] = label
        if column == "accuracy":
            passes = sorted((c for c in columns if c.startswith("pass_at_")), key=lambda c: int(c[8:]))
            labels |= {c: c.replace("pass_at_", "pass@") for c in passes}
    return labels


def by_condition(rows: Sequence[Row], step_size: float) -> dict[str, list[Row]]:
    """Rows of one step size under each condition; those without a size (`step_size` NaN) belong to every size."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if isnan(row["step_size"]) or row["step_size"] == step_size:
            found.setdefault(row["condition"], []).append(row)
    return found


def columns(rows: Sequence[Row]) -> set[str]:
    return {name for row in rows for name in row}


def level(rows: Sequence[Row], metric: str) -> float:
    """Mean of a metric, NaN left out; NaN where no row has it."""
    return interval([row.get(metric, nan) for row in rows])[0]


def differences(rows: Sequence[Row], step_size: float, unit: str) -> list[Difference]:
    """Every condition minus the second clean draw, paired over `unit` (`problem_id`, or `chunk`).

    Left out is the cosine with clean groups, for the second clean draw is one of them.
    """
    found = by_condition(rows, step_size)
    control = {row[unit]: row for row in found[CONTROL]}
    compared = [metric for metric in metrics(columns(rows)) if metric != "grad_cosine"]
    result = []
    for condition, own in found.items():
        if condition in (CLEAN, CONTROL):
            continue
        for metric in compared:
            mean, half, pairs = interval([row[metric] - control[row[unit]][metric] for row in own])
            result.append(
                Difference(step_size=step_size, condition=condition, metric=metric, mean=mean, half=half, pairs=pairs)
            )
    return result


def new_share(rows: Sequence[Row]) -> tuple[int, int]:
    """Problems solved under one condition, and how many of them no first clean completion solved."""
    return sum(row["accuracy"] > 0 for row in rows), sum(row["new"] == 1 for row in rows)


def as_rows(found: Sequence[Difference]) -> list[Row]:
    """For the table of differences."""
    return [asdict(difference) for difference in found]
