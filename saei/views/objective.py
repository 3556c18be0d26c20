"""What EgAS climbs: the mean entropy of chosen completion tokens, held fixed while the input moves (2512.10414)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.select import select_tokens
from saei.views.context import ViewContext

Kept = list[list[Bool[Tensor, " _"]]]
"""Masks of the chosen tokens, by problem and completion."""


def sequence_mean(entropy: Sequence[Float[Tensor, " _"]], lengths: Sequence[int] | None = None) -> Float[Tensor, ""]:
    """Mean over the kept tokens of each completion, then over the completions that keep any (the paper).

    With `lengths`, the sum over a completion's kept tokens is divided by its length instead of their number.
    """
    if lengths is None:
        means = [tokens.mean() for tokens in entropy if len(tokens)]
    else:
        means = [tokens.sum() / length for tokens, length in zip(entropy, lengths, strict=True) if len(tokens)]
    return torch.stack(means).mean()


def token_mean(entropy: Sequence[Float[Tensor, " _"]], lengths: Sequence[int] | None = None) -> Float[Tensor, ""]:
    """Mean over all kept tokens of the problem: long completions weigh more. With `lengths`, over all tokens."""
    tokens = torch.cat(list(entropy))
    return tokens.mean() if lengths is None else tokens.sum() / sum(lengths)


OBJECTIVES: dict[str, Callable[[Sequence[Tensor], Sequence[int] | None], Tensor]] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
}


def problem_objectives(context: ViewContext, entropy: Sequence[Sequence[Tensor]], kept: Kept) -> list[Tensor]:
    """One scalar per problem from the entropies of its kept tokens; a constant 0 where none is kept."""
    objective = OBJECTIVES[context.view.objective]
    values = []
    for tokens, masks in zip(entropy, kept, strict=True):
        lengths = [len(mask) for mask in masks] if context.select.denominator == "all" else None
        # the quantile rule may keep no token at all
        kept_any = any(len(completion) for completion in tokens)
        values.append(objective(tokens, lengths) if kept_any else tokens[0].new_zeros(()))
    return values


def choose(context: ViewContext, entropy: list[list[Tensor]], generators: Sequence[torch.Generator]) -> Kept:
    """The kept tokens of every completion, given all their entropies (nats) on the image where they are chosen.

    Another `select.score` than entropy is asked for on the clean image. Raises ValueError where nobody gives it.
    """
    scores = entropy
    if context.select.score != "entropy":
        if context.token_scores is None:
            raise ValueError(
                f"select.score is {context.select.score}, and the caller of the view gives entropies only: pass "
                "token_scores"
            )
        with torch.no_grad():
            scores = context.token_scores(context.images, context.completions)
    return [
        select_tokens(tokens, context.select, generator, thresholds=context.thresholds)
        for tokens, generator in zip(scores, generators, strict=True)
    ]


def kept_entropies(entropy: Sequence[Sequence[Tensor]], kept: Kept) -> list[list[Tensor]]:
    """Of all entropies, those of the kept tokens."""
    return [
        [tokens[mask] for tokens, mask in zip(group, masks, strict=True)]
        for group, masks in zip(entropy, kept, strict=True)
    ]


def mean_entropies(entropy: Sequence[Sequence[Tensor]]) -> list[float]:
    """Mean over all tokens of each problem; NaN where there is none."""
    return [float(torch.cat(list(group)).to(torch.float64).mean()) for group in entropy]
