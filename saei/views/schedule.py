"""How strong the views are at a step: NoisyRollout's decays (arXiv 2504.13055, methods.md 6.1), t counted from 1.

The strength multiplies a size (view.step_size, view.noise_level, view.mask_share, view.text_radius); at the last step
`linear`, `power` and `exponential` are 0. What a strength of 0 does is the view's to say.
"""

import math
from collections.abc import Callable

from saei.config import ViewConfig


def sigmoid(view: ViewConfig, done: float) -> float:
    """1 - sigmoid(slope * (t - gamma) / T), gamma = midpoint * T; written so that no exponential overflows."""
    return 0.5 * (1 - math.tanh(view.schedule_slope * (done - view.schedule_midpoint) / 2))


SCHEDULES: dict[str, Callable[[ViewConfig, float], float]] = {
    "constant": lambda view, done: 1.0,
    "linear": lambda view, done: 1 - done,
    "sigmoid": sigmoid,
    "power": lambda view, done: 1 - done**view.schedule_slope,
    "exponential": lambda view, done: 1 - math.exp(-view.schedule_slope * (1 - done)),
}
"""(settings, share t/T of the run) -> strength."""


def strength(view: ViewConfig, step: int, steps: int) -> float:
    """Strength in [0, 1] of the 0-based `step` of a run of `steps`. Raises ValueError for a step outside the run."""
    if not 0 <= step < steps:
        raise ValueError(f"step is in [0, {steps}), got {step}: a schedule spans the steps of its run")
    return SCHEDULES[view.schedule](view, (step + 1) / steps)
