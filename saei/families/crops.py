"""The image codec of InternVL: the grid of tiles whose shape is nearest to the picture's, and a thumbnail.

The stock processor makes the thumbnail from the picture as it came; here, as for every engine that is sent the image,
it is made from the resized 8-bit image. On that image the two agree exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from transformers.image_utils import SizeDict

# the module of the Pillow back-end: importing the other one needs torchvision
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from saei.families.tiles import Tiles


@dataclass(frozen=True, kw_only=True, slots=True)
class CropCodec(Tiles):
    """`fewest` and `most` tiles of an image, the thumbnail not counted."""

    fewest: int
    most: int

    @classmethod
    def from_processor(cls, processor: Any, config: Any, min_pixels: int, max_pixels: int) -> "CropCodec":
        """The codec of a stock InternVL image processor, for the model that `config` describes.

        Raises ValueError for a processor of another kind, and for tiles that do not become a whole number of tokens.
        """
        fewest, most = tile_limits(processor, min_pixels, max_pixels)
        tile, patch = processor.size.height, config.vision_config.patch_size[0]
        side = tile // patch * config.downsample_ratio
        if side != int(side) or side < 1:
            raise ValueError(
                f"model.path: a tile of {tile} pixels is {tile // patch} patches of {patch}, of which downsample_ratio "
                f"{config.downsample_ratio:g} makes no whole number of tokens; preprocessor_config.json does not fit it"
            )
        return cls(processor=processor, tile=tile, tile_tokens=int(side) ** 2, fewest=fewest, most=most)

    def resize(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 resized_height resized_width"]:
        """The one resize, by the stock processor's own filter, to a grid that it would choose again.

        Raises ValueError where it would choose ever another one.
        """
        height, width = self._settled_size(*image.shape[:2])
        pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
        pixels = self.processor.resize(pixels, SizeDict(height=height, width=width), resample=self.processor.resample)
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def _settled_size(self, height: int, width: int) -> tuple[int, int]:
        size = (height, width)
        for _ in range(8):
            columns, rows = get_optimal_tiled_canvas(size, (self.tile, self.tile), self.fewest, self.most)
            if size == (rows * self.tile, columns * self.tile):
                return size
            size = (rows * self.tile, columns * self.tile)
        raise ValueError(
            f"no grid of {self.fewest} to {self.most} tiles keeps an image of {width} x {height} pixels at its size; "
            "set data.min_pixels and data.max_pixels further apart"
        )


def tile_limits(processor: Any, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Fewest and most tiles of an image under the pixel limits, within those of the processor.

    Raises ValueError for an image processor of another kind, and for limits that no number of tiles fits.
    """
    size: Any = getattr(processor, "size", None)
    if not hasattr(processor, "max_patches") or not getattr(size, "height", None) or size.height != size.width:
        raise ValueError(
            f"model.path: its image processor {type(processor).__name__} has no max_patches or no square size, "
            "and InternVL needs both"
        )
    area = size.height * size.width
    fewest, most = max(processor.min_patches, -(-min_pixels // area)), min(processor.max_patches, max_pixels // area)
    if fewest > most:
        raise ValueError(
            f"data.min_pixels {min_pixels} to data.max_pixels {max_pixels} is {fewest} to {most} tiles of "
            f"{size.height} x {size.width} pixels; set data.max_pixels to at least {fewest * area}, within the model's "
            f"{processor.max_patches} tiles"
        )
    return fewest, most
