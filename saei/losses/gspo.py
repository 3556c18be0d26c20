"""GSPO (arXiv 2507.18071): the importance ratio of a whole completion, clipped as one.

s = exp(mean over the completion's tokens of logprobs - old_logprobs), and PPO's max(-A s, -A clip(s)) for each of its
tokens. The ratio is written so that its value at every token is s and its gradient there is s times that token's own
(the paper's GSPO-token): under `sequence_mean` the gradient is that of the sequence-level formula, and a token that is
not selected gets none. Published with clip_low 3e-4, clip_high 4e-4 and `sequence_mean`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saei.config import LossConfig
from saei.losses.grpo import clip_sums
from saei.losses.inputs import LossInputs, keep_masked
from saei.losses.policy_loss import PolicyLoss, log_ratio


def sequence_ratio(inputs: LossInputs) -> Float[Tensor, "rollouts tokens"]:
    """s at every token of the completion, with the gradient of that token alone; exp(0 + mean) on padding."""
    lengths = inputs.mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = log_ratio(inputs).detach().sum(dim=1, keepdim=True) / lengths
    own = keep_masked(inputs.logprobs - inputs.logprobs.detach(), inputs.mask)
    return (mean + own).exp()


def gspo(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """Sums: `clip_low`, `clip_high`: chosen tokens of clipped completions; `importance_ratio`: s, once a token."""
    advantages = inputs.advantages[:, None]
    ratio = sequence_ratio(inputs)
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return PolicyLoss(
        torch.maximum(-advantages * ratio, -advantages * clipped), clip_sums(inputs, config, ratio.detach())
    )
