"""NoisyRollout's view: the image after k steps of a diffusion's forward process (arXiv 2504.13055, methods.md 6.1).

One noisy image per prompt and step, shared by all its completions. Two differences from the released code: it cuts to
8 bits, which darkens by half a level, and we round; its noise is unseeded, ours has a stream for each problem.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saei.types import ViewResult, to_bytes, to_unit
from saei.views.context import ViewContext
from saei.views.ledger import pixel_row

DIFFUSION_STEPS = 1000


def noise(context: ViewContext) -> ViewResult:
    """Noise of step k = int(noise_level * strength).

    At k = 0 a standard deviation of 0.0047 (1.2 grey levels) stays, as in the released code: a view that has decayed
    is not the clean one. With `view.noise_level` 0 it is: the noise is off, the images come back bit for bit.
    """
    k = int(context.view.noise_level * context.strength)
    images, rows = [], []
    for problem_id, clean in zip(context.problem_ids, context.images, strict=True):
        noisy, clipped_share = clean, 0.0
        if context.view.noise_level > 0:
            generator = context.generator("attack", problem_id)
            drawn = [_noisy(image, k, generator) for image in clean]
            outside = sum(int(((image < 0) | (image > 1)).sum()) for image in drawn)
            clipped_share = outside / sum(image.numel() for image in drawn)
            noisy = tuple(to_bytes(image) for image in drawn)
        images.append(noisy)
        rows.append(pixel_row(problem_id, "noise", clean, noisy, clipped_share=clipped_share))
    return ViewResult(images=[[group] for group in images], ledger=rows)


def signal_shares() -> Float[Tensor, " steps"]:
    """alpha-bar of every step, float64: the share of the image's variance that is left."""
    u = torch.linspace(-6, 6, DIFFUSION_STEPS, dtype=torch.float64)
    beta = torch.sigmoid(u) * (5e-3 - 1e-5) + 1e-5
    return torch.cumprod(1 - beta, 0)


SIGNAL_SHARES = signal_shares()


def diffuse(
    image: UInt8[Tensor, "3 height width"], k: int, generator: torch.Generator
) -> UInt8[Tensor, "3 height width"]:
    """sqrt(alpha-bar) * image + sqrt(1 - alpha-bar) * normal noise at step `k` of 0..999; clamped, then rounded.

    Raises IndexError for a step that does not exist.
    """
    return to_bytes(_noisy(image, k, generator))


def _noisy(image: Tensor, k: int, generator: torch.Generator) -> Float[Tensor, "3 height width"]:
    if not 0 <= k < DIFFUSION_STEPS:
        raise IndexError(f"a diffusion step is in 0-{DIFFUSION_STEPS - 1}, got {k}")
    share = float(SIGNAL_SHARES[k])
    normal = torch.randn(image.shape, generator=generator, device=generator.device).to(image.device)
    return share**0.5 * to_unit(image) + (1 - share) ** 0.5 * normal
