"""Is this checkpoint better than that one? Two trained models on the same items; never a verdict on a method.

The unit is the item, so what is found holds for these two sets of weights on items like these, and says nothing about
another training seed. Greedy answers: McNemar's exact test. Sampled answers: the difference of mean@k per problem, with
standard errors robust to clusters, as problems that share a figure are not independent.
"""

# statsmodels carries no types
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import statsmodels.api as sm
from statsmodels.stats.contingency_tables import mcnemar

from analysis.stats import CONFIDENCE

FEWEST_CLUSTERS = 10
"""Under so many clusters no interval is given: cluster-robust errors are far too small there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPair:
    """First minus second, in accuracy. `gained`: problems only the first solved (greedy), `lost`: only the second.

    NaN where undefined; `clusters` is the number of figures (problems for greedy answers).
    """

    problems: int
    clusters: int
    difference: float
    low: float
    high: float
    p: float
    gained: int = 0
    lost: int = 0


def greedy_pair(first: Sequence[bool], second: Sequence[bool]) -> CheckpointPair:
    """McNemar's exact test on greedy answers to the same problems, in the same order; no interval.

    Raises ValueError for unequal or no problems.
    """
    one, other = _paired(first, second)
    one, other = one > 0.5, other > 0.5
    table = [
        [int((one & other).sum()), int((one & ~other).sum())],
        [int((~one & other).sum()), int((~(one | other)).sum())],
    ]
    gained, lost = table[0][1], table[1][0]
    return CheckpointPair(
        problems=len(one),
        clusters=len(one),
        difference=(gained - lost) / len(one),
        low=math.nan,
        high=math.nan,
        p=float(mcnemar(table, exact=True).pvalue),
        gained=gained,
        lost=lost,
    )


def sampled_pair(
    first: Sequence[float], second: Sequence[float], figures: Sequence[Hashable], confidence: float = CONFIDENCE
) -> CheckpointPair:
    """Difference of mean@k per problem with cluster-robust errors over `figures`, t with clusters - 1 df.

    Raises ValueError for unequal or no problems.
    """
    one, other = _paired(first, second)
    if len(figures) != len(one):
        raise ValueError(f"every problem needs its figure, got {len(figures)} figures for {len(one)} problems")
    codes = {figure: number for number, figure in enumerate(dict.fromkeys(figures))}
    groups = np.array([codes[figure] for figure in figures])
    differences = one - other
    mean = float(differences.mean())
    low = high = p = math.nan
    if len(codes) >= FEWEST_CLUSTERS:
        if np.ptp(differences) == 0:
            low, high, p = mean, mean, 1.0 if mean == 0 else 0.0
        else:
            fit = sm.OLS(differences, np.ones(len(differences))).fit(
                cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
            )
            low, high = (float(value) for value in fit.conf_int(alpha=1 - confidence)[0])
            p = float(fit.pvalues[0])
    return CheckpointPair(problems=len(one), clusters=len(codes), difference=mean, low=low, high=high, p=p)


def _paired(first: Sequence[float], second: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(one) != len(other) or len(one) == 0:
        raise ValueError(f"a pair needs the same problems, at least one: got {len(one)} and {len(other)}")
    return one, other
