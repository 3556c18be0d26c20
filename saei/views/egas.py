"""EgAS: move the image along the sign of the gradient of the policy's own token entropy (arXiv 2512.10414).

The completions and the kept tokens are held fixed (teacher forcing), so the gradient goes through the entropies only.
The paper prints a negative step on -H; here the step is a size and `view.direction` says where it goes. Pixels are raw
[0, 1] values after the resize; iterates stay in float and are rounded to 8 bits once, at the end.

Problems are independent: the gradient of the sum of their objectives is each one's own gradient.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.select import select_tokens
from saei.types import AttackRow, ByteImages, ViewResult, to_bytes, to_unit
from saei.views.context import ViewContext

Kept = list[list[Bool[Tensor, " _"]]]

# A step counts as cut when this much of it (in [0, 1] units) is lost: far below one level, far above float error.
_CUT = 1e-5

DIRECTIONS = {"ascend": 1.0, "descend": -1.0}


def sequence_mean(entropy: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, ""]:
    """Mean over the kept tokens of each completion, then over the completions that keep any (the paper)."""
    return torch.stack([tokens.mean() for tokens in entropy if len(tokens)]).mean()


def token_mean(entropy: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, ""]:
    """Mean over all kept tokens of the problem: long completions weigh more."""
    return torch.cat(list(entropy)).mean()


OBJECTIVES: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "sequence_mean": sequence_mean,
    "token_mean": token_mean,
}


@dataclass(slots=True)
class Climb:
    """One problem under attack. `images` are float iterates in [0, 1]; counts are summed over the iterations.

    `broken` is set by a gradient that is not finite: the images are then the clean ones and stay so.
    """

    start: list[Tensor]
    images: list[Tensor]
    seen: int = 0
    zero: int = 0
    cut: int = 0
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Attacked:
    """What EgAS did to a chunk: 8-bit images, and what the ledger needs of how they came about."""

    images: list[ByteImages]
    climbs: list[Climb]
    kept: Kept
    entropy_before: list[float]


def egas(context: ViewContext) -> ViewResult:
    """The entropy-guided attack and its ledger. Raises ValueError where a problem has no earlier completion."""
    attacked = attack(context)
    return ViewResult(images=attacked.images, ledger=ledger(context, attacked, attacked.images, view="egas"))


def attack(context: ViewContext) -> Attacked:
    """Select tokens on the clean images, iterate, round. With step 0 or no iteration there is no backward pass."""
    for problem_id, completions in zip(context.problem_ids, context.completions, strict=True):
        if not any(completions):
            raise ValueError(
                f"problem {problem_id} has no earlier completion for the attack to read: "
                "the group plan must start with clean completions (--rollout.n-clean 6)"
            )
    clean = [[to_unit(image) for image in images] for images in context.images]
    climbs, kept, before = climb(context, clean)
    images = [
        tuple(
            _round(image, context.view.epsilon, original) for image, original in zip(c.images, originals, strict=True)
        )
        for c, originals in zip(climbs, context.images, strict=True)
    ]
    return Attacked(images, climbs, kept, before)


def climb(context: ViewContext, start: Sequence[Sequence[Tensor]]) -> tuple[list[Climb], Kept, list[float]]:
    """The iterates from float images `start`, the tokens kept there, and the mean entropy of those (nats).

    With `select.refresh each_iteration` later iterates choose their tokens anew; what is returned, and what the ledger
    compares, is the first choice.
    """
    view, select = context.view, context.select
    generators = [context.generator("selection", problem_id) for problem_id in context.problem_ids]

    def choose(images: Sequence[Sequence[Tensor]]) -> tuple[Kept, list[list[Tensor]]]:
        with torch.no_grad():
            entropy = context.token_entropy(images, context.completions, None)
        return [select_tokens(e, select, g) for e, g in zip(entropy, generators, strict=True)], entropy

    climbs = [Climb(list(images), list(images)) for images in start]
    first, entropy = choose(start)
    before = [
        _mean([tokens[mask] for tokens, mask in zip(e, masks, strict=True)])
        for e, masks in zip(entropy, first, strict=True)
    ]
    kept = first
    for iteration in range(view.iterations if view.step_size > 0 else 0):
        if iteration and select.refresh == "each_iteration":
            kept, _ = choose([c.images for c in climbs])
        gradients = entropy_gradients(context, [c.images for c in climbs], kept)
        for state, gradient in zip(climbs, gradients, strict=True):
            _advance(state, gradient, DIRECTIONS[view.direction] * view.step_size / 255, view.epsilon)
    return climbs, first, before


def entropy_gradients(
    context: ViewContext, images: Sequence[Sequence[Tensor]], kept: Kept
) -> list[list[Float[Tensor, "3 _ _"]]]:
    """Gradient of each problem's objective with respect to each of its float images."""
    leaves = [[image.detach().clone().requires_grad_() for image in group] for group in images]
    with torch.enable_grad():
        entropy = context.token_entropy(leaves, context.completions, kept)
        total = torch.stack([OBJECTIVES[context.view.objective](tokens) for tokens in entropy]).sum()
        if not total.requires_grad:
            return [[torch.zeros_like(leaf, requires_grad=False) for leaf in group] for group in leaves]
        # autograd.grad, not backward(): the attack must leave no gradient on the policy.
        flat = iter(
            torch.autograd.grad(
                total, [leaf for group in leaves for leaf in group], allow_unused=True, materialize_grads=True
            )
        )
    return [[next(flat) for _ in group] for group in leaves]


def _advance(state: Climb, gradients: Sequence[Tensor], step: float, epsilon: float | None) -> None:
    """One signed step: ball first, then [0, 1] (the order of torchattacks' PGD). `step` in [0, 1] units, signed."""
    if state.broken or not all(bool(gradient.isfinite().all()) for gradient in gradients):
        state.broken, state.images = True, list(state.start)
        return
    moved = []
    for image, start, gradient in zip(state.images, state.start, gradients, strict=True):
        proposal = image + step * gradient.sign()
        inside = proposal
        if epsilon is not None:
            inside = start + (proposal - start).clamp(-epsilon / 255, epsilon / 255)
        inside = inside.clamp(0, 1)
        state.seen += gradient.numel()
        state.zero += int((gradient == 0).sum())
        state.cut += int(((inside - proposal).abs() > _CUT).sum())
        moved.append(inside)
    state.images = moved


def _round(image: Tensor, epsilon: float | None, clean: Tensor) -> Tensor:
    """To 8 bits; a ball of a fractional number of levels is kept by the rounded image too."""
    rounded = to_bytes(image)
    if epsilon is None:
        return rounded
    levels = math.floor(epsilon)
    delta = (rounded.to(torch.int16) - clean.to(torch.int16)).clamp(-levels, levels)
    return (clean.to(torch.int16) + delta).to(torch.uint8)


def ledger(context: ViewContext, attacked: Attacked, images: Sequence[ByteImages], *, view: str) -> list[AttackRow]:
    """One row per problem for the 8-bit `images` that were made of `attacked`.

    `zero_gradient_share` and `clipped_share` are shares of pixel channels times iterations, 0 without an iteration;
    a gradient that was not finite has a `zero_gradient_share` of NaN, and is counted by it.
    """
    deltas = [
        torch.cat([(m.to(torch.int32) - c.to(torch.int32)).flatten() for m, c in zip(moved, clean, strict=True)])
        for moved, clean in zip(images, context.images, strict=True)
    ]
    after = attacked.entropy_before
    if any(bool(delta.any()) for delta in deltas):
        with torch.no_grad():
            units = [[to_unit(image) for image in group] for group in images]
            after = [_mean(tokens) for tokens in context.token_entropy(units, context.completions, attacked.kept)]
    rows = []
    for i, (problem_id, delta, state) in enumerate(zip(context.problem_ids, deltas, attacked.climbs, strict=True)):
        moved = bool(delta.any())
        rows.append(
            AttackRow(
                problem_id=problem_id,
                view=view,
                linf=int(delta.abs().max()) / 255,
                l2=math.sqrt(int((delta.to(torch.int64) ** 2).sum())) / 255,
                touched_share=int((delta != 0).sum()) / delta.numel(),
                zero_gradient_share=math.nan if state.broken else state.zero / max(state.seen, 1),
                clipped_share=state.cut / max(state.seen, 1),
                entropy_before=attacked.entropy_before[i],
                # an image that did not move has the same entropy, whatever the last digits of another forward say
                entropy_after=after[i] if moved else attacked.entropy_before[i],
                tokens_kept=sum(int(mask.sum()) for mask in attacked.kept[i]),
                tokens_total=sum(len(mask) for mask in attacked.kept[i]),
                moved=moved,
            )
        )
    return rows


def _mean(entropy: Sequence[Tensor]) -> float:
    return float(torch.cat(list(entropy)).to(torch.float64).mean())
