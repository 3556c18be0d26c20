"""Scores of a benchmark from its graded outputs: overall, by every fact, and by groups, with intervals.

An interval is that of a mean over clusters (items that share a picture or a problem are one): 95 %, Student's t on the
cluster-robust standard error; where all values are 0 or all are 1, the exact binomial bound for that many clusters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from saei.benchmarks.item import Benchmark, Item
from saei.evaluate import pass_at_k
from saei.schema import GREEDY, SAMPLED

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A score in [0, 1] of `n` units in `clusters` clusters; `low` and `high` None where one cluster tells nothing."""

    measure: str
    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def clustered(values: Sequence[float], clusters: Sequence[str], *, measure: str, name: str) -> Score:
    """The mean of `values` with its interval."""
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    sums = np.bincount(member, weights=data - mean, minlength=count)
    low = high = None
    if count > 1:
        error = float(np.sqrt(count / (count - 1) * (sums**2).sum())) / len(data)
        reach = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * error
        low, high = max(0.0, mean - reach), min(1.0, mean + reach)
        if mean in (0.0, 1.0):
            bound = (0.5 - CONFIDENCE / 2) ** (1 / count)
            low, high = (0.0, 1.0 - bound) if mean == 0.0 else (bound, 1.0)
    return Score(measure=measure, name=name, value=mean, low=low, high=high, n=len(data), clusters=count)


def scored(benchmark: Benchmark, items: Sequence[Item], rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    """All scores: greedy, and mean@k and pass@k where completions were sampled."""
    found: list[Score] = []
    figures = {row["item_id"]: row["figure"] for row in rows}
    cluster = {item.item_id: item.cluster or figures.get(item.item_id) or item.item_id for item in items}
    for decoding in (GREEDY, SAMPLED):
        right: dict[str, list[bool]] = {item.item_id: [] for item in items}
        for row in sorted((row for row in rows if row["decoding"] == decoding), key=lambda row: row["index"]):
            right[row["item_id"]].append(bool(row["right"]))
        count = min(map(len, right.values()))
        if count == 0:
            continue
        for measure, value in _measures(decoding, count).items():
            of_item = {item_id: value(marks) for item_id, marks in right.items()}
            for name, chosen in _sections(benchmark, items):
                ids = [item.item_id for item in chosen]
                values = [of_item[item_id] for item_id in ids]
                found.append(clustered(values, [cluster[item_id] for item_id in ids], measure=measure, name=name))
        found += _group_scores(benchmark, items, right, "greedy" if decoding == GREEDY else f"mean@{count}", count)
    return found


def _measures(decoding: str, count: int) -> dict[str, Callable[[list[bool]], float]]:
    def mean(marks: list[bool]) -> float:
        return sum(marks) / len(marks)

    if decoding == GREEDY:
        return {"greedy": mean}
    powers = [2**power for power in range(1, count.bit_length()) if 2**power < count]
    passes = {f"pass@{k}": lambda marks, k=k: pass_at_k(len(marks), sum(marks), k) for k in [*powers, count] if k > 1}
    return {f"mean@{count}": mean, **passes}


def _sections(benchmark: Benchmark, items: Sequence[Item]) -> list[tuple[str, list[Item]]]:
    """The overall score, then one for each value of each fact."""
    overall = [item for item in items if benchmark.overall(item)]
    sections = [(benchmark.overall_name, overall)] if overall else []
    for fact in benchmark.breakdown:
        by_value: dict[str, list[Item]] = {}
        for item in items:
            held = item.facts[fact]
            for value in held if isinstance(held, tuple) else (held,):
                by_value.setdefault(value, []).append(item)
        sections += [(f"{fact}: {value}", by_value[value]) for value in sorted(by_value) if value]
    return sections


def _group_scores(
    benchmark: Benchmark, items: Sequence[Item], right: Mapping[str, Sequence[bool]], measure: str, count: int
) -> list[Score]:
    """Scores of groups of items; of several completions, the mean over them."""
    sums: dict[str, dict[tuple[str, str], float]] = {}
    for index in range(count):
        marks = {item_id: of_item[index] for item_id, of_item in right.items()}
        for name, units in benchmark.groups(items, marks).items():
            totals = sums.setdefault(name, {})
            for unit, value in units.items():
                totals[unit] = totals.get(unit, 0.0) + value / count
    return [
        clustered(list(units.values()), [cluster for cluster, _ in units], measure=measure, name=name)
        for name, units in sums.items()
        if units
    ]
