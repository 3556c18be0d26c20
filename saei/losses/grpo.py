"""The clipped policy loss of PPO and GRPO (arXiv 1707.06347, 2402.03300; `clip_high` of its own: DAPO, 2503.14476).

loss = aggregate(max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))) + kl_coef * aggregate(KL estimate), with the
importance ratio r = exp(logprobs - old_logprobs) per token. There is no dual clip (as in TRL; verl has c = 3).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from saei.config import LossConfig
from saei.losses.aggregate import AGGREGATIONS
from saei.losses.inputs import Denominator, LossInputs, keep_masked

LOG_RATIO_LIMIT = 20.0
"""exp never sees a log-ratio outside +-20 (verl, EasyR1); no gradient beyond."""


def k1(difference: Float[Tensor, "rollouts tokens"]) -> Float[Tensor, "rollouts tokens"]:
    """-d: unbiased, of either sign; as a loss its mean gradient under sampling is zero."""
    return -difference


def k2(difference: Float[Tensor, "rollouts tokens"]) -> Float[Tensor, "rollouts tokens"]:
    """d^2 / 2: biased, never negative."""
    return difference.square() / 2


def k3(difference: Float[Tensor, "rollouts tokens"]) -> Float[Tensor, "rollouts tokens"]:
    """exp(d) - d - 1: unbiased, never negative (the usual one; verl's low_var_kl)."""
    return torch.expm1(difference) - difference


KL_ESTIMATORS: dict[str, Callable[[Float[Tensor, "rollouts tokens"]], Float[Tensor, "rollouts tokens"]]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
}
"""`loss.kl_estimator` -> its function of d = ref_logprobs - logprobs (http://joschu.net/blog/kl-approx.html)."""


def grpo(
    inputs: LossInputs, config: LossConfig, denominator: Denominator
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, " rollouts"]]]:
    """The loss (this micro-batch's share of the update batch's) and, per rollout, sums over its tokens.

    `clip_low`, `clip_high`: tokens whose gradient the clip took away; `importance_ratio`; `kl` where there is a
    reference. Raises ValueError when `kl_coef` > 0 and there is none.
    """
    mask, advantages = inputs.mask, inputs.advantages[:, None]
    ratio = _importance_ratio(inputs)
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    losses = keep_masked(torch.maximum(-advantages * ratio, -advantages * clipped), mask)
    aggregate = AGGREGATIONS[config.aggregation]
    loss = aggregate(losses, mask, denominator)
    sums = {
        "clip_low": (mask & (ratio < 1 - config.clip_low) & (advantages < 0)).sum(dim=1),
        "clip_high": (mask & (ratio > 1 + config.clip_high) & (advantages > 0)).sum(dim=1),
        "importance_ratio": keep_masked(ratio, mask).sum(dim=1),
    }
    if inputs.ref_logprobs is not None:
        difference = keep_masked(inputs.ref_logprobs - inputs.logprobs, mask)
        kl = KL_ESTIMATORS[config.kl_estimator](difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
        loss = loss + config.kl_coef * aggregate(kl, mask, denominator)
        sums["kl"] = kl.sum(dim=1)
    elif config.kl_coef > 0:
        raise ValueError(f"loss.kl_coef is {config.kl_coef} but no ref_logprobs were given: load the reference policy")
    return loss, {name: values.detach().to(ratio.dtype) for name, values in sums.items()}


def _importance_ratio(inputs: LossInputs) -> Float[Tensor, "rollouts tokens"]:
    """exp(logprobs - old_logprobs), 1 on padding."""
    log_ratio = keep_masked(inputs.logprobs - inputs.old_logprobs, inputs.mask)
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
