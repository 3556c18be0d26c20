"""The clipped policy loss of PPO and GRPO (arXiv 1707.06347, 2402.03300; `clip_high` of its own: DAPO, 2503.14476).

Per token max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), with the importance ratio r = exp(logprobs -
old_logprobs); with `dual_clip` c, at most -A c where A < 0 (verl and EasyR1: 3, DAPO: 10; TRL has none).

Dr. GRPO, DAPO, 80/20, VEPO and VPPO are this loss with other settings (advantage rule, aggregation, group filter,
token selection, advantage shaping): rows of `saei/presets.py`, and no file here.
"""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from saei.config import LossConfig
from saei.losses.inputs import LossInputs, keep_masked
from saei.losses.policy_loss import PolicyLoss, importance_ratio


def grpo(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """Sums: `clip_low`, `clip_high`: chosen tokens whose gradient the clip took away; `importance_ratio`."""
    advantages = inputs.advantages[:, None]
    ratio = importance_ratio(inputs)
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if config.dual_clip:
        losses = torch.where(advantages < 0, torch.minimum(losses, -advantages * config.dual_clip), losses)
    return PolicyLoss(losses, clip_sums(inputs, config, ratio))


def clip_sums(
    inputs: LossInputs, config: LossConfig, ratio: Float[Tensor, "rollouts tokens"]
) -> dict[str, Num[Tensor, " rollouts"]]:
    """Per rollout: chosen tokens beyond the clip on the side where it acts, and the sum of the ratios."""
    chosen, advantages = inputs.chosen, inputs.advantages[:, None]
    return {
        "clip_low": (chosen & (ratio < 1 - config.clip_low) & (advantages < 0)).sum(dim=1),
        "clip_high": (chosen & (ratio > 1 + config.clip_high) & (advantages > 0)).sum(dim=1),
        "importance_ratio": keep_masked(ratio, inputs.mask).sum(dim=1),
    }
