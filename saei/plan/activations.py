"""Bytes that a pass keeps for its backward pass, counted from the tensors that autograd saves.

The decoder runs on `meta` with a stand-in for attention that saves what torch's memory-efficient kernel saves of a
packed row's blocks (`saei.blocks`): query, key and value as it is given them, with a copy of its prefix beside every
completion, the masks as numbers of their type, its output and a logarithm per query. The vision
tower runs for real, at its true widths, with one and two layers on a small picture: what it saves is linear in patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from saei.families import family_of
from saei.plan.shapes import on_meta, thin, vision_depth

STAND_IN = "saei_counted"
SIDE = 224
"""Of the picture that the vision tower is tried on, in pixels, before the codec's resize."""


class PackedRow(NamedTuple):
    """Sizes of a packed row: its tokens, the keys that its blocks read, and the numbers in their masks."""

    tokens: int
    keys: int
    pairs: int


def packed_row(tokens: int, prompt: int, completion: int, count: int) -> PackedRow:
    """A pass of about `tokens` tokens: whole groups of a prompt and `count` completions, or as much of one as fits."""
    completions = max(1, round(tokens * count / (prompt + count * completion)))
    return PackedRow(tokens, tokens + completions * prompt, completions * completion * (prompt + completion))


class Saved:
    """Bytes of distinct storages that autograd saved, those of parameters left out."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._kept: dict[int, Tensor] = {}

    def take(self, tensor: Tensor) -> Tensor:
        number = tensor.untyped_storage()._cdata
        if number not in self._known:
            self._kept[number] = tensor  # held, or its number might be given again
        return tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())


@contextmanager
def counting(model: nn.Module) -> Iterator[Saved]:
    """Inside, what autograd saves is counted."""
    saved = Saved(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.take, lambda tensor: tensor):
        yield saved


class _Attention(torch.autograd.Function):
    """Saves what the kernel saves; computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        out, logs = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        numbers = () if mask is None else (mask.to(query.dtype),)
        ctx.save_for_backward(query, key, value, out, logs, *numbers)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise AssertionError("a plan computes no gradient")


def _counted_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    row: PackedRow = attention_mask.row  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    # of grouped queries, the heads are repeated
    key, value = (tensor.new_empty(1, query.shape[1], row.keys, tensor.shape[-1]) for tensor in (key, value))
    return _Attention.apply(query, key, value, attention_mask).transpose(1, 2).contiguous(), None  # pyright: ignore[reportOptionalMemberAccess]


AttentionInterface.register(STAND_IN, _counted_attention)
AttentionMaskInterface.register(STAND_IN, lambda *_, **__: None)


def decoder_bytes(config: Any, dtype: torch.dtype, row: PackedRow, *, recompute: bool, weights: bool) -> int:
    """Kept of one packed row by all layers. `weights` False: the pass of an attack, no weight is trained.

    `recompute`: every layer's input, and one layer while it is computed again.
    """
    model = on_meta(config, dtype, STAND_IN).requires_grad_(weights)
    decoder = family_of(model).decoder(model)
    layers: Any = decoder.layers
    width = config.get_text_config().hidden_size
    sizes = []
    for depth in (1, 2):
        decoder.layers = layers[:depth]
        sizes.append(_one_pass(model, decoder, width, dtype, row))
    layer, rest = sizes[1] - sizes[0], 2 * sizes[0] - sizes[1]
    if recompute:
        return rest + layer + len(layers) * row.tokens * width * dtype.itemsize
    return rest + layer * len(layers)


def _one_pass(model: Any, decoder: nn.Module, width: int, dtype: torch.dtype, row: PackedRow) -> int:
    family = family_of(model)
    with torch.device("meta"), counting(model) as saved:
        embeddings = torch.empty(1, row.tokens, width, dtype=dtype).requires_grad_()
        mask: Any = torch.empty(1, 1, 1, row.pairs, dtype=torch.bool)
        mask.row = row
        positions = family.position_ids(torch.zeros(family.axes, 1, row.tokens, dtype=torch.long))
        decoder(
            inputs_embeds=embeddings * 1,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        )
    return saved.bytes


def vision_bytes(config: Any, dtype: torch.dtype, codec: Any, patches: int, *, recompute: bool) -> int:
    """Kept by the vision tower of one image of `patches` patches whose pixels take a gradient, its weights none."""
    small = codec.resize(np.zeros((SIDE, SIDE, 3), dtype=np.uint8))
    image = torch.rand(*small.shape)
    own = len(codec.patchify(image))
    sizes = [_one_image(thin(config, vision_layers=depth), dtype, codec, image) for depth in (1, 2)]
    layer, rest = sizes[1] - sizes[0], 2 * sizes[0] - sizes[1]
    depth = vision_depth(config)
    inputs = own * config.vision_config.hidden_size * dtype.itemsize
    kept = rest + (layer + depth * inputs if recompute else depth * layer)
    return int(kept * patches / own)


def _one_image(config: Any, dtype: torch.dtype, codec: Any, image: Tensor) -> int:
    model = on_meta(config, dtype).to_empty(device="cpu").requires_grad_(False)
    pixels = image.clone().requires_grad_()
    with counting(model) as saved:
        family_of(model).encode(model, codec, [pixels])
    return saved.bytes
