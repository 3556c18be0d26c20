"""Estimators of the KL to the reference policy (http://joschu.net/blog/kl-approx.html)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


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
"""`loss.kl_estimator` -> its function of d = ref_logprobs - logprobs."""
