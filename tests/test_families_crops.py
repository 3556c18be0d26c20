"""The codec of InternVL against its stock image processor (that of GOT-OCR2), and what the second pass keeps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from saei.families.crops import CropCodec, tile_limits
from saei.types import to_unit
from tests.test_families_tiles import SIZES, picture

CONFIG = SimpleNamespace(vision_config=SimpleNamespace(patch_size=(8, 8)), downsample_ratio=0.5)
SIZE = {"height": 32, "width": 32}


def codec_of(most: int = 12, **settings: Any) -> CropCodec:
    processor = GotOcr2ImageProcessorPil(size=SIZE, crop_to_patches=True, max_patches=most, **settings)
    return CropCodec.from_processor(processor, CONFIG, 1, 10**7)


def stock(codec: CropCodec, image: np.ndarray) -> torch.Tensor:
    return codec.processor(images=[Image.fromarray(image)], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_tiles_are_the_stock_processors_and_the_second_pass_changes_nothing(size):
    codec, image = codec_of(), picture(*size)
    expected, resized = stock(codec, image), codec.resize(image)
    values = codec.patchify(resized)
    assert values.shape == expected.shape and codec.frames(resized) == len(expected)
    assert codec.tokens(resized) == 4 * len(expected)  # 4 x 4 patches of 8, half of them a side
    tiles = len(expected) - (len(expected) > 1)  # the stock thumbnail is of the picture as it came
    torch.testing.assert_close(values[:tiles], expected[:tiles], atol=1e-5, rtol=0)
    again = resized.permute(1, 2, 0).contiguous().numpy()
    assert torch.equal(codec.resize(again), resized)
    torch.testing.assert_close(stock(codec, again), values, atol=1e-5, rtol=0)
    assert torch.equal(values, codec.patchify(to_unit(resized).requires_grad_()))


@pytest.mark.parametrize("most", [1, 2, 6, 12, 40])
def test_every_grid_is_kept_by_a_second_pass(most):
    codec = codec_of(most)
    for height in (10, 33, 64, 100, 160, 400):
        for width in (10, 33, 64, 100, 160, 400):
            resized = codec.resize(picture(height, width))
            again = resized.permute(1, 2, 0).contiguous().numpy()
            assert torch.equal(codec.resize(again), resized)
            rows, columns = codec.grid(resized)
            assert rows * columns <= most and len(stock(codec, again)) == codec.frames(resized)


def test_grids_worked_out_by_hand():
    # 64 x 128 pixels are twice as wide as high: 2 tiles; 4 x 2 tiles have the same shape, and the image covers more
    # than half of them: 8192 > 0.5 * 8 * 1024
    assert codec_of().resize(picture(64, 128)).shape == (3, 64, 128)
    assert codec_of().resize(picture(16, 32)).shape == (3, 32, 64)
    assert codec_of(most=2).resize(picture(64, 128)).shape == (3, 32, 64)


def test_pixel_limits_become_numbers_of_tiles_or_are_refused():
    processor = GotOcr2ImageProcessorPil(size=SIZE)
    assert tile_limits(processor, 784, 28224) == (1, 12)  # 27 tiles of 1024 pixels fit; the model's own limit is 12
    assert tile_limits(processor, 2049, 5000) == (3, 4)
    with pytest.raises(ValueError, match=r"data.min_pixels 784 to data.max_pixels 1000 is 1 to 0 tiles .* least 1024"):
        tile_limits(processor, 784, 1000)


def test_processors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"its image processor SimpleNamespace has no max_patches or no square size"):
        tile_limits(SimpleNamespace(size=None), 1, 1024)
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=(8, 8)), downsample_ratio=0.3)
    with pytest.raises(
        ValueError, match=r"a tile of 32 pixels is 4 patches of 8, of which downsample_ratio 0.3 makes no"
    ):
        CropCodec.from_processor(codec_of().processor, config, 1, 10**7)
