"""Rows of the attack ledger: how far the input moved, and what it did to the entropy of the kept tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saei.types import AttackRow, ByteImages, ViewResult, to_unit
from saei.views.climb import Climb
from saei.views.context import ViewContext
from saei.views.objective import Kept, mean_entropies


@dataclass(frozen=True, slots=True)
class Attacked:
    """What a climb did to a chunk: 8-bit images, and what the ledger needs of how they came about."""

    images: list[ByteImages]
    climbs: list[Climb]
    kept: Kept
    entropy_before: list[float]


def level_change(clean: ByteImages, moved: ByteImages) -> Tensor:
    """`moved - clean` of all images of a problem, flat, in signed grey levels."""
    return torch.cat([(m.to(torch.int32) - c.to(torch.int32)).flatten() for m, c in zip(moved, clean, strict=True)])


def l2_levels(clean: ByteImages, moved: ByteImages) -> float:
    """L2 norm of the change over all images of a problem, in grey levels."""
    return math.sqrt(int((level_change(clean, moved).to(torch.int64) ** 2).sum()))


def pixel_row(
    problem_id: str, view: str, clean: ByteImages, moved: ByteImages, *, clipped_share: float = 0.0
) -> AttackRow:
    """The row of a view that reads no entropy: pixel norms, NaN for the entropies, no token."""
    delta = level_change(clean, moved)
    return AttackRow(
        problem_id=problem_id,
        view=view,
        linf=int(delta.abs().max()) / 255,
        l2=l2_levels(clean, moved) / 255,
        touched_share=int((delta != 0).sum()) / delta.numel(),
        zero_gradient_share=0.0,
        clipped_share=clipped_share,
        entropy_before=math.nan,
        entropy_after=math.nan,
        tokens_kept=0,
        tokens_total=0,
        moved=bool(delta.any()),
    )


def attack_rows(
    context: ViewContext, attacked: Attacked, images: Sequence[ByteImages], *, view: str, control: bool = False
) -> list[AttackRow]:
    """One row per problem for the 8-bit `images` that were made of `attacked`.

    `zero_gradient_share` and `clipped_share` are shares of pixel channels times iterations, 0 without an iteration;
    a gradient that was not finite has a `zero_gradient_share` of NaN, and is counted by it. A `control` also names the
    L2 of the attack itself, which its own must match.
    """
    pixels = [
        pixel_row(problem_id, view, clean, moved)
        for problem_id, clean, moved in zip(context.problem_ids, context.images, images, strict=True)
    ]
    after = attacked.entropy_before
    if any(row.moved for row in pixels):
        with torch.no_grad():
            units = [[to_unit(image) for image in group] for group in images]
            after = mean_entropies(context.token_entropy(units, context.completions, attacked.kept))
    rows = []
    for i, (row, state) in enumerate(zip(pixels, attacked.climbs, strict=True)):
        reference = l2_levels(context.images[i], attacked.images[i]) / 255 if control else math.nan
        rows.append(
            AttackRow(
                problem_id=row.problem_id,
                view=view,
                linf=row.linf,
                l2=row.l2,
                touched_share=row.touched_share,
                zero_gradient_share=state.zero_gradient_share,
                clipped_share=state.clipped_share,
                entropy_before=attacked.entropy_before[i],
                # an image that did not move has the same entropy, whatever the last digits of another forward say
                entropy_after=after[i] if row.moved else attacked.entropy_before[i],
                tokens_kept=sum(int(mask.sum()) for mask in attacked.kept[i]),
                tokens_total=sum(len(mask) for mask in attacked.kept[i]),
                moved=row.moved,
                l2_reference=reference,
                kept=positions(attacked.kept[i]),
            )
        )
    return rows


def positions(kept: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Of each completion's mask the positions that it keeps."""
    return tuple(tuple(mask.nonzero().flatten().tolist()) for mask in kept)


def attack_result(
    context: ViewContext, attacked: Attacked, images: Sequence[ByteImages], *, view: str, control: bool = False
) -> ViewResult:
    """One entry of `images` per problem, with its ledger."""
    rows = attack_rows(context, attacked, images, view=view, control=control)
    return ViewResult(images=[[group] for group in images], ledger=rows)
