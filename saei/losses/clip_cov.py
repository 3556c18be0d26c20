"""Clip-Cov (arXiv 2505.22617): the clipped loss, without the gradient of some tokens of large covariance.

Eligible are chosen tokens whose covariance lies in (cov_low, cov_high) and that the clip has not taken already; of
them `token_share` of all chosen tokens is drawn at random. Their loss is 0, and the means still divide by them.
Published with token_share .0002, cov_low 1, cov_high 5 and clip_low = clip_high = 1 (practically no clip); the official
code picks in each micro-batch (`pick_scope` micro).
"""

import torch
from jaxtyping import Int
from torch import Tensor

from saei.config import LossConfig
from saei.losses.covariance import share_count, token_covariance
from saei.losses.grpo import grpo
from saei.losses.inputs import LossInputs
from saei.losses.policy_loss import PolicyLoss, importance_ratio


def pick_clip_cov(inputs: LossInputs, config: LossConfig, generator: torch.Generator) -> Int[Tensor, "rollouts tokens"]:
    """1 on the tokens that lose their gradient; none where none is eligible."""
    chosen, advantages = inputs.chosen, inputs.advantages[:, None]
    covariance = token_covariance(inputs, chosen)
    ratio = importance_ratio(inputs).detach()
    clipped = -advantages * ratio.clamp(1 - config.clip_low, 1 + config.clip_high) > -advantages * ratio
    eligible = chosen & (covariance > config.cov_low) & (covariance < config.cov_high) & ~clipped
    positions = eligible.flatten().nonzero()[:, 0]
    order = torch.randperm(len(positions), generator=generator, device=generator.device).to(positions.device)
    picks = torch.zeros(eligible.numel(), dtype=torch.int64, device=eligible.device)
    picks[positions[order[: share_count(chosen, config.token_share)]]] = 1
    return picks.view_as(eligible)


def clip_cov(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """Sums as GRPO's: they say what the clip took, not what was picked."""
    assert inputs.picks is not None, "clip_cov needs the picks of its whole batch"
    policy = grpo(inputs, config)
    return PolicyLoss(torch.where(inputs.picks == 1, 0.0, policy.losses), policy.sums)
