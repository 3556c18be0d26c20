"""Which completion tokens count: TsEC's entropy band (arXiv 2512.10414), its controls, adaptive bands, top shares.

One selection serves the attack's objective, another the policy loss; both are a `TokenRule` over scores of tokens,
which are entropies unless the settings say otherwise (`saei/token_scores.py`).

Most rules see the ranking only, so that a selection does not change under a monotone transform of the scores; `mass`,
`otsu` and `quantile` read the values. Equal scores are ranked by position. Shares are exact fractions: a third of 3
tokens is 1, never 0.

The paper leaves the rounding of thirds open. Ours: `floor(n * drop)` tokens go at each end, which never empties the
set as long as the two shares sum to less than 1 (one token is kept of one, both of two). The controls `top`, `bottom`
and `random` keep as many tokens as the centred band `middle` of the same share, so that they differ from it only in
*which* tokens they keep; at share 1/3 that is TsEC's count. `count` ceil keeps ceil(share * n) instead (80/20, VEPO).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saei.config import TokenRule

OTSU_CUTS = 512
"""Thresholds that `otsu` tries, spread evenly over the ranking where there are more distinct scores."""

_THIRD = Fraction(1, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """Tokens ranked together: positions by ascending score, the scores by position, thresholds of `quantile`."""

    order: Int[Tensor, " _"]
    scores: Float[Tensor, " _"]
    thresholds: tuple[float, float] | None = None


Rule = Callable[[Ranked, TokenRule, torch.Generator | None], Tensor]
"""(ranked tokens, settings, generator) -> positions kept."""


def _cut(tokens: int, drop_low: Fraction, drop_high: Fraction) -> slice:
    return slice(floor(tokens * drop_low), tokens - floor(tokens * drop_high))


def _centred(tokens: int, share: Fraction) -> int:
    return tokens - 2 * floor(tokens * (1 - share) / 2)


def _rounded_up(tokens: int, share: Fraction) -> int:
    return min(tokens, max(1, ceil(tokens * share)))


COUNTS: dict[str, Callable[[int, Fraction], int]] = {"band": _centred, "ceil": _rounded_up}


def kept_count(tokens: int, share: Fraction, count: str = "band") -> int:
    """How many of `tokens` the rules that are set by a share keep.

    `band`: n - 2 * floor(n * (1 - share) / 2), as the centred band; `ceil`: ceil(share * n), at least 1.
    """
    return COUNTS[count](tokens, share)


def _kept(ranked: Ranked, config: TokenRule) -> int:
    return kept_count(len(ranked.order), config.share, config.count)


def band(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """TsEC: without the `drop_low` lowest and the `drop_high` highest; thirds in the paper."""
    return ranked.order[_cut(len(ranked.order), config.drop_low, config.drop_high)]


def everything(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """No selection: EgAS without TsEC, and every policy loss that keeps all tokens."""
    return ranked.order


def top(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """The `share` of highest score (80/20, arXiv 2506.01939: share 1/5 with `count` ceil)."""
    return ranked.order[len(ranked.order) - _kept(ranked, config) :]


def bottom(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """The `share` of lowest score."""
    return ranked.order[: _kept(ranked, config)]


def middle(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """The `share` in the centre of the ranking: `band` with equal drops."""
    kept = _kept(ranked, config)
    start = (len(ranked.order) - kept) // 2
    return ranked.order[start : start + kept]


def random(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """A `share` of the positions, whatever their score. Raises ValueError without a generator."""
    if generator is None:
        raise ValueError(
            f"{config.group}.rule random draws from a generator, got None: pass saei.seeding.torch_generator(...)"
        )
    drawn = torch.randperm(len(ranked.order), generator=generator, device=generator.device)
    return drawn[: _kept(ranked, config)].to(ranked.order.device)


def mass(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """A band by summed score instead of by count (ours, claims.md Q1).

    From the bottom of the ranking tokens are dropped as long as together they hold at most `drop_low` of the total,
    from the top likewise with `drop_high`. At least one token is kept; where every score is 0, all.
    """
    ascending = ranked.scores[ranked.order].double().clamp(min=0)
    total = ascending.sum()
    if total == 0:
        return ranked.order
    low = min(_droppable(ascending, total, config.drop_low), len(ascending) - 1)
    high = min(_droppable(ascending.flip(0), total, config.drop_high), len(ascending) - 1 - low)
    return ranked.order[low : len(ascending) - high]


def _droppable(scores: Tensor, total: Tensor, drop: Fraction) -> int:
    """How many of the first scores sum to at most `drop` of the total; none at 0, even where scores are 0."""
    if drop == 0:
        return 0
    # numerator and denominator on either side: no share is rounded before the comparison
    return int((scores.cumsum(0) * drop.denominator <= total * drop.numerator).sum())


def otsu(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """The middle one of the three classes whose means differ most (ours, claims.md Q1; Otsu 1979 with two thresholds).

    Exact up to `OTSU_CUTS` + 1 distinct scores. Equal scores are never parted; all tokens are kept where fewer than
    three scores are distinct. Survives a change of unit or origin of the scores, not every monotone transform.
    """
    ascending = ranked.scores[ranked.order].double()
    cuts = torch.nonzero(ascending.diff() > 0).flatten() + 1
    if len(cuts) < 2:
        return ranked.order
    if len(cuts) > OTSU_CUTS:
        cuts = cuts[torch.linspace(0, len(cuts) - 1, OTSU_CUTS, device=cuts.device).round().long()]
    tokens = len(ascending)
    below = (ascending - ascending.mean()).cumsum(0)[cuts - 1]  # summed deviation below each cut; 0 in all
    size = cuts.double()
    between = below[None, :] - below[:, None]
    count = size[None, :] - size[:, None]
    # sum over classes of size * (class mean)^2, deviations being from the common mean; first cut below the second
    variance = below[:, None] ** 2 / size[:, None] + below[None, :] ** 2 / (tokens - size[None, :])
    variance = torch.where(count > 0, variance + between**2 / count.clamp(min=1), -torch.inf)
    first, second = divmod(int(variance.argmax()), len(cuts))
    return ranked.order[int(cuts[first]) : int(cuts[second])]


def quantile(ranked: Ranked, config: TokenRule, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """Scores between two thresholds that run over steps, see `running_thresholds` (ours, claims.md Q1).

    Without thresholds, in a run's first step, the same as `band`. May keep no token.
    """
    if ranked.thresholds is None:
        return band(ranked, config, generator)
    low, high = ranked.thresholds
    ascending = ranked.scores[ranked.order]
    return ranked.order[(ascending >= low) & (ascending <= high)]


RULES: dict[str, Rule] = {
    "band": band,
    "all": everything,
    "top": top,
    "bottom": bottom,
    "middle": middle,
    "random": random,
    "mass": mass,
    "otsu": otsu,
    "quantile": quantile,
}


def select_tokens(
    scores: Sequence[Float[Tensor, " _"]],
    config: TokenRule,
    generator: torch.Generator | None = None,
    *,
    thresholds: tuple[float, float] | None = None,
) -> list[Bool[Tensor, " _"]]:
    """True on the kept tokens of each completion, given the scores of their tokens (entropies: nats).

    `config.scope` response ranks within each completion; any other scope ranks all that are passed together (the
    caller passes a group, an update batch or a micro-batch), where a completion may keep none. Padding must not be
    passed. `thresholds` are those of rule `quantile`, in the scores' unit. Raises ValueError for an unknown rule.
    """
    if config.rule not in RULES:
        raise ValueError(f"{config.group}.rule is one of {', '.join(RULES)}, got {config.rule}")
    if not scores:
        return []
    rankings = scores if config.scope == "response" else [torch.cat(list(scores))]
    masks = [_mask(ranking, config, generator, thresholds) for ranking in rankings]
    return list(torch.cat(masks).split([len(completion) for completion in scores]))


def running_thresholds(
    scores: Float[Tensor, " _"],
    drop_low: Fraction,
    drop_high: Fraction,
    before: tuple[float, float] | None,
    decay: float = 0.9,
) -> tuple[float, float]:
    """Thresholds of rule `quantile` after a step: moving averages of two quantiles of its scores (ours).

    The quantiles are drop_low and 1 - drop_high; what was counts `decay`, `before` None starts with the step's own.
    Raises ValueError where there is neither a score nor a threshold from before.
    """
    if len(scores) == 0:
        if before is None:
            raise ValueError("rule quantile needs at least one token to start its thresholds from, got none")
        return before
    ascending = scores.detach().double().sort().values
    low, high = (_quantile(ascending, share) for share in (drop_low, 1 - drop_high))
    if before is None:
        return low, high
    return decay * before[0] + (1 - decay) * low, decay * before[1] + (1 - decay) * high


def _quantile(ascending: Tensor, share: Fraction) -> float:
    """Linear between the two nearest ranks; torch.quantile refuses more than 2^24 values."""
    rank = (len(ascending) - 1) * share
    below = floor(rank)
    low, high = float(ascending[below]), float(ascending[min(below + 1, len(ascending) - 1)])
    return low + float(rank - below) * (high - low)


def bands(entropy: Float[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
    """TsEC third of each token, for reporting: 0 low, 1 middle (what TsEC keeps), 2 high."""
    tokens = len(entropy)
    kept = _cut(tokens, _THIRD, _THIRD)
    by_rank = torch.ones(tokens, dtype=torch.int64)
    by_rank[: kept.start] = 0
    by_rank[kept.stop :] = 2
    third = torch.empty_like(by_rank, device=entropy.device)
    third[_order(entropy)] = by_rank.to(entropy.device)
    return third


def _order(scores: Tensor) -> Tensor:
    return torch.sort(scores.detach(), stable=True).indices


def _mask(
    scores: Tensor, config: TokenRule, generator: torch.Generator | None, thresholds: tuple[float, float] | None
) -> Tensor:
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    ranked = Ranked(order=_order(scores), scores=scores.detach(), thresholds=thresholds)
    mask[RULES[config.rule](ranked, config, generator)] = True
    return mask
