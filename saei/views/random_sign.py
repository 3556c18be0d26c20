"""The control for EgAS: its own applied perturbation with the sign of every pixel channel drawn at random.

Same mask and same size at every pixel, so L-infinity, L2 and the touched set are EgAS's; what is left out is the
direction. Gaussian noise of the same L2 norm (view `gaussian`) touches other pixels.
"""

from dataclasses import replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from saei.types import ViewResult
from saei.views.context import ViewContext
from saei.views.egas import attack
from saei.views.ledger import attack_result
from saei.views.responses import each_response


@each_response
def random_sign(context: ViewContext) -> ViewResult:
    """EgAS, then a random sign for each pixel channel that it moved. The ledger is that of the flipped images.

    A flip that would leave 0..255 is not made, for the size must stay; such channels are added to `clipped_share`.
    """
    attacked = attack(context)
    flipped, held = [], []
    for problem_id, clean, moved in zip(context.problem_ids, context.images, attacked.images, strict=True):
        generator = context.generator("attack", problem_id)
        pairs = [flip_signs(c, m, generator) for c, m in zip(clean, moved, strict=True)]
        flipped.append(tuple(image for image, _ in pairs))
        held.append(sum(count for _, count in pairs) / sum(image.numel() for image in clean))
    result = attack_result(context, attacked, flipped, view="random_sign", control=True)
    rows = [
        replace(row, clipped_share=row.clipped_share + share) for row, share in zip(result.ledger, held, strict=True)
    ]
    return replace(result, ledger=rows)


def flip_signs(
    clean: UInt8[Tensor, "3 height width"], moved: UInt8[Tensor, "3 height width"], generator: torch.Generator
) -> tuple[UInt8[Tensor, "3 height width"], int]:
    """`clean` plus `moved - clean` with signs drawn from `generator`; and how many flips the range forbade."""
    draws = torch.randint(0, 2, clean.shape, generator=generator, device=generator.device).to(clean.device)
    levels = clean.to(torch.int16)
    delta = moved.to(torch.int16) - levels
    target = levels - delta
    wanted = (draws == 1) & (delta != 0)
    allowed = (target >= 0) & (target <= 255)
    return torch.where(wanted & allowed, target, levels + delta).to(torch.uint8), int((wanted & ~allowed).sum())
