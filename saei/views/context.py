"""What a view is given, and the budget that its caller checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saei.config import SelectConfig, ViewConfig
from saei.types import ByteImages

TokenEntropy = Callable[..., list[list[Float[Tensor, " _"]]]]
"""(images, completions, kept) -> token entropies in nats, by problem and completion.

`images` are float in [0, 1], `kept` None or a boolean mask for every completion; with masks, only the entropies of the
kept tokens come back. Differentiable in the images where grad mode is on.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewContext:
    """A chunk of problems whose images a view may change; all sequences are indexed by problem.

    `images` are the clean ones, after the resize; `completions` were sampled earlier in the group plan, under any
    view. `generator(purpose, problem_id)` starts a stream of its own for each problem.
    """

    problem_ids: tuple[str, ...]
    images: tuple[ByteImages, ...]
    completions: tuple[tuple[tuple[int, ...], ...], ...]
    token_entropy: TokenEntropy
    view: ViewConfig
    select: SelectConfig
    generator: Callable[[str, str], torch.Generator]


def check_budget(
    clean: Sequence[UInt8[Tensor, "3 _ _"]], moved: Sequence[UInt8[Tensor, "3 _ _"]], allowed_levels: float
) -> None:
    """Raise RuntimeError when a pixel of one problem's images moved further than `allowed_levels` grey levels.

    Rounding to 8 bits may add up to half a level where `allowed_levels` is no whole number; nothing else may.
    """
    if [image.shape for image in clean] != [image.shape for image in moved]:
        raise RuntimeError(
            "a view changed the number or the size of the images of a problem: this is a bug of the view"
        )
    for number, (before, after) in enumerate(zip(clean, moved, strict=True)):
        levels = int((after.to(torch.int16) - before.to(torch.int16)).abs().max())
        if levels > floor(allowed_levels + 0.5):
            raise RuntimeError(
                f"image {number} moved by {levels} grey levels, the budget is {allowed_levels:g} "
                "(view.step_size x view.iterations, or view.epsilon): this is a bug of the view"
            )
