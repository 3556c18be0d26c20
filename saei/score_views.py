"""The image under which completions are only scored, never sampled: VEPO's noise, PAPO's and VPPO's black blocks.

Two deliberate differences from the released codes: the noise is VEPO's as its paper states it (the code adds it to one
shared array again and again), and blocks are drawn on the resized image (see `saei/views/mask.py`).
"""

from collections.abc import Callable

import torch

from saei.config import ScoreConfig
from saei.types import ByteImages
from saei.views.diffusion import diffuse
from saei.views.mask import blacken_blocks

ScoreView = Callable[[ByteImages, ScoreConfig, torch.Generator], ByteImages]
"""(clean 8-bit images of a problem, settings, generator) -> 8-bit images of the same sizes."""


def noise(images: ByteImages, score: ScoreConfig, generator: torch.Generator) -> ByteImages:
    """Diffusion noise of step `noise_level` on every image (VEPO, arXiv 2606.03937: step 500)."""
    return tuple(diffuse(image, score.noise_level, generator) for image in images)


def mask(images: ByteImages, score: ScoreConfig, generator: torch.Generator) -> ByteImages:
    """14-pixel blocks black with probability `mask_share` (PAPO, arXiv 2507.06448: 0.6; VPPO, 2510.09285: 0.5)."""
    return tuple(blacken_blocks(image, score.mask_share, generator) for image in images)


def no_image(images: ByteImages, score: ScoreConfig, generator: torch.Generator) -> ByteImages:
    """Black images of the same sizes: VEPO's `no_image`, and a `mask_share` of 1."""
    return tuple(torch.zeros_like(image) for image in images)


SCORE_VIEWS: dict[str, ScoreView] = {"noise": noise, "mask": mask, "no_image": no_image}
"""`score.view` -> the images that completions are compared under."""
