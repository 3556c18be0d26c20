"""In which order the trials of a list start here: seed by seed, and within a seed the long ones first.

Seed by seed, an early stop leaves complete comparisons. The long ones first, the workers end together: in four arms of
two seeds on two workers, where GRPO takes two thirds of the others' time, one of them would otherwise be idle for the
last sixth of the sweep.
"""

from collections.abc import Sequence

from saei.config import Config
from saei.views import VIEWS
from sweeps.trial import Trial

FORWARD, TRAINED = 1, 3
"""Passes of a completion through the model: alone, and with the backward pass, which is taken as two."""


def in_turn(trials: Sequence[Trial]) -> list[Trial]:
    """The trials by seed, within a seed by how much their steps do, the most first; equal ones stay as they were."""
    return sorted(trials, key=lambda trial: (trial.seed, -trial.config.steps * passes(trial.config)))


def passes(config: Config) -> int:
    """Passes of one completion through the model that a step makes: enough to tell long trials from short ones.

    Each completion is sampled, scored by the weights before the step and by whatever is compared with them, and trained
    on. A view that attacks follows a gradient at each iteration and scores the moved image.
    """
    compared = (config.score.view != "none") + (config.loss.kl_coef > 0)
    total, earlier = 0, 0
    for view, count in config.group_plan():
        if VIEWS[view].attacks:
            total += earlier * (FORWARD + TRAINED * config.view.iterations)
        total += count * ((2 + compared) * FORWARD + TRAINED)
        earlier += count
    return config.rollout.problems_per_step * total
