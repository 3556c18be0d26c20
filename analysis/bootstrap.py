"""Bootstrap over training seeds, and the interquartile mean: extras from ten seeds on, never the verdict.

Resampling so few seeds covers less than it says, so it is given only from ten seeds on, with the coverage that it had
in simulation beside it (`analysis.coverage`). The interquartile mean (IQM, arXiv 2108.13264) is the mean of the middle
half of the seeds: one run that diverged does not move it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from analysis.stats import CONFIDENCE, Interval

FEWEST_SEEDS = 10
RESAMPLES = 5_000


def interquartile_mean(values: Sequence[float] | np.ndarray, axis: int = 0) -> np.ndarray | float:
    """Mean without the lowest and the highest quarter (rounded down) of the values along an axis."""
    return scipy_stats.trim_mean(np.asarray(values, dtype=float), 0.25, axis=axis)


def seed_bootstrap(
    values: Sequence[float],
    statistic: Callable[..., Any] = interquartile_mean,
    *,
    resamples: int = RESAMPLES,
) -> Interval:
    """`percentile_interval` over seeds. Raises ValueError under FEWEST_SEEDS. The resampling seed is fixed."""
    if len(values) < FEWEST_SEEDS:
        raise ValueError(f"a bootstrap over seeds needs at least {FEWEST_SEEDS} seeds, got {len(values)}")
    return percentile_interval(values, statistic, resamples=resamples)


def percentile_interval(
    values: Sequence[float],
    statistic: Callable[..., Any],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Percentile bootstrap of `statistic` (values, axis), such as `numpy.mean`, over any number of values."""
    array = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(array), (resamples, len(array)))
    low, high = np.quantile(statistic(array[draws], axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=float(statistic(array, axis=0)), low=float(low), high=float(high), count=len(array))
