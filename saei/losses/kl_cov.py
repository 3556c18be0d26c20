"""KL-Cov (arXiv 2505.22617): plain policy gradient, and a penalty on moving the tokens of largest covariance.

Per token -A r, plus penalty |logprobs - old_logprobs| on the `token_share` of the chosen tokens with the largest
covariance. There is no clip. The penalty is 0, and has gradient 0, in a step's first update. Published for 7B:
token_share .002, penalty 1 (verl's defaults are .0002 and .1); the official code picks in each micro-batch
(`pick_scope` micro).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saei.config import LossConfig
from saei.losses.covariance import largest, share_count, token_covariance
from saei.losses.inputs import LossInputs, keep_masked
from saei.losses.policy_loss import PolicyLoss, importance_ratio


def pick_kl_cov(inputs: LossInputs, config: LossConfig, generator: torch.Generator) -> Int[Tensor, "rollouts tokens"]:
    """1 on the tokens to penalise, at least one; nothing is drawn."""
    chosen = inputs.chosen
    return largest(token_covariance(inputs, chosen), chosen, share_count(chosen, config.token_share)).long()


def kl_cov(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """Sums: `importance_ratio`; nothing is clipped, so `clip_low` and `clip_high` are 0."""
    assert inputs.picks is not None, "kl_cov needs the picks of its whole batch"
    return PolicyLoss(penalised(inputs, config.penalty * (inputs.picks == 1)), unclipped_sums(inputs))


def penalised(inputs: LossInputs, weights: Float[Tensor, "rollouts tokens"]) -> Float[Tensor, "rollouts tokens"]:
    """-A r + weights |logprobs - old_logprobs|; unlike r, the penalty keeps its gradient beyond LOG_RATIO_LIMIT."""
    moved = keep_masked(inputs.logprobs - inputs.old_logprobs, inputs.mask).abs()
    return -inputs.advantages[:, None] * importance_ratio(inputs) + weights * moved


def unclipped_sums(inputs: LossInputs) -> dict[str, Float[Tensor, " rollouts"]]:
    """The sums of a loss without a clip."""
    ratio = keep_masked(importance_ratio(inputs).detach(), inputs.mask).sum(dim=1)
    return {"clip_low": torch.zeros_like(ratio), "clip_high": torch.zeros_like(ratio), "importance_ratio": ratio}
