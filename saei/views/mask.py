"""Black blocks: PAPO's and VPPO's view of an image with parts of it hidden (arXiv 2507.06448, 2510.09285).

They blacken the image at its original size; here it is the resized one, so that the blocks are the vision tower's own
patches and the clean image is the same array as everywhere else.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor

from saei.types import ViewResult
from saei.views.context import ViewContext
from saei.views.ledger import pixel_row

BLOCK = 14
"""Side of a block in pixels."""


def mask(context: ViewContext) -> ViewResult:
    """Every block of every image is black with probability mask_share * strength; one draw per problem."""
    share = context.view.mask_share * context.strength
    images = []
    for problem_id, clean in zip(context.problem_ids, context.images, strict=True):
        generator = context.generator("attack", problem_id)
        images.append(tuple(blacken_blocks(image, share, generator) for image in clean))
    rows = [
        pixel_row(problem_id, "mask", clean, masked)
        for problem_id, clean, masked in zip(context.problem_ids, context.images, images, strict=True)
    ]
    return ViewResult(images=[[group] for group in images], ledger=rows)


def blacken_blocks(
    image: UInt8[Tensor, "3 height width"], share: float, generator: torch.Generator
) -> UInt8[Tensor, "3 height width"]:
    """Blocks of 14 x 14 pixels, aligned to the top left corner, black with probability `share`, independently."""
    height, width = image.shape[-2:]
    draws = torch.rand(-(-height // BLOCK), -(-width // BLOCK), generator=generator, device=generator.device)
    hidden = (draws < share).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[:height, :width]
    return image.masked_fill(hidden.to(image.device), 0)
