"""What every policy loss returns, and the importance ratio that most of them start from."""

from dataclasses import dataclass, field

from jaxtyping import Float, Num
from torch import Tensor

from saei.losses.inputs import LossInputs, keep_masked

LOG_RATIO_LIMIT = 20.0
"""exp never sees a log-ratio outside +-20 (verl, EasyR1); no gradient beyond."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Loss of every token, before any mean; and per rollout, sums over its tokens for the metrics.

    Values of tokens outside `inputs.chosen` are not read.
    """

    losses: Float[Tensor, "rollouts tokens"]
    sums: dict[str, Num[Tensor, " rollouts"]] = field(default_factory=dict)


def log_ratio(inputs: LossInputs) -> Float[Tensor, "rollouts tokens"]:
    """logprobs - old_logprobs within +-LOG_RATIO_LIMIT, 0 on padding."""
    return keep_masked(inputs.logprobs - inputs.old_logprobs, inputs.mask).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def importance_ratio(inputs: LossInputs) -> Float[Tensor, "rollouts tokens"]:
    """exp(logprobs - old_logprobs) per token, 1 on padding."""
    return log_ratio(inputs).exp()
