"""Which completion tokens enter the attack's objective: TsEC's entropy band and its controls (arXiv 2512.10414).

A rule sees the ranking only, so a selection does not change under a monotone transform of the entropies. Equal
entropies are ranked by position. Shares are exact fractions: a third of 3 tokens is 1, never 0.

The paper leaves the rounding of thirds open. Ours: `floor(n * drop)` tokens go at each end, which never empties the
set as long as the two shares sum to less than 1 (one token is kept of one, both of two). The controls `top`, `bottom`
and `random` keep as many tokens as the centred band `middle` of the same share, so that they differ from it only in
*which* tokens they keep; at share 1/3 that is TsEC's count.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from math import floor

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saei.config import SelectConfig

Rule = Callable[[Tensor, SelectConfig, torch.Generator | None], Tensor]
"""(positions by ascending entropy, settings, generator) -> positions kept."""

_THIRD = Fraction(1, 3)


def _cut(tokens: int, drop_low: Fraction, drop_high: Fraction) -> slice:
    return slice(floor(tokens * drop_low), tokens - floor(tokens * drop_high))


def kept_count(tokens: int, share: Fraction) -> int:
    """How many of `tokens` the rules that are set by a share keep: n - 2 * floor(n * (1 - share) / 2)."""
    return tokens - 2 * floor(tokens * (1 - share) / 2)


def band(order: Int[Tensor, " _"], config: SelectConfig, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """TsEC: without the `drop_low` lowest and the `drop_high` highest; thirds in the paper."""
    return order[_cut(len(order), config.drop_low, config.drop_high)]


def everything(order: Int[Tensor, " _"], config: SelectConfig, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """No selection: EgAS without TsEC."""
    return order


def top(order: Int[Tensor, " _"], config: SelectConfig, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """The `share` of highest entropy."""
    return order[len(order) - kept_count(len(order), config.share) :]


def bottom(order: Int[Tensor, " _"], config: SelectConfig, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """The `share` of lowest entropy."""
    return order[: kept_count(len(order), config.share)]


def middle(order: Int[Tensor, " _"], config: SelectConfig, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """The `share` in the centre of the ranking: `band` with equal drops."""
    return order[_cut(len(order), (1 - config.share) / 2, (1 - config.share) / 2)]


def random(order: Int[Tensor, " _"], config: SelectConfig, generator: torch.Generator | None) -> Int[Tensor, " _"]:
    """A `share` of the positions, whatever their entropy. Raises ValueError without a generator."""
    if generator is None:
        raise ValueError("select.rule random draws from a generator, got None: pass saei.seeding.torch_generator(...)")
    drawn = torch.randperm(len(order), generator=generator, device=generator.device)
    return drawn[: kept_count(len(order), config.share)].to(order.device)


RULES: dict[str, Rule] = {
    "band": band,
    "all": everything,
    "top": top,
    "bottom": bottom,
    "middle": middle,
    "random": random,
}


def select_tokens(
    entropy: Sequence[Float[Tensor, " _"]], config: SelectConfig, generator: torch.Generator | None = None
) -> list[Bool[Tensor, " _"]]:
    """True on the kept tokens of each completion of one problem, given their token entropies (nats).

    `config.scope` ranks within each completion (`response`) or over all of them (`group`, where a completion may keep
    none). Padding must not be passed. Raises ValueError for an unknown rule.
    """
    if config.rule not in RULES:
        raise ValueError(f"select.rule is one of {', '.join(RULES)}, got {config.rule}")
    if not entropy:
        return []
    rankings = [torch.cat(list(entropy))] if config.scope == "group" else entropy
    masks = [_mask(ranking, config, generator) for ranking in rankings]
    return list(torch.cat(masks).split([len(completion) for completion in entropy]))


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


def _order(entropy: Tensor) -> Tensor:
    return torch.sort(entropy.detach(), stable=True).indices


def _mask(entropy: Tensor, config: SelectConfig, generator: torch.Generator | None) -> Tensor:
    mask = torch.zeros(len(entropy), dtype=torch.bool, device=entropy.device)
    mask[RULES[config.rule](_order(entropy), config, generator)] = True
    return mask
