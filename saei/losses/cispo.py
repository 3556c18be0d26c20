"""CISPO (MiniMax-M1, arXiv 2506.13585): clip the weight of a token's gradient, never the gradient itself.

Per token -sg(clip(r, 1 - clip_low, 1 + clip_high)) A logprobs. The paper has no lower bound (clip_low 1) and tunes
the upper one. TRL's `epsilon_high` is the bound on r itself, our 1 + clip_high.
"""

from saei.config import LossConfig
from saei.losses.inputs import LossInputs, keep_masked
from saei.losses.policy_loss import PolicyLoss, importance_ratio


def cispo(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """Sums: `clip_low`, `clip_high`: chosen tokens whose weight was clipped (they keep a gradient);
    `importance_ratio`, unclipped.
    """
    ratio = importance_ratio(inputs).detach()
    low, high = 1 - config.clip_low, 1 + config.clip_high
    losses = -ratio.clamp(low, high) * inputs.advantages[:, None] * inputs.logprobs
    sums = {
        "clip_low": (inputs.chosen & (ratio < low)).sum(dim=1, dtype=ratio.dtype),
        "clip_high": (inputs.chosen & (ratio > high)).sum(dim=1, dtype=ratio.dtype),
        "importance_ratio": keep_masked(ratio, inputs.mask).sum(dim=1),
    }
    return PolicyLoss(losses, sums)
