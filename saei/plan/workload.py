"""How long prompts and completions are, as a plan takes them: from settings, or from problems looked at."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from saei.config import Config

TEXT_TOKENS = 200
"""Assumed of question, chat template and system prompt together where no problem was looked at."""
MEAN_COMPLETION = 600
"""Assumed mean tokens of a completion: what 7B models write on Geometry3K lies in the hundreds; no paper says it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Tokens. `prompt` is the longest prompt, `image` what of it an image has, `completion` a mean."""

    prompt: int
    image: int
    completion: int
    patches: int
    assumed: str


def assumed_workload(config: Config, codec: Any) -> Workload:
    """One image a problem, as large a square as `data.max_pixels` allows."""
    side = math.isqrt(config.data.max_pixels)
    largest = codec.resize(np.zeros((side, side, 3), dtype=np.uint8))
    image = codec.tokens(largest)
    longest = config.rollout.max_new_tokens
    completion = min(longest, MEAN_COMPLETION) if longest > MEAN_COMPLETION else max(1, longest // 2)
    return Workload(
        prompt=image + TEXT_TOKENS,
        image=image,
        completion=completion,
        patches=len(codec.patchify(largest)),
        assumed=f"one image of {image} tokens (data.max_pixels), {TEXT_TOKENS} tokens of text, completions of "
        f"{completion} tokens on average and {longest} at most",
    )
