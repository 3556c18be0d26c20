"""What must be known of a model's architecture, as functions of one record; no file outside this folder names one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

Positions = Int[Tensor, "axes rows columns"]
"""Rotary positions: 3 axes (time, row, column) for M-RoPE, 1 for a plain decoder."""


class Codec(Protocol):
    """An image processor taken apart (DESIGN 4.1): the one resize to 8 bits, and the differentiable rest."""

    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...

    def resize(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 resized_height resized_width"]:
        """The one resize; resizing its result, by ours or by the stock processor as saved, changes nothing."""
        ...

    def tokens(self, image: Tensor) -> int:
        """Placeholder tokens that a resized image has in the prompt; what frames them is not counted."""
        ...

    def patchify(
        self, image: UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]
    ) -> Float[Tensor, "patches ..."]:
        """`pixel_values` of a resized image, equal to the stock processor's, differentiable for floats in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One kind of model. Every function is given the stock model, its codec or its processor, never our policy.

    Features of an image are whatever `encode` returns for it; `reuse` lays them out for the placeholder runs of a batch
    in row order, as the stock forward's `mm_encoder_outputs`, so that one encoding serves several rows.
    """

    vision: Callable[[Any], tuple[nn.Module, ...]]
    """The vision tower, as `model.freeze_vision` freezes it."""
    projector: Callable[[Any], tuple[nn.Module, ...]]
    """What carries the tower's output to the decoder's width. Qwen-VL's merger is also part of its tower."""
    decoder: Callable[[Any], nn.Module]
    """The text decoder: takes input embeddings, a 4-D mask, positions and a cache; returns hidden states."""
    processor: Callable[..., Any]
    """(source, min_pixels, max_pixels, **options) -> the stock image processor, set so that a resized image, sent
    through it again, keeps its size; as `Policy.save` writes it."""
    codec: Callable[[Any, Any, int, int], Any]
    """(image processor, model config, min_pixels, max_pixels) -> its `Codec`."""
    image_tokens: Callable[[Any, Tensor, int, Callable[[str], list[int]]], list[int]]
    """(codec, resized image, id of the placeholder, read) -> the prompt tokens that one placeholder of the chat
    template becomes; `read` gives the ids of a special token or of plain text between special tokens."""
    encode: Callable[[Any, Any, Sequence[Tensor]], Any]
    """(model, codec, resized images) -> their features, encoded in one pass."""
    reuse: Callable[[Any, Sequence[int]], dict[str, Any]]
    """(features, order) -> `mm_encoder_outputs` in which placeholder run i shows image `order[i]`."""
    positions: Callable[[Any, Any, Tensor, Bool[Tensor, "rows columns"], Sequence[Tensor]], tuple[Positions, Tensor]]
    """(model, codec, token ids, attended, the image of every placeholder run) -> positions of the columns, and the
    position of the token that follows each row."""
    axes: int
    """Rows of `Positions`: 3 or 1."""
    end_tokens: tuple[str, ...]
    """What ends the assistant's turn, beside the end tokens of the generation config."""
    never_sampled: tuple[str, ...]
    """Tokens that stand for images or frame them: no completion may hold one."""

    def position_ids(self, positions: Positions) -> Int[Tensor, "..."]:
        """Positions as the decoder takes them: a plain decoder has no leading axis."""
        return positions if self.axes > 1 else positions[0]
