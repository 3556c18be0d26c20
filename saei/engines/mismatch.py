"""How far an engine's log-probs are from the trainer's, and the weight that corrects for it.

Both are of the same tokens on the image that they were sampled on, so the change of image between sampling and
training (`view_gap`) is not in it. With d = engine - trainer for each token, which the engine drew:

- gap: mean |d|; largest |d|;
- k1: mean of d, an unbiased estimate of KL(engine || trainer) per token;
- k3: mean of exp(-d) - 1 + d, the same with less variance and never negative (Schulman, kl-approx);
- sequence gap: mean over completions of |sum of d|, which a ratio of whole completions would see.

Truncated importance sampling (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
training"; TRL's `token_truncate`, verl's rollout correction): each token's policy loss is multiplied by the constant
min(exp(trainer - engine), cap). A token whose log-prob the engine did not give is left alone (weight 1).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saei.types import SampledCompletion

COLUMNS = (
    "engine_gap",
    "engine_gap_max",
    "engine_kl",
    "engine_kl_k3",
    "engine_sequence_gap",
    "engine_unknown_share",
    "engine_weight",
    "engine_capped_share",
)
"""Of the `steps` table; NaN where the trainer samples itself."""


def token_truncated(completion: SampledCompletion, cap: float) -> Float[Tensor, " tokens"]:
    """min(exp(trainer - engine), cap) for each token; 1 where the engine's log-prob is not known."""
    if completion.engine_logprobs is None:
        return torch.ones_like(completion.sampler_logprobs)
    trainer = completion.sampler_logprobs
    difference = (trainer - completion.engine_logprobs.to(trainer)).nan_to_num(0)
    return difference.clamp(max=math.log(cap)).exp()


CORRECTIONS = {"token_truncated": token_truncated}
"""`loss.engine_correction` -> weights of a completion's tokens, given the cap."""


def mismatch_facts(
    completion: SampledCompletion, weight: Float[Tensor, " tokens"] | None = None
) -> dict[str, float | int]:
    """Sums over one completion's tokens; `weight` are those of its correction. Empty where the trainer sampled it."""
    if completion.engine_logprobs is None:
        return {}
    d = completion.engine_logprobs.double() - completion.sampler_logprobs.double()
    known = d.isfinite()
    d = d[known]
    facts: dict[str, float | int] = {
        "engine_known": len(d),
        "engine_unknown": int((~known).sum()),
        "engine_gap": d.abs().sum().item(),
        "engine_gap_max": d.abs().max().item() if len(d) else math.nan,
        "engine_kl": d.sum().item(),
        "engine_kl_k3": ((-d).exp() - 1 + d).sum().item(),
        "engine_sequence_gap": abs(d.sum().item()),
    }
    if weight is not None:
        own = weight.double().cpu()
        facts["engine_weight"] = own.sum().item()
        facts["engine_capped"] = int(((-d).exp() > own[known] * (1 + 1e-6)).sum())
    return facts


def mismatch_summary(facts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The columns of `steps` from the facts of its completions; NaN for what none of them has."""
    asked = [fact for fact in facts if "engine_known" in fact]
    weighed = [fact for fact in asked if "engine_weight" in fact]
    known, tokens = sum(f["engine_known"] for f in asked), sum(f["tokens"] for f in asked)
    corrected = sum(f["tokens"] for f in weighed)
    largest = [f["engine_gap_max"] for f in asked if not math.isnan(f["engine_gap_max"])]
    return {
        "engine_gap": _share(_sum(asked, "engine_gap"), known),
        "engine_gap_max": max(largest) if largest else math.nan,
        "engine_kl": _share(_sum(asked, "engine_kl"), known),
        "engine_kl_k3": _share(_sum(asked, "engine_kl_k3"), known),
        "engine_sequence_gap": _share(_sum(asked, "engine_sequence_gap"), len(asked)),
        "engine_unknown_share": _share(_sum(asked, "engine_unknown"), tokens),
        "engine_weight": _share(_sum(weighed, "engine_weight"), corrected),
        "engine_capped_share": _share(_sum(weighed, "engine_capped"), corrected),
    }


def _sum(facts: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(sum(fact[name] for fact in facts))


def _share(total: float, count: int) -> float:
    return total / count if count else math.nan
