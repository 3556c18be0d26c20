"""What tokens are ranked by: entropy, VEPO's scores (arXiv 2606.03937) and VPPO's visual dependency (2510.09285).

All but entropy compare a completion's tokens under its own image (P) with the same tokens under another (Q), given as
`PairScores`. VEPO's parts are min-max scaled within the response, so a response must be passed whole. The letters are
those of VEPO's code; D is the paper's score. Its "weight" mode (1 + lambda on selected tokens) is left out: it scales
the loss and selects nothing. Its mode "bottom" is select.rule bottom.
"""

from collections.abc import Callable
from math import log

import torch
from jaxtyping import Float
from torch import Tensor

from saei.types import PairScores, TokenScores

RANGE_FLOOR = 1e-8
"""Smallest range that a min-max scaling divides by (VEPO's code)."""

DEPENDENCY_MAX = 10.0
"""Bound on the visual dependency of a token, in nats (VPPO's code)."""

IDENTICAL = 1e-6
"""Divergence, in nats, below which two distributions are the same one up to float32 rounding."""

_LOG_RATIO_LIMIT = 20.0

Score = Callable[[TokenScores, PairScores | None, float], Tensor]
"""(scores under the own image, comparison with another, alpha) -> score of every token; more is kept by `top`."""


def jensen_shannon(
    log_p: Float[Tensor, "tokens vocabulary"], log_q: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """JSD in nats from two log-softmaxes: KL(P||M)/2 + KL(Q||M)/2, M their mean. Exact: VEPO's code adds 1e-8 to M."""
    log_m = torch.logaddexp(log_p, log_q) - log(2)
    return ((kullback_leibler(log_p, log_m) + kullback_leibler(log_q, log_m)) / 2).clamp(min=0)


def kullback_leibler(
    log_p: Float[Tensor, "tokens vocabulary"], log_q: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """KL(P||Q) in nats from two log-softmaxes."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp(min=0)


def scaled(values: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Min-max within the response: 0 at its smallest value, 1 at its largest; all 0 where they are equal."""
    if len(values) == 0:
        return values
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=RANGE_FLOOR)


def entropy(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """Full-vocabulary entropy in nats (TsEC, 80/20)."""
    return scores.entropy


def vepo(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """D: (1 - (1-j)^alpha (1-d)^(1-alpha)) h, with j, d, h the scaled JSD, |entropy gap| and entropy."""
    return vepo_no_coupling(scores, pair, alpha) * scaled(scores.entropy)


def vepo_no_coupling(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """E: D without its factor h (ablation V1: vision not coupled with entropy)."""
    pair = _needed(pair, "vepo_no_coupling")
    return _either(scaled(pair.jsd), scaled(_gap(scores, pair).abs()), alpha)


def vepo_no_vision(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """h alone (ablation V2): within a response, the ranking by entropy."""
    return scaled(scores.entropy)


def vepo_a(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """A: 1 - (1-j)(1-h)(1-g), with g the scaled rise of entropy."""
    pair = _needed(pair, "vepo_a")
    return 1 - (1 - scaled(pair.jsd)) * (1 - scaled(scores.entropy)) * (1 - _rise(scores, pair))


def vepo_b(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """B: (1 - (1-j)(1-h)) g."""
    pair = _needed(pair, "vepo_b")
    return (1 - (1 - scaled(pair.jsd)) * (1 - scaled(scores.entropy))) * _rise(scores, pair)


def vepo_c(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """C: D with the rise of entropy, g, in place of the gap."""
    pair = _needed(pair, "vepo_c")
    return _either(scaled(pair.jsd), _rise(scores, pair), alpha) * scaled(scores.entropy)


def vepo_f(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """F: (1 - [alpha (1-j) + (1-alpha)(1-d)]) h, the arithmetic mean in place of D's geometric one."""
    pair = _needed(pair, "vepo_f")
    j, d = scaled(pair.jsd), scaled(_gap(scores, pair).abs())
    return (1 - (alpha * (1 - j) + (1 - alpha) * (1 - d))) * scaled(scores.entropy)


def vepo_g(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """G: j d h."""
    pair = _needed(pair, "vepo_g")
    return scaled(pair.jsd) * scaled(_gap(scores, pair).abs()) * scaled(scores.entropy)


def vepo_h(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """H: D with KL(P||Q) in place of the JSD."""
    pair = _needed(pair, "vepo_h")
    return _either(scaled(pair.kl), scaled(_gap(scores, pair).abs()), alpha) * scaled(scores.entropy)


def dependency(scores: TokenScores, pair: PairScores | None, alpha: float) -> Float[Tensor, " tokens"]:
    """VPPO: k3 of the sampled token's log-prob under Q minus under P, e^d - d - 1, within [0, 10]."""
    difference = _needed(pair, "dependency").logprobs - scores.logprobs
    difference = difference.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return (difference.exp() - difference - 1).clamp(0, DEPENDENCY_MAX)


SCORES: dict[str, Score] = {
    "entropy": entropy,
    "vepo": vepo,
    "vepo_no_coupling": vepo_no_coupling,
    "vepo_no_vision": vepo_no_vision,
    "vepo_a": vepo_a,
    "vepo_b": vepo_b,
    "vepo_c": vepo_c,
    "vepo_f": vepo_f,
    "vepo_g": vepo_g,
    "vepo_h": vepo_h,
    "dependency": dependency,
}
"""`select.score`, `policy_select.score` -> score of every token of one completion."""


def degenerate(pair: PairScores) -> bool:
    """Are P and Q one distribution at every token? Then every VEPO score is 0 and the ranking is by position alone.

    True throughout a batch means that the score view shows the same image (or that the policy ignores images).
    """
    return bool((pair.jsd < IDENTICAL).all() and (pair.kl < IDENTICAL).all())


def _needed(pair: PairScores | None, name: str) -> PairScores:
    if pair is None:
        raise ValueError(f"score {name} compares with another image, got none: set score.view noise, mask or no_image")
    return pair


def _gap(scores: TokenScores, pair: PairScores) -> Tensor:
    return pair.entropy - scores.entropy


def _rise(scores: TokenScores, pair: PairScores) -> Tensor:
    return scaled(_gap(scores, pair).clamp(min=0))


def _either(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """1 - (1-first)^alpha (1-second)^(1-alpha): near 1 where one of them is, however small the other."""
    return 1 - (1 - first) ** alpha * (1 - second) ** (1 - alpha)
