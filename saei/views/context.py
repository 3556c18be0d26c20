"""What a view is given, and the budget that its caller checks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from saei.config import SelectConfig, ViewConfig
from saei.types import ByteImages

TokenScore = Callable[..., list[list[Float[Tensor, " _"]]]]
"""(images, completions, kept) -> a number per token, by problem and completion: entropies in nats, or log-probs.

`images` are float in [0, 1], `kept` None or a boolean mask for every completion; with masks, only the numbers of the
kept tokens come back. Differentiable in the images where grad mode is on. `token_entropy` also takes a function that is
given the entropies of all tokens, without gradient, and returns the masks: what chooses and what is climbed is then one
pass.
"""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviations of the Qwen2.5-VL image processor, in [0, 1] units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewContext:
    """A chunk of problems whose input a view may change; all sequences are indexed by problem.

    `images` are the clean ones, after the resize; `completions` were sampled earlier in the group plan, under any
    view, and `right` says which of them were graded right. `count` more will be sampled under this view.
    `generator(purpose, problem_id)` starts a stream of its own for each problem. `strength` is schedule times back-off.

    What only some views read: `token_logprobs`; `token_scores(images, completions)`, the scores of `select.score` where
    that is not entropy, without gradient; `thresholds` of select.rule quantile (nats); `channel_std` of the image
    processor ([0, 1] units); `text_entropy(shifts, completions, kept)`, entropies on the clean images with moved prompt
    embeddings, differentiable in the shifts; `questions`, the prompt positions that are text of the question;
    `embeddings(i)`, the input embeddings of the prompt of problem i.
    """

    problem_ids: tuple[str, ...]
    images: tuple[ByteImages, ...]
    completions: tuple[tuple[tuple[int, ...], ...], ...]
    token_entropy: TokenScore
    view: ViewConfig
    select: SelectConfig
    generator: Callable[[str, str], torch.Generator]
    strength: float = 1.0
    count: int = 1
    right: tuple[tuple[bool, ...], ...] = ()
    token_logprobs: TokenScore | None = None
    token_scores: TokenScore | None = None
    thresholds: tuple[float, float] | None = None
    channel_std: tuple[float, float, float] = CLIP_STD
    text_entropy: TokenScore | None = None
    questions: tuple[Bool[Tensor, " _"], ...] = ()
    embeddings: Callable[[int], Float[Tensor, "_ _"]] | None = None


def refuse_without_completions(context: ViewContext) -> None:
    """Raise ValueError where a problem has no earlier completion for an attack to read."""
    for problem_id, completions in zip(context.problem_ids, context.completions, strict=True):
        if not any(completions):
            raise ValueError(
                f"problem {problem_id} has no earlier completion for the attack to read: "
                "the group plan must start with clean completions (--rollout.n-clean 6)"
            )


def check_budget(
    clean: Sequence[UInt8[Tensor, "3 _ _"]], moved: Sequence[UInt8[Tensor, "3 _ _"]], allowed_levels: float | None
) -> None:
    """Raise RuntimeError when a pixel of one problem's images moved further than `allowed_levels` grey levels.

    Rounding to 8 bits may add up to half a level where `allowed_levels` is no whole number; nothing else may. With
    None, for views without an L-infinity bound, number, size and type of the images are checked.
    """
    if [image.shape for image in clean] != [image.shape for image in moved]:
        raise RuntimeError(
            "a view changed the number or the size of the images of a problem: this is a bug of the view"
        )
    for number, (before, after) in enumerate(zip(clean, moved, strict=True)):
        if after.dtype != torch.uint8:
            raise RuntimeError(f"image {number} is {after.dtype}, not 8 bits a channel: this is a bug of the view")
        levels = int((after.to(torch.int16) - before.to(torch.int16)).abs().max())
        if allowed_levels is not None and levels > floor(allowed_levels + 0.5):
            raise RuntimeError(
                f"image {number} moved by {levels} grey levels, the budget is {allowed_levels:g} "
                "(view.step_size x view.iterations, or view.epsilon): this is a bug of the view"
            )
