"""Drawing one token per row from logits: suppression, then the nucleus of what is left, then the inverse CDF."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawRule:
    """How a token is drawn from logits: first suppression, then the nucleus of what is left, then the draw."""

    temperature: float
    top_p: float
    max_new_tokens: int
    suppressed: Bool[Tensor, " vocabulary"]
    end: Bool[Tensor, " vocabulary"]

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}: for greedy decoding pass noise=None")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}: 1 keeps every token")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")


@dataclass(frozen=True, slots=True)
class Draw:
    """One token of each row. Log-probs and entropies (nats) are before suppression and top-p."""

    tokens: Int[Tensor, " rows"]
    logprobs: Float[Tensor, " rows"]
    entropy: Float[Tensor, " rows"]
    removed_mass: Float[Tensor, " rows"]


def draw_tokens(
    logits: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"] | None, rule: DrawRule
) -> Draw:
    """One token per row by inverse CDF in float64, tokens in id order; without uniforms the most likely token."""
    log_p = torch.log_softmax(logits.to(wide(logits)) / rule.temperature, dim=-1)
    p = log_p.exp()
    if uniforms is None:
        tokens = logits.masked_fill(rule.suppressed, -torch.inf).argmax(-1)
        removed_mass = p[:, rule.suppressed].sum(-1)
    else:
        kept = torch.where(rule.suppressed, 0.0, p.double())
        if rule.top_p < 1:
            kept = torch.where(_nucleus(kept, rule.top_p), kept, 0.0)
        removed_mass = torch.where(kept == 0, p, 0.0).sum(-1)
        tokens = _inverse_cdf(kept, uniforms)
    return Draw(
        tokens=tokens,
        logprobs=log_p.gather(-1, tokens[:, None])[:, 0],
        entropy=-(p * log_p).sum(-1),
        removed_mass=removed_mass,
    )


def _inverse_cdf(weights: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The token whose stretch of the CDF of `weights` (unnormalised, float64) holds the uniform."""
    # a parallel cumulative sum need not be monotone in its last bits: a token of weight 0 takes over the running
    # maximum, and a strict comparison never stops there
    cdf = torch.where(weights > 0, weights.cumsum(-1), 0.0).cummax(-1).values
    target = uniforms[:, None] * cdf[:, -1:]  # < the last entry, since a uniform is at most 1 - 2^-53
    return torch.searchsorted(cdf, target, right=True)[:, 0]


def _nucleus(weights: Float[Tensor, "rows vocabulary"], top_p: float) -> Bool[Tensor, "rows vocabulary"]:
    """The smallest set of heaviest tokens that holds `top_p` of the weight; ties go to the lower token id."""
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    heavier = ordered.cumsum(-1) - ordered
    inside = heavier < top_p * ordered.sum(-1, keepdim=True)
    return torch.zeros_like(inside).scatter(-1, order, inside)


def wide(logits: Tensor) -> torch.dtype:
    """float64 for float64 logits, float32 for all others."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
