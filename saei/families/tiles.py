"""Image codecs that cut a large picture into square tiles and add the whole of it once more, small; Idefics3's and
SmolVLM's is here.

The picture is resized as the stock processor resizes it, to 8 bits, and that array is the image: its sides are whole
numbers of tiles, so the processor takes it as it is. The small one is a resize of it, made by Pillow from the
rounded image, so that its levels are those any engine computes; the gradient passes through it by the same filter
weights, without the rounding in between.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers.image_utils import SizeDict

from saei.types import to_bytes, to_unit

LARGEST = 4096
"""Longest side that the stock processor ever makes, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """What such codecs share: all but the one resize. `processor` is the stock image processor, `tile` a side in
    pixels, `tile_tokens` the placeholders of a tile.
    """

    processor: Any
    tile: int
    tile_tokens: int

    @property
    def mean(self) -> tuple[float, float, float]:
        """Per channel, in [0, 1] units."""
        return tuple(self.processor.image_mean)

    @property
    def std(self) -> tuple[float, float, float]:
        """Per channel, in [0, 1] units."""
        return tuple(self.processor.image_std)

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of tiles of a resized image."""
        return image.shape[-2] // self.tile, image.shape[-1] // self.tile

    def frames(self, image: Tensor) -> int:
        """Tiles that the vision tower sees of a resized image, the small one included."""
        rows, columns = self.grid(image)
        return rows * columns + (rows * columns > 1)

    def tokens(self, image: Tensor) -> int:
        """Placeholder tokens of a resized image in the prompt."""
        return self.frames(image) * self.tile_tokens

    def patchify(
        self, image: UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]
    ) -> Float[Tensor, "frames 3 tile tile"]:
        """`pixel_values` of a resized image: uint8, or float in [0, 1] with a gradient. The same levels give the same
        bits either way. Tiles in reading order, then the small image.
        """
        pixels = to_unit(image) if image.dtype == torch.uint8 else image
        rows, columns = self.grid(image)
        frames = pixels.reshape(3, rows, self.tile, columns, self.tile).permute(1, 3, 0, 2, 4).flatten(0, 1)
        if rows * columns > 1:
            frames = torch.cat([frames, self._small(pixels)[None]])
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (frames - mean) / std

    def _small(self, pixels: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 tile tile"]:
        """Pillow's resize of the rounded image, and the filter's linear answer to what rounding took away: zero at
        whole levels, where only its gradient is left.
        """
        rounded = to_bytes(pixels)
        picture = Image.fromarray(rounded.permute(1, 2, 0).cpu().numpy())
        resized = np.array(picture.resize((self.tile, self.tile), resample=Image.Resampling(self.processor.resample)))
        exact = to_unit(torch.from_numpy(resized).permute(2, 0, 1)).to(pixels)
        height, width = (
            _weights(side, self.tile, int(self.processor.resample)).to(pixels) for side in pixels.shape[1:]
        )
        return exact + height @ (pixels - to_unit(rounded).to(pixels)) @ width.T


@dataclass(frozen=True, kw_only=True, slots=True)
class TileCodec(Tiles):
    """Idefics3 and SmolVLM. `longest` is the longest side of every image, in pixels; `split` False: one tile of the
    squeezed image and nothing else, as when `longest` is `tile`.
    """

    longest: int
    split: bool

    @classmethod
    def from_processor(cls, processor: Any, config: Any, min_pixels: int, max_pixels: int) -> "TileCodec":
        """The codec of a stock Idefics3 or SmolVLM image processor, for the model that `config` describes.

        Raises ValueError for a processor of another kind, and for tiles that do not become a whole number of tokens.
        """
        longest = longest_side(processor, min_pixels, max_pixels)
        tile, patch, scale = _tile(processor), config.vision_config.patch_size, config.scale_factor
        side = tile // patch
        if scale < 1 or side == 0 or side % scale:
            raise ValueError(
                f"model.path: a tile of {tile} pixels is {side} patches of {patch}, which {scale} does not divide; "
                "max_image_size of preprocessor_config.json does not fit scale_factor of config.json"
            )
        return cls(
            processor=processor,
            tile=tile,
            longest=longest,
            split=bool(processor.do_image_splitting),
            tile_tokens=(side // scale) ** 2,
        )

    def resize(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 resized_height resized_width"]:
        """The one resize, by the stock processor's own two: the longest side to `longest`, both sides up to tiles."""
        filter_ = self.processor.resample
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        pixels = self.processor.resize(pixels, SizeDict(longest_edge=self.longest), resample=filter_)
        if self.split:
            pixels = self.processor.resize_for_vision_encoder(pixels, self.tile, resample=filter_)
        else:
            pixels = self.processor.resize(pixels, SizeDict(height=self.tile, width=self.tile), resample=filter_)
        return torch.from_numpy(np.ascontiguousarray(pixels))


def longest_side(processor: Any, min_pixels: int, max_pixels: int) -> int:
    """The longest side of every resized image, in pixels: whole tiles, the processor's own `longest_edge` at most.

    Raises ValueError for an image processor of another kind, and for pixel limits outside what its tiles allow.
    """
    sides = (
        (getattr(processor, "max_image_size", None) or {}).get("longest_edge"),
        getattr(getattr(processor, "size", None), "longest_edge", None),
    )
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(
            f"model.path: its image processor {type(processor).__name__} has {sides[0]!r} and {sides[1]!r} as the "
            "longest edges of max_image_size and size; Idefics3 and SmolVLM need two numbers of pixels"
        )
    tile = _tile(processor)
    if tile % 2 or tile > LARGEST:
        raise ValueError(
            f"model.path: tiles of {tile} pixels would be resized again by every engine; set max_image_size in "
            f"preprocessor_config.json to an even number up to {LARGEST}"
        )
    if max_pixels < tile * tile:
        raise ValueError(
            f"data.max_pixels {max_pixels} is less than one tile of {tile} x {tile} pixels; set it to at least "
            f"{tile * tile}, or to {(2 * tile) ** 2} for two tiles along the longest side"
        )
    asked = -(-processor.size.longest_edge // tile) if processor.do_image_splitting else 1
    longest = tile * min(asked, isqrt(max_pixels) // tile, LARGEST // tile)
    if min_pixels > tile * longest:
        raise ValueError(
            f"data.min_pixels {min_pixels} cannot be kept: with a longest side of {longest} pixels this model's images "
            f"may have {tile * longest}; lower it, or raise data.max_pixels"
        )
    return longest


def _tile(processor: Any) -> int:
    return processor.max_image_size["longest_edge"]


@lru_cache(maxsize=64)
def _weights(before: int, after: int, resample: int) -> Float[Tensor, "after before"]:
    """Pillow's filter weights along one axis: what it makes of each unit vector, in float."""
    unit = Image.fromarray(np.eye(before, dtype=np.float32))
    return torch.from_numpy(np.array(unit.resize((after, before), resample=Image.Resampling(resample)))).T.contiguous()
