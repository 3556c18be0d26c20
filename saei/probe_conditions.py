"""The conditions of a probe: under which input the second half of every group is sampled, and at which size.

All conditions meet the same completions before them and the same sampling noise. `random_sign` and `gaussian` match
EgAS's realised L2 by construction. NoisyRollout's diffusion noise is a hundred times larger than a step of 2/255 and
has no strength that small: its smallest step already has a standard deviation of 1.2 levels, the next 1.7. Condition
`noise` therefore scales what the noise did to each image (its residual, dimming included) down to EgAS's L2;
`noise_500` is the same draw at its own size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from saei.types import ByteImages
from saei.views.ledger import l2_levels

CLEAN, CONTROL, ATTACK = "clean", "clean_again", "egas"
"""The completions that come first and that an attack reads; the condition that differences are taken from; EgAS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """`view` with `settings`; `sized`: depends on the step size; `scaled`: then made as long as EgAS's move (L2)."""

    view: str
    settings: dict[str, Any] = field(default_factory=dict)
    sized: bool = True
    scaled: bool = False


CONDITIONS: dict[str, Condition] = {
    CONTROL: Condition(view="clean", sized=False),
    ATTACK: Condition(view="egas"),
    "descend": Condition(view="egas", settings={"view.direction": "descend"}),
    "random_sign": Condition(view="random_sign"),
    "gaussian": Condition(view="gaussian"),
    "noise": Condition(view="noise", scaled=True),
    "noise_500": Condition(view="noise", sized=False),
}


def scaled_to(clean: ByteImages, moved: ByteImages, l2: float) -> ByteImages:
    """clean + s * (moved - clean), rounded to 8 bits, with the s in [0, 1] whose L2 is nearest to `l2` grey levels.

    Every rounded difference grows with s, so the L2 does too and bisection finds it. Where `moved` itself is nearer
    than `l2`, it is returned.
    """
    if l2_levels(clean, moved) <= l2:
        return moved
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if l2_levels(clean, _between(clean, moved, middle)) < l2:
            low = middle
        else:
            high = middle
    ends = [_between(clean, moved, share) for share in (low, high)]
    return min(ends, key=lambda images: abs(l2_levels(clean, images) - l2))


def _between(clean: ByteImages, moved: ByteImages, share: float) -> ByteImages:
    return tuple(
        (before.to(torch.float64) + share * (after.to(torch.float64) - before.to(torch.float64)))
        .round()
        .to(torch.uint8)
        for before, after in zip(clean, moved, strict=True)
    )


def match_l2(
    clean: Sequence[ByteImages], moved: Sequence[Sequence[ByteImages]], reference: Sequence[Sequence[ByteImages]]
) -> list[Sequence[ByteImages]]:
    """Entries of `moved`, by problem, each scaled to the L2 of its entry of `reference`."""
    return [
        [scaled_to(start, entries[j % len(entries)], l2_levels(start, target)) for j, target in enumerate(targets)]
        for start, entries, targets in zip(clean, moved, reference, strict=True)
    ]


def mean_l2(clean: Sequence[ByteImages], moved: Sequence[Sequence[ByteImages]]) -> list[float]:
    """Per problem: mean L2 over the images that its completions see, in [0, 1] units."""
    return [
        sum(l2_levels(start, entry) for entry in entries) / len(entries) / 255
        for start, entries in zip(clean, moved, strict=True)
    ]
