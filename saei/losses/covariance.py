"""The covariance by which KL-Cov, Clip-Cov and SENT pick tokens (arXiv 2505.22617), and how many of how many.

To first order an update lowers the entropy in proportion to Cov(logprobs, advantage), and a few tokens make up most of
it. Those are picked over a whole batch; the loss of a micro-batch only reads what was picked.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.losses.inputs import LossInputs, keep_masked


def token_covariance(inputs: LossInputs, tokens: Bool[Tensor, "rollouts tokens"]) -> Float[Tensor, "rollouts tokens"]:
    """(advantage - mean)(logprob - mean) with both means over `tokens`, and 0 elsewhere. No gradient."""
    logprobs = keep_masked(inputs.logprobs.detach(), tokens)
    advantages = keep_masked(inputs.advantages[:, None].expand_as(logprobs), tokens)
    count = tokens.sum().clamp(min=1)
    return keep_masked((advantages - advantages.sum() / count) * (logprobs - logprobs.sum() / count), tokens)


def largest(
    values: Float[Tensor, "rollouts tokens"], tokens: Bool[Tensor, "rollouts tokens"], count: int
) -> Bool[Tensor, "rollouts tokens"]:
    """The `count` tokens (or as many as there are) of the largest values; of equals, those that come first."""
    positions = tokens.flatten().nonzero()[:, 0]
    order = values.flatten()[positions].sort(descending=True, stable=True).indices
    picked = torch.zeros(tokens.numel(), dtype=torch.bool, device=tokens.device)
    picked[positions[order[:count]]] = True
    return picked.view_as(tokens)


def share_count(tokens: Bool[Tensor, "rollouts tokens"], share: float) -> int:
    """max(1, int(n share)): one token is always picked, however small the share (official code)."""
    return max(1, int(int(tokens.sum()) * share))
