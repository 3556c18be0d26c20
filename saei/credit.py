"""Reward and advantage of every completion of a step."""

from collections.abc import Sequence

import torch

from saei.advantage import ADVANTAGES
from saei.config import Config
from saei.reward import Grade, Scorer, check_failures
from saei.types import Group

Key = tuple[str, int]


def grade_groups(scorer: Scorer, groups: Sequence[Group], config: Config) -> dict[Key, Grade]:
    """Grade every completion, in one call. Raises GraderFailure when too many could not be graded."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    problems = [group.problem for group in groups for _ in group.rollouts]
    texts = [rollout.text for rollout in rollouts]
    grades = scorer.grade(texts, problems)
    check_failures(grades, texts, config.reward.max_failure_share)
    return {rollout.key: grade for rollout, grade in zip(rollouts, grades, strict=True)}


def group_advantages(groups: Sequence[Group], rewards: dict[Key, float], config: Config) -> dict[Key, float]:
    """Advantage of each completion over its group, every view of the plan together."""
    keys = [[rollout.key for rollout in group.rollouts] for group in groups]
    matrix = torch.tensor([[rewards[key] for key in group] for group in keys], dtype=torch.float64)
    advantages = ADVANTAGES[config.advantage.rule](matrix, config.advantage.epsilon).tolist()
    return {
        key: advantage
        for of_keys, of_advantages in zip(keys, advantages, strict=True)
        for key, advantage in zip(of_keys, of_advantages, strict=True)
    }
