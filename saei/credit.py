"""Advantage of every completion of a step, and which groups are trained on."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from saei.advantage import ADVANTAGES
from saei.config import Config
from saei.filters import GROUP_FILTERS
from saei.rollout import GroupsInProgress, Key
from saei.types import Group


def passing_groups(progress: GroupsInProgress, config: Config) -> list[Group]:
    """The groups that `filter.rule` lets through, in the order they were sampled."""
    passes = GROUP_FILTERS[config.filter.rule]
    return [
        group
        for group in progress.groups()
        if passes(
            [progress.grades[rollout.key].accuracy for rollout in group.rollouts],
            [progress.rewards[rollout.key] for rollout in group.rollouts],
        )
    ]


def group_advantages(groups: Sequence[Group], rewards: dict[Key, float], config: Config) -> dict[Key, float]:
    """Advantage of each completion over its group, every view of the plan together."""
    keys = [[rollout.key for rollout in group.rollouts] for group in groups]
    if not keys:
        return {}
    matrix = torch.tensor([[rewards[key] for key in group] for group in keys], dtype=torch.float64)
    advantages = ADVANTAGES[config.advantage.rule](matrix, config.advantage.epsilon).tolist()
    return {
        key: advantage
        for of_keys, of_advantages in zip(keys, advantages, strict=True)
        for key, advantage in zip(of_keys, of_advantages, strict=True)
    }


def update_batches(groups: Sequence[Group], updates: int) -> list[list[Group]]:
    """The step's groups split among its updates as evenly as they go; fewer updates where there are fewer groups."""
    parts = min(updates, len(groups))
    cuts = [round(len(groups) * part / parts) for part in range(parts + 1)] if parts else []
    return [list(groups[first:last]) for first, last in pairwise(cuts)]
