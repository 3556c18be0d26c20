"""Made-up prompts and completions of exact lengths: a noise image among random words, seeded."""

from collections.abc import Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from saei.types import Prompt

IMAGE_SHARE = 0.75
"""Of a prefix that is image tokens; the image is the largest square within it."""


def words(policy: Any, count: int, generator: torch.Generator) -> Tensor:
    """`count` random ids of tokens that a completion may hold and that do not end it."""
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    usable = torch.ones(vocabulary, dtype=torch.bool)
    usable[[*policy.suppressed_token_ids, *policy.end_token_ids]] = False
    allowed = torch.nonzero(usable).flatten()
    return allowed[torch.randint(len(allowed), (count,), generator=generator)]


def prompt(policy: Any, length: int, generator: torch.Generator, problem_id: str = "made-up") -> Prompt:
    """A prompt of exactly `length` tokens with one square image."""
    config = policy.model.config
    cells = isqrt(int(IMAGE_SHARE * length))
    side = cells * policy.codec.cell
    image = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
    placeholders = [policy.image_token_id] * policy.codec.tokens(image)
    shown = [config.vision_start_token_id, *placeholders, config.vision_end_token_id]
    text = words(policy, length - len(shown), generator).tolist()
    token_ids = (*text[:2], *shown, *text[2:])
    return Prompt(problem_id=problem_id, token_ids=token_ids, images=(image.to(policy.device),))


def completions(policy: Any, lengths: Sequence[int], generator: torch.Generator) -> tuple[tuple[int, ...], ...]:
    """Random completions of these lengths."""
    return tuple(tuple(words(policy, length, generator).tolist()) for length in lengths)


def spread_lengths(longest: int, count: int, shortest: float) -> list[int]:
    """`count` lengths, evenly from `longest` down to the share `shortest` of it."""
    if count == 1:
        return [longest]
    return [max(1, round(longest * (1 - (1 - shortest) * i / (count - 1)))) for i in range(count)]
