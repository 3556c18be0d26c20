"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches merged 2 x 2 into tokens, M-RoPE positions, deep features in Qwen3-VL."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from saei.families.family import Family, Positions
from saei.families.pillow import image_processor
from saei.pixels import ImageCodec


def _vision(model: Any) -> tuple[nn.Module, ...]:
    return (model.model.visual,)


def _projector(model: Any) -> tuple[nn.Module, ...]:
    visual = model.model.visual
    return (visual.merger, *getattr(visual, "deepstack_merger_list", ()))


def _decoder(model: Any) -> nn.Module:
    return model.model.language_model


def _processor(source: Path | str, min_pixels: int, max_pixels: int, **options: Any) -> Any:
    """With the limits under both of their names: the hub's files have the older ones, which the processor prefers."""
    limits = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    return image_processor(source, size=size, **limits, **options)


def _codec(processor: Any, config: Any, min_pixels: int, max_pixels: int) -> ImageCodec:
    return ImageCodec.from_processor(processor, min_pixels, max_pixels)


def _image_tokens(codec: Any, image: Tensor, placeholder: int, read: Callable[[str], list[int]]) -> list[int]:
    return [placeholder] * codec.tokens(image)


def _encode(model: Any, codec: Any, images: Sequence[Tensor]) -> Any:
    patches = torch.cat([codec.patchify(image.to(model.device)) for image in images])
    return model.model.get_image_features(
        patches.to(model.dtype), _grids(codec, images).to(model.device), return_dict=True
    )


def _grids(codec: Any, images: Sequence[Tensor]) -> Int[Tensor, "images 3"]:
    return torch.stack([codec.grid_thw(image) for image in images])


def _reuse(features: Any, order: Sequence[int]) -> dict[str, Any]:
    features.pooler_output = [features.pooler_output[i] for i in order]
    if getattr(features, "deepstack_features", None) is not None:
        features.deepstack_features = [[layer[i] for i in order] for layer in features.deepstack_features]
    return {"image": features}


def _positions(
    model: Any,
    codec: Any,
    token_ids: Int[Tensor, "rows columns"],
    attended: Bool[Tensor, "rows columns"],
    images: Sequence[Tensor],
) -> tuple[Positions, Int[Tensor, " rows"]]:
    """The model's own `get_rope_index`, passed on explicitly: positions that the model infers itself depend on
    `rope_deltas` left behind by an earlier call.
    """
    positions, deltas = model.model.get_rope_index(
        token_ids,
        mm_token_type_ids=(token_ids == model.config.image_token_id).int(),
        image_grid_thw=_grids(codec, images).to(token_ids.device) if images else None,
        attention_mask=attended.long(),
    )
    return positions, attended.sum(-1) + deltas.to(token_ids.device).flatten()


QWEN_VL = Family(
    vision=_vision,
    projector=_projector,
    decoder=_decoder,
    processor=_processor,
    codec=_codec,
    image_tokens=_image_tokens,
    encode=_encode,
    reuse=_reuse,
    positions=_positions,
    axes=3,
    end_tokens=("<|im_end|>",),
    never_sampled=("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
)
