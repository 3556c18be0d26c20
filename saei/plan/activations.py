"""Bytes that a pass keeps for its backward pass, counted from the tensors that autograd saves.

The decoder runs on `meta` with a stand-in for attention that saves what torch's memory-efficient kernel saves: query,
key and value as it is given them, the mask as numbers of their type, its output and a logarithm per query. The vision
tower runs for real, at its true widths, with one and two layers on a small picture: what it saves is linear in patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from saei.families import family_of
from saei.plan.shapes import on_meta, thin, vision_depth

STAND_IN = "saei_counted"
SIDE = 224
"""Of the picture that the vision tower is tried on, in pixels, before the codec's resize."""


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
    repeats = query.shape[1] // key.shape[1]  # with a mask, the stock code repeats the heads of grouped queries
    key, value = (tensor.repeat_interleave(repeats, dim=1) if repeats > 1 else tensor for tensor in (key, value))
    return _Attention.apply(query, key, value, attention_mask).transpose(1, 2).contiguous(), None  # pyright: ignore[reportOptionalMemberAccess]


AttentionInterface.register(STAND_IN, _counted_attention)
AttentionMaskInterface.register(STAND_IN, lambda *_, **__: None)


def decoder_bytes(config: Any, dtype: torch.dtype, tokens: int, *, recompute: bool, weights: bool) -> int:
    """Kept of one packed row of `tokens` by all layers. `weights` False: the pass of an attack, no weight is trained.

    `recompute`: every layer's input, and one layer while it is computed again.
    """
    model = on_meta(config, dtype, STAND_IN).requires_grad_(weights)
    decoder = family_of(model).decoder(model)
    layers: Any = decoder.layers
    width = config.get_text_config().hidden_size
    sizes = []
    for depth in (1, 2):
        decoder.layers = layers[:depth]
        sizes.append(_one_pass(model, decoder, width, dtype, tokens))
    layer, rest = sizes[1] - sizes[0], 2 * sizes[0] - sizes[1]
    if recompute:
        return rest + layer + len(layers) * tokens * width * dtype.itemsize
    return rest + layer * len(layers)


def _one_pass(model: Any, decoder: nn.Module, width: int, dtype: torch.dtype, tokens: int) -> int:
    family = family_of(model)
    with torch.device("meta"), counting(model) as saved:
        embeddings = torch.empty(1, tokens, width, dtype=dtype).requires_grad_()
        mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bool)
        positions = family.position_ids(torch.zeros(family.axes, 1, tokens, dtype=torch.long))
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
