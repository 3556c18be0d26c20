"""InternVL in its Hugging Face form: tiles and a thumbnail in one run of placeholders; a plain decoder, 1-D RoPE."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saei.families.counted import counted
from saei.families.crops import CropCodec, tile_limits
from saei.families.family import Family
from saei.families.pillow import image_processor

START, END = "<img>", "</img>"


def _vision(model: Any) -> tuple[nn.Module, ...]:
    return (model.model.vision_tower,)


def _projector(model: Any) -> tuple[nn.Module, ...]:
    return (model.model.multi_modal_projector,)


def _decoder(model: Any) -> nn.Module:
    return model.model.language_model


def _processor(source: Path | str, min_pixels: int, max_pixels: int, **options: Any) -> Any:
    """Tiles are switched on, as the stock processor switches them on for its own calls."""
    processor = image_processor(source, **options)
    fewest, most = tile_limits(processor, min_pixels, max_pixels)
    return image_processor(source, crop_to_patches=True, min_patches=fewest, max_patches=most, **options)


def _image_tokens(codec: Any, image: Tensor, placeholder: int, read: Callable[[str], list[int]]) -> list[int]:
    return [*read(START), *[placeholder] * codec.tokens(image), *read(END)]


def _encode(model: Any, codec: Any, images: Sequence[Tensor]) -> Any:
    tiles = torch.cat([codec.patchify(image.to(model.device)) for image in images])
    features = model.model.get_image_features(tiles.to(model.dtype), return_dict=True)
    # all tiles of all images as one long list of tokens
    features.pooler_output = list(features.pooler_output.flatten(0, 1).split([codec.tokens(image) for image in images]))
    return features


def _reuse(features: Any, order: Sequence[int]) -> dict[str, Any]:
    features.pooler_output = torch.cat([features.pooler_output[i] for i in order])
    return {"image": features}


INTERNVL = Family(
    vision=_vision,
    projector=_projector,
    decoder=_decoder,
    processor=_processor,
    codec=CropCodec.from_processor,
    image_tokens=_image_tokens,
    encode=_encode,
    reuse=_reuse,
    positions=counted,
    axes=1,
    end_tokens=("<|im_end|>",),
    never_sampled=("<IMG_CONTEXT>", START, END, "<video>"),
)
