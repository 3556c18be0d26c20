"""Idefics3 and SmolVLM: tiles and the whole image, named by row and column in the prompt; a plain decoder, 1-D RoPE."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saei.families.counted import counted
from saei.families.family import Family
from saei.families.pillow import image_processor
from saei.families.tiles import TileCodec, longest_side

FRAME, GLOBAL = "<fake_token_around_image>", "<global-img>"


def _vision(model: Any) -> tuple[nn.Module, ...]:
    return (model.model.vision_model,)


def _projector(model: Any) -> tuple[nn.Module, ...]:
    return (model.model.connector,)


def _decoder(model: Any) -> nn.Module:
    return model.model.text_model


def _processor(source: Path | str, min_pixels: int, max_pixels: int, **options: Any) -> Any:
    processor = image_processor(source, **options)
    return image_processor(source, size={"longest_edge": longest_side(processor, min_pixels, max_pixels)}, **options)


def _image_tokens(codec: Any, image: Tensor, placeholder: int, read: Callable[[str], list[int]]) -> list[int]:
    """`<fake><row_1_col_1>` and its tile, ..., a line break after each row; then the whole image, and `<fake>`."""
    rows, columns = codec.grid(image)
    tile = [placeholder] * codec.tile_tokens
    if rows * columns == 1:
        return [*read(FRAME + GLOBAL), *tile, *read(FRAME)]
    token_ids: list[int] = []
    for row in range(rows):
        for column in range(columns):
            line_break = "\n" if row and not column else ""
            token_ids += [*read(f"{line_break}{FRAME}<row_{row + 1}_col_{column + 1}>"), *tile]
    return [*token_ids, *read(f"\n\n{FRAME}{GLOBAL}"), *tile, *read(FRAME)]


def _encode(model: Any, codec: Any, images: Sequence[Tensor]) -> Any:
    tiles = torch.cat([codec.patchify(image.to(model.device)) for image in images])
    features = model.model.get_image_features(tiles[None].to(model.dtype), return_dict=True)
    # all tiles of all images as one long list of tokens
    features.pooler_output = list(features.pooler_output[0].split([codec.tokens(image) for image in images]))
    return features


def _reuse(features: Any, order: Sequence[int]) -> dict[str, Any]:
    features.pooler_output = [features.pooler_output[i] for i in order]
    return {"image": features}


IDEFICS = Family(
    vision=_vision,
    projector=_projector,
    decoder=_decoder,
    processor=_processor,
    codec=TileCodec.from_processor,
    image_tokens=_image_tokens,
    encode=_encode,
    reuse=_reuse,
    positions=counted,
    axes=1,
    end_tokens=("<end_of_utterance>",),
    never_sampled=(
        "<image>",
        FRAME,
        GLOBAL,
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    ),
)
