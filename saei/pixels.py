"""Image <-> patch codec: the stock image processor, taken apart so that a gradient can pass and nothing resizes twice.

The image is resized once, here, to 8 bits; every view, evaluation and engine starts from that array. Normalising and
cutting into patches is differentiable and equals the stock processor of the Qwen-VL family (tested to 1e-5), where
each patch carries `temporal` copies of the still image: autograd sums their gradients, so no frame is attacked apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

# the module of the Pillow back-end: importing the other one needs torchvision
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from saei.types import to_unit

MAX_ASPECT = 200
"""Longest side over shortest side that the Qwen-VL resize accepts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCodec:
    """Sizes in pixels; `mean` and `std` per channel in [0, 1] units; `resample` is the number of a Pillow filter."""

    patch: int
    merge: int
    temporal: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def from_processor(cls, processor: Any, min_pixels: int, max_pixels: int) -> "ImageCodec":
        """The codec of a stock Qwen-VL image processor, under our pixel limits. Raises ValueError for another kind."""
        needed = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "resample")
        missing = [name for name in needed if getattr(processor, name, None) is None]
        if missing:
            raise ValueError(
                f"model.path: its image processor {type(processor).__name__} has no {', '.join(missing)}, "
                "which a Qwen-VL model needs"
            )
        return cls(
            patch=processor.patch_size,
            merge=processor.merge_size,
            temporal=processor.temporal_patch_size,
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
            resample=int(processor.resample),
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )

    @property
    def cell(self) -> int:
        """Side of the square that becomes one token, in pixels."""
        return self.patch * self.merge

    def resize(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[Tensor, "3 resized_height resized_width"]:
        """The one resize: to multiples of a cell within the pixel limits, by the processor's own filter.

        Repeated until a further one would change nothing, so that an engine with these limits takes the image as it
        is; but for very long images and narrow limits the first answer already is the last. Raises ValueError for an
        image that is more than 200 times longer than wide, and for limits that no size fits.
        """
        height, width = image.shape[:2]
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise ValueError(
                f"an image of {width} x {height} pixels is more than {MAX_ASPECT} times longer than wide, which the "
                "model's resize refuses; crop or drop it"
            )
        new_height, new_width = self._settled_size(height, width)
        picture = Image.fromarray(image)
        if (new_height, new_width) != (height, width):
            picture = picture.resize((new_width, new_height), resample=Image.Resampling(self.resample))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def _settled_size(self, height: int, width: int) -> tuple[int, int]:
        size = (height, width)
        for _ in range(8):
            resized = smart_resize(*size, factor=self.cell, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
            if resized == size:
                return size
            size = resized
        raise ValueError(
            f"no size in whole {self.cell} x {self.cell} cells for an image of {width} x {height} pixels lies between "
            f"data.min_pixels {self.min_pixels} and data.max_pixels {self.max_pixels}; set them further apart"
        )

    def grid_thw(self, image: Tensor) -> Int[Tensor, " 3"]:
        """(1, patch rows, patch columns) of a resized image."""
        return torch.tensor([1, image.shape[-2] // self.patch, image.shape[-1] // self.patch])

    def tokens(self, image: Tensor) -> int:
        """Placeholder tokens of a resized image in the prompt."""
        return (image.shape[-2] // self.cell) * (image.shape[-1] // self.cell)

    def patchify(
        self, image: UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]
    ) -> Float[Tensor, "patches values"]:
        """`pixel_values` of a resized image: uint8, or float in [0, 1] with a gradient. The same levels give the same
        bits either way. Patches are in merge order, values in the order channel, frame, row, column.
        """
        pixels = to_unit(image) if image.dtype == torch.uint8 else image
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        rows, columns = image.shape[-2] // self.patch, image.shape[-1] // self.patch
        cells = ((pixels - mean) / std).reshape(
            3, rows // self.merge, self.merge, self.patch, columns // self.merge, self.merge, self.patch
        )
        frames = cells[None].expand(self.temporal, *cells.shape)
        # (frame, channel, R, r, y, C, c, x) -> (R, C, r, c, channel, frame, y, x)
        return frames.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns, -1)

    def unpatchify(
        self, patches: Float[Tensor, "patches values"], grid_thw: Int[Tensor, " 3"]
    ) -> Float[Tensor, "3 height width"]:
        """The inverse of `patchify`, in [0, 1]; the copies in time are averaged."""
        _, rows, columns = grid_thw.tolist()
        merge, patch = self.merge, self.patch
        shape = (rows // merge, columns // merge, merge, merge, 3, self.temporal, patch, patch)
        # (R, C, r, c, channel, frame, y, x) -> (frame, channel, R, r, y, C, c, x)
        frames = patches.reshape(shape).permute(5, 4, 0, 2, 6, 1, 3, 7)
        normalised = frames.reshape(self.temporal, 3, rows * patch, columns * patch).mean(dim=0)
        mean, std = (patches.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return normalised * std + mean
