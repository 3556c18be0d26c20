"""The other control for EgAS: normal noise, as long (L2, after clipping and rounding to 8 bits) as EgAS's own move.

EgAS is carried out first, so that the length is the realised one, borders and zero gradients included. The noise has
EgAS's L2 but not its L-infinity, and touches pixels that EgAS left.
"""

from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from saei.types import ByteImages, ViewResult
from saei.views.context import ViewContext
from saei.views.egas import attack
from saei.views.ledger import attack_result, l2_levels
from saei.views.responses import each_response

_HALVINGS = 40
_LARGEST = 2.0**14  # standard deviation in levels beyond which every channel sits at 0 or 255


@each_response
def gaussian(context: ViewContext) -> ViewResult:
    """Clean images plus noise of EgAS's L2. The ledger names both norms; `clipped_share` is of the noise."""
    attacked = attack(context)
    images, cut = [], []
    for problem_id, clean, moved in zip(context.problem_ids, context.images, attacked.images, strict=True):
        generator = context.generator("attack", problem_id)
        noisy, share = matched_noise(clean, l2_levels(clean, moved), generator)
        images.append(noisy)
        cut.append(share)
    result = attack_result(context, attacked, images, view="gaussian", control=True)
    return replace(
        result, ledger=[replace(row, clipped_share=share) for row, share in zip(result.ledger, cut, strict=True)]
    )


def matched_noise(clean: ByteImages, target: float, generator: torch.Generator) -> tuple[ByteImages, float]:
    """Images with normal noise whose L2 over all of them is nearest to `target` grey levels; share of clipped channels.

    Every channel moves further as the scale grows, so the norm does, in small jumps: the search halves the interval.
    """
    normal = [
        torch.randn(image.shape, generator=generator, device=generator.device).to(image.device) for image in clean
    ]
    if target == 0:
        return clean, 0.0

    def noisy(scale: float) -> ByteImages:
        return tuple(_to_levels(image + scale * z) for image, z in zip(clean, normal, strict=True))

    low, high = 0.0, 1.0
    while l2_levels(clean, noisy(high)) < target and high < _LARGEST:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if l2_levels(clean, noisy(middle)) < target:
            low = middle
        else:
            high = middle
    scale = min((low, high), key=lambda size: abs(l2_levels(clean, noisy(size)) - target))
    outside = [image + scale * z for image, z in zip(clean, normal, strict=True)]
    cut = sum(int(((image < 0) | (image > 255)).sum()) for image in outside)
    return noisy(scale), cut / sum(image.numel() for image in clean)


def _to_levels(image: Tensor) -> UInt8[Tensor, "3 height width"]:
    return image.round().clamp(0, 255).to(torch.uint8)
