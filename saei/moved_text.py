"""Prompts with moved input embeddings, as an attack on the text makes them: in scoring and in the sampler's prefill."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Shift = Float[Tensor, "_ _"]  # a TextShift among others, of prompts of other lengths


@contextlib.contextmanager
def moved_text(
    embedding: nn.Embedding, shifts: Sequence[Shift | None], prompts: Sequence[tuple[int, range]]
) -> Iterator[None]:
    """Inside, `shifts[i]` is added to what the embedding gives for the row and the columns of `prompts[i]`.

    Differentiable in the shifts. Without any shift nothing is hooked. Raises ValueError for a shift that is not one
    vector of the embedding's width for each token of its prompt.
    """
    for shift, (_, prompt) in zip(shifts, prompts, strict=True):
        if shift is not None and tuple(shift.shape) != (len(prompt), embedding.embedding_dim):
            raise ValueError(
                f"text_shift must be {len(prompt)} x {embedding.embedding_dim} (tokens of its prompt x width of the "
                f"embeddings), got {' x '.join(map(str, shift.shape))}"
            )

    def move(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        added = torch.zeros_like(output)
        for shift, (row, prompt) in zip(shifts, prompts, strict=True):
            if shift is not None:
                added[row, prompt.start : prompt.stop] = shift.to(added)
        return output + added

    if all(shift is None for shift in shifts):
        yield
        return
    handle = embedding.register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()
