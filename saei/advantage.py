"""Advantages of the completions of a group: reward minus the group's baseline, perhaps over its spread.

A group is all completions of one problem, every view of the plan together. A group whose rewards are all equal
carries no signal and gets exact zeros under every rule.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def group_std(rewards: Float[Tensor, "problems group"], epsilon: float) -> Float[Tensor, "problems group"]:
    """(reward - mean) / (std + epsilon), with the unbiased (n-1) std: GRPO (arXiv 2402.03300)."""
    spread = rewards.std(dim=1, keepdim=True, correction=1)
    return _silence_equal(rewards, (rewards - rewards.mean(dim=1, keepdim=True)) / (spread + epsilon))


def group_mean(rewards: Float[Tensor, "problems group"], epsilon: float) -> Float[Tensor, "problems group"]:
    """Reward - mean, no std (`epsilon` unused): Dr. GRPO (arXiv 2503.20783).

    Dividing by the std up-weights problems that are nearly always, or nearly never, solved.
    """
    return _silence_equal(rewards, rewards - rewards.mean(dim=1, keepdim=True))


def leave_one_out(rewards: Float[Tensor, "problems group"], epsilon: float) -> Float[Tensor, "problems group"]:
    """Reward - mean of the others (`epsilon` unused): RLOO (arXiv 2402.14740); n/(n-1) times `group_mean`."""
    others = rewards.shape[1] - 1
    baseline = (rewards.sum(dim=1, keepdim=True) - rewards) / others
    return _silence_equal(rewards, rewards - baseline)


def _silence_equal(
    rewards: Float[Tensor, "problems group"], advantages: Float[Tensor, "problems group"]
) -> Float[Tensor, "problems group"]:
    """Exact zeros where all rewards of a group are equal: a rounded mean over a tiny std would leave noise."""
    equal = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(equal, torch.zeros_like(advantages), advantages)


AdvantageRule = Callable[[Float[Tensor, "problems group"], float], Float[Tensor, "problems group"]]
ADVANTAGES: dict[str, AdvantageRule] = {
    "group_std": group_std,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
}
"""`advantage.rule` -> its function (rewards of >= 2 completions a group, epsilon) -> advantages."""
