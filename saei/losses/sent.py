"""SENT's token part (arXiv 2512.04359): a penalty on moving the tokens of low entropy. Its curriculum is elsewhere.

L: the 4/5 of the chosen tokens with the lowest entropy. All variants are -A r, without a clip, plus a weight times
penalty |logprobs - old_logprobs|; what was published as text and as code differ, so there are three:

| loss | weight | tokens of the loss |
|---|---|---|
| `sent_v2` (official code) | 2 and 1/2 on the `token_share` of L of largest and smallest covariance | all |
| `sent_v1` (older function there) | 1 on L | L, and the mean divides by them |
| `sent_paper` (our reading of the text) | 2 on the `token_share` of L of largest covariance, 1 on its rest | all |

`sent_v1`'s mean. A loss cannot change the denominator that the micro-batches share, so its tokens are scaled by
(tokens that L was taken from) / |L|; the picks carry the first number, which gives the second. Under `token_mean` the
sum of the micro-batches is then the mean over L, exactly, whatever their split: over the L of the update batch, or with
`pick_scope` micro the mean of those of the micro-batches, weighted by their tokens. With policy_select.denominator all
it is that mean times the selected share, as for any loss. Under the other aggregations only the factor remains.
Published: token_share .0002, penalty 1.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saei.config import LossConfig
from saei.losses.covariance import largest, share_count, token_covariance
from saei.losses.inputs import LossInputs
from saei.losses.kl_cov import penalised, unclipped_sums
from saei.losses.policy_loss import PolicyLoss

HIGH, LOW, REST = 1, 2, 3
"""Picks of v2 (HIGH, LOW) and paper (HIGH, REST)."""
WEIGHTS = {HIGH: 2.0, LOW: 0.5, REST: 1.0}


def pick_sent_v1(inputs: LossInputs, config: LossConfig, generator: torch.Generator) -> Int[Tensor, "rollouts tokens"]:
    """On the tokens of L: the number of tokens that L was taken from."""
    return low_entropy(inputs) * inputs.chosen.sum()


def pick_sent_v2(inputs: LossInputs, config: LossConfig, generator: torch.Generator) -> Int[Tensor, "rollouts tokens"]:
    """HIGH and LOW at the two ends of the covariance; LOW where both meet (official code)."""
    tokens = low_entropy(inputs)
    covariance, count = token_covariance(inputs, tokens), share_count(tokens, config.token_share)
    picks = HIGH * largest(covariance, tokens, count).long()
    return torch.where(largest(-covariance, tokens, count), LOW, picks)


def pick_sent_paper(
    inputs: LossInputs, config: LossConfig, generator: torch.Generator
) -> Int[Tensor, "rollouts tokens"]:
    """HIGH at the upper end of the covariance, REST on the other tokens of L."""
    tokens = low_entropy(inputs)
    high = largest(token_covariance(inputs, tokens), tokens, share_count(tokens, config.token_share))
    return torch.where(high, HIGH, REST * tokens.long())


def low_entropy(inputs: LossInputs) -> Bool[Tensor, "rollouts tokens"]:
    """L: the max(1, int(.8 n)) of the n chosen tokens with the lowest entropy; of equals, those that come first."""
    assert inputs.entropy is not None, "sent needs the tokens' entropies"
    count = _low_count(inputs.chosen.sum())
    return largest(-inputs.entropy.detach(), inputs.chosen, int(count))


def sent_v1(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """Sums: `importance_ratio`; nothing is clipped."""
    assert inputs.picks is not None, "sent_v1 needs the picks of its whole batch"
    of_low = inputs.picks > 0
    share = torch.where(of_low, _low_count(inputs.picks) / inputs.picks.clamp(min=1).to(inputs.logprobs.dtype), 1.0)
    losses = penalised(inputs, config.penalty * of_low.to(share.dtype)) / share
    return PolicyLoss(torch.where(of_low, losses, 0.0), unclipped_sums(inputs))


def sent(inputs: LossInputs, config: LossConfig) -> PolicyLoss:
    """v2 and paper, which differ in their picks. Sums: `importance_ratio`; nothing is clipped."""
    assert inputs.picks is not None, "sent needs the picks of its whole batch"
    weights = torch.zeros_like(inputs.logprobs)
    for pick, weight in WEIGHTS.items():
        weights = torch.where(inputs.picks == pick, config.penalty * weight, weights)
    return PolicyLoss(penalised(inputs, weights), unclipped_sums(inputs))


def _low_count(tokens: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    return (tokens * 4 // 5).clamp(min=1)
