"""The conditions of a probe: under which input the second half of every group is sampled, and at which size.

All conditions meet the same completions before them and the same sampling noise. `random_sign` and `gaussian` are the
views of those names, made of EgAS's images, which are computed once; they match its realised L2 by construction.
NoisyRollout's diffusion noise is some fifty times larger than a step of 2/255 and has no strength that small: its
smallest step already has a standard deviation of 1.2 levels, the next 1.7. Condition `noise` therefore scales what the
noise did to each image (its residual, dimming included) down to EgAS's L2; `noise_500` is the same draw at its own
size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from saei.types import ByteImages
from saei.views.diffusion import diffuse
from saei.views.gaussian import matched_noise
from saei.views.ledger import l2_levels
from saei.views.random_sign import flip_signs

CLEAN, CONTROL, ATTACK = "clean", "clean_again", "egas"
"""The completions that come first and that an attack reads; the condition that differences are taken from; EgAS."""

NOISE_LEVEL = 500  # diffusion step of NoisyRollout on Geometry3K


Derive = Callable[[ByteImages, ByteImages, torch.Generator], ByteImages]
"""(clean images, EgAS's images, stream of the problem) -> images that are as far from the clean ones (L2)."""


def random_sign(clean: ByteImages, attacked: ByteImages, generator: torch.Generator) -> ByteImages:
    """The images of view `random_sign`."""
    return tuple(flip_signs(c, m, generator)[0] for c, m in zip(clean, attacked, strict=True))


def gaussian(clean: ByteImages, attacked: ByteImages, generator: torch.Generator) -> ByteImages:
    """The images of view `gaussian`."""
    return matched_noise(clean, l2_levels(clean, attacked), generator)[0]


def scaled_noise(clean: ByteImages, attacked: ByteImages, generator: torch.Generator) -> ByteImages:
    """What view `noise` does at step 500, scaled."""
    noisy = tuple(diffuse(image, NOISE_LEVEL, generator) for image in clean)
    return scaled_to(clean, noisy, l2_levels(clean, attacked))


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """`view` with `settings`, or images made of EgAS's by `derive`; `sized`: depends on the step size."""

    view: str = ATTACK
    settings: dict[str, Any] = field(default_factory=dict)
    derive: Derive | None = None
    sized: bool = True


CONDITIONS: dict[str, Condition] = {
    CONTROL: Condition(view="clean", sized=False),
    ATTACK: Condition(),
    "descend": Condition(settings={"view.direction": "descend"}),
    "random_sign": Condition(derive=random_sign),
    "gaussian": Condition(derive=gaussian),
    "noise": Condition(derive=scaled_noise),
    "noise_500": Condition(view="noise", settings={"view.noise_level": NOISE_LEVEL}, sized=False),
}


def derived(
    derive: Derive, clean: ByteImages, attacked: Sequence[ByteImages], generator: torch.Generator
) -> list[ByteImages]:
    """The images of one problem made of each of EgAS's; the stream goes on from one to the next."""
    return [derive(clean, moved, generator) for moved in attacked]


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


def mean_l2(clean: Sequence[ByteImages], moved: Sequence[Sequence[ByteImages]]) -> list[float]:
    """Per problem: mean L2 over the images that its completions see, in [0, 1] units."""
    return [
        sum(l2_levels(start, entry) for entry in entries) / len(entries) / 255
        for start, entries in zip(clean, moved, strict=True)
    ]
