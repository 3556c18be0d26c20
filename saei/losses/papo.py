"""PAPO (arXiv 2507.06448): the clipped loss, less a reward for what the policy owes to the image.

Per token GRPO's loss - perception_coef min(k3(d), 10), with d = perturbed_logprobs - logprobs within +-20: log-probs of
the same token under the masked image (`score.view` mask) and under the clean one. The perturbed ones are of the weights
before the step's first update and carry no gradient (official default). The term is averaged like the policy loss it
belongs to, over the same tokens. PAPO's entropy penalty on the clean image is `loss.nll_coef`; the one on the masked
image has no gradient and is left out.
"""

from jaxtyping import Float
from torch import Tensor

from saei.config import LossConfig
from saei.losses.grpo import grpo
from saei.losses.inputs import LossInputs, keep_masked
from saei.losses.kl import k3
from saei.losses.policy_loss import LOG_RATIO_LIMIT, PolicyLoss

DIVERGENCE_LIMIT = 10.0
"""Bound on a token's k3 (official code); no gradient beyond."""


def papo(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """Sums as GRPO's."""
    policy = grpo(inputs, config)
    return PolicyLoss(policy.losses - config.perception_coef * visual_divergence(inputs), policy.sums)


def visual_divergence(inputs: LossInputs) -> Float[Tensor, "rollouts tokens"]:
    """min(k3, 10) in nats per token, 0 on padding."""
    assert inputs.perturbed_logprobs is not None, "papo needs log-probs under the masked image"
    difference = keep_masked(inputs.perturbed_logprobs.detach() - inputs.logprobs, inputs.mask)
    return k3(difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)).clamp(max=DIVERGENCE_LIMIT)
