"""Made-up sweeps, drawn with the standard deviations of `Variances`, and the difference that is really in them."""

import math
from functools import lru_cache

import numpy as np
from scipy import optimize
from scipy.special import expit

from analysis.variances import Variances, normal_mean


def made_up_scores(
    generator: np.random.Generator, v: Variances, arms: int, seeds: int, shift: float = 0.0
) -> np.ndarray:
    """Accuracies (1 + arms, seeds): a baseline's, then those of the arms, which `shift` logits move."""
    problem = generator.normal(v.mean, v.problem, v.problems)
    seed = generator.normal(0, v.seed, (seeds, 1))
    own = generator.normal(0, v.run, (1 + arms, seeds, 1))
    moved = np.full((1 + arms, 1, 1), shift)
    moved[0] = 0.0
    right = generator.binomial(v.completions, expit(problem + seed + own + moved))
    return right.mean(axis=2) / v.completions


def true_difference(v: Variances, shift: float) -> float:
    """Expected accuracy difference of a `shift` in logits, over all problems, seeds and runs."""
    spread = math.sqrt(v.problem**2 + v.seed**2 + v.run**2)
    return normal_mean(lambda p: p, v.mean + shift, spread) - normal_mean(lambda p: p, v.mean, spread)


@lru_cache
def shift_for(points: float, v: Variances) -> float:
    """The logits that move accuracy by `points` percentage points."""
    if points == 0:
        return 0.0
    return float(optimize.brentq(lambda shift: true_difference(v, shift) - points / 100, -5, 5))  # pyright: ignore[reportArgumentType]
