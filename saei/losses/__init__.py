"""Policy losses: a name -> a function of (LossInputs, LossConfig), one file a loss; and the loss of a micro-batch.

A loss gives a value for every token. What they all share is here: the mean over the selected tokens, the KL to the
reference, the penalty on the sampled tokens' log-probs, the entropy control. Some losses pick tokens by a statistic of
a whole batch first; `PICKS` has that half of theirs.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from saei.config import LossConfig
from saei.losses.aggregate import AGGREGATIONS
from saei.losses.cispo import cispo
from saei.losses.clip_cov import clip_cov, pick_clip_cov
from saei.losses.grpo import grpo
from saei.losses.gspo import gspo
from saei.losses.inputs import Denominator, LossInputs, keep_masked
from saei.losses.kl import KL_ESTIMATORS
from saei.losses.kl_cov import kl_cov, pick_kl_cov
from saei.losses.papo import papo
from saei.losses.policy_loss import LOG_RATIO_LIMIT, PolicyLoss
from saei.losses.sent import pick_sent_paper, pick_sent_v1, pick_sent_v2, sent, sent_v1

Loss = Callable[[LossInputs, LossConfig], PolicyLoss]
Pick = Callable[[LossInputs, LossConfig, torch.Generator], Int[Tensor, "rollouts tokens"]]

LOSSES: dict[str, Loss] = {
    "grpo": grpo,
    "gspo": gspo,
    "cispo": cispo,
    "kl_cov": kl_cov,
    "clip_cov": clip_cov,
    "sent_v1": sent_v1,
    "sent_v2": sent,
    "sent_paper": sent,
    "papo": papo,
}
"""`loss.name` -> loss of every token."""

PICKS: dict[str, Pick] = {
    "kl_cov": pick_kl_cov,
    "clip_cov": pick_clip_cov,
    "sent_v1": pick_sent_v1,
    "sent_v2": pick_sent_v2,
    "sent_paper": pick_sent_paper,
}
"""`loss.name` -> which tokens it treats apart, given a whole batch (of `loss.pick_scope`) without gradient."""

__all__ = ["AGGREGATIONS", "KL_ESTIMATORS", "LOSSES", "PICKS", "Denominator", "Loss", "LossInputs", "total_loss"]


def total_loss(
    inputs: LossInputs, config: LossConfig, denominator: Denominator
) -> tuple[Float[Tensor, ""], dict[str, Num[Tensor, " rollouts"]]]:
    """The loss (this micro-batch's share of the update batch's) and, per rollout, sums over its tokens.

    policy loss over the selected tokens, each times its engine weight where there is one, + kl_coef * KL
    + nll_coef * (-logprobs) - entropy_weight * entropy, the last three over all completion tokens. Sums are those of
    the policy loss, and `kl` where there is a reference. Raises ValueError when `kl_coef` > 0 and there is none.
    """
    aggregate, mask = AGGREGATIONS[config.aggregation], inputs.mask
    policy = LOSSES[config.name](inputs, config)
    losses = policy.losses if inputs.engine_weights is None else policy.losses * inputs.engine_weights
    loss = aggregate(keep_masked(losses, inputs.chosen), inputs.divided_by, denominator.policy_tokens, denominator)
    sums = dict(policy.sums)
    if inputs.ref_logprobs is not None:
        difference = keep_masked(inputs.ref_logprobs - inputs.logprobs, mask)
        kl = KL_ESTIMATORS[config.kl_estimator](difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
        loss = loss + config.kl_coef * aggregate(kl, mask, denominator.tokens, denominator)
        sums["kl"] = kl.sum(dim=1)
    elif config.kl_coef > 0:
        raise ValueError(f"loss.kl_coef is {config.kl_coef} but no ref_logprobs were given: load the reference policy")
    if config.nll_coef:
        nll = keep_masked(-inputs.logprobs, mask)
        loss = loss + config.nll_coef * aggregate(nll, mask, denominator.tokens, denominator)
    if inputs.entropy_weight is not None:
        assert inputs.entropy is not None, "the entropy control needs the tokens' entropies"
        bonus = keep_masked(inputs.entropy_weight[:, None] * inputs.entropy, mask)
        loss = loss - bonus.sum() / denominator.tokens
    return loss, {name: values.detach().to(inputs.logprobs.dtype) for name, values in sums.items()}
