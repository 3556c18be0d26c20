"""The codec against the stock image processor, against itself, and against what an 8-bit file can hold."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saei.pixels import ImageCodec
from saei.types import to_bytes, to_unit

LIMITS = {"min_pixels": 784, "max_pixels": 28224}
SIZE = {"shortest_edge": 784, "longest_edge": 28224}
PROCESSORS = {
    "qwen2.5-vl": Qwen2VLImageProcessorPil(size=SIZE),  # patch 14, CLIP mean and std
    "qwen3-vl": Qwen2VLImageProcessorPil(size=SIZE, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3),
}
# height x width: square, wide, tall, odd, far too large, smaller than a cell, one pixel, and 200 : 1
SIZES = [(84, 84), (56, 112), (112, 28), (61, 97), (700, 500), (9, 20), (1, 1), (2, 60)]


def codec_of(name: str = "qwen2.5-vl", **limits: int) -> ImageCodec:
    return ImageCodec.from_processor(PROCESSORS[name], **(limits or LIMITS))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stock(processor: Any, image: np.ndarray) -> tuple[torch.Tensor, list[int]]:
    # a picture, because of an array of 1 x 1 x 3 it cannot tell which axis is colour
    output = processor(images=[Image.fromarray(image)], return_tensors="pt")
    return output["pixel_values"], output["image_grid_thw"][0].tolist()


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_codec_equals_the_stock_processor(name, size):
    codec, image = codec_of(name), picture(*size)
    expected, grid = stock(PROCESSORS[name], image)
    resized = codec.resize(image)
    assert codec.grid_thw(resized).tolist() == grid
    assert codec.tokens(resized) == grid[1] * grid[2] // 4  # 2 x 2 patches a token
    torch.testing.assert_close(codec.patchify(resized), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [*SIZES, (4, 800), (1000, 5)], ids=str)
def test_a_second_resize_changes_nothing_ours_or_the_stock_processors(name, size):
    codec = codec_of(name)
    resized = codec.resize(picture(*size))
    again = resized.permute(1, 2, 0).contiguous().numpy()
    assert torch.equal(codec.resize(again), resized)
    values, grid = stock(PROCESSORS[name], again)
    assert grid == codec.grid_thw(resized).tolist()
    torch.testing.assert_close(values, codec.patchify(resized), atol=1e-5, rtol=0)
    assert resized.shape[1] * resized.shape[2] <= 28224


def test_sizes_worked_out_by_hand():
    codec = codec_of()
    # 9 x 20 rounds to 0 x 28: enlarged by sqrt(784 / 180) = 2.087 to 18.8 x 41.7, up to whole cells: 28 x 56
    assert codec.resize(picture(9, 20)).shape == (3, 28, 56)
    # 700 x 500 is sqrt(350000 / 28224) = 3.5215 times too large: 198.8 x 142.0, down to whole cells: 196 x 140
    assert codec.resize(picture(700, 500)).shape == (3, 196, 140)
    # 61 x 97 rounds to 2 and 3 cells
    assert codec.resize(picture(61, 97)).shape == (3, 56, 84)
    assert codec.tokens(codec.resize(picture(61, 97))) == 6


def test_an_image_of_fitting_size_is_taken_as_it_is():
    image = picture(56, 84)
    assert torch.equal(codec_of().resize(image), torch.from_numpy(image).permute(2, 0, 1))


def test_a_patch_holds_its_pixels_twice_in_merge_order():
    codec = codec_of()
    image = torch.zeros(3, 56, 56)
    image[1, 14 + 2, 28 + 5] = 1.0  # green; patch row 1, column 2; inside: row 2, column 5
    patches = codec.patchify(image) - codec.patchify(torch.zeros(3, 56, 56))
    # merge order of a 4 x 4 grid: cell (0, 1) is the second of four; within it the patch is (1, 0), the third: 4 + 2
    # values: channel 1 of 3, each of 2 copies of 14 x 14: (1 * 2 + copy) * 196 + 2 * 14 + 5
    touched = patches.nonzero().tolist()
    assert touched == [[6, 2 * 196 + 33], [6, 3 * 196 + 33]]
    assert patches[6, 2 * 196 + 33].item() == pytest.approx(1 / 0.26130258, rel=1e-5)


@pytest.mark.parametrize("name", PROCESSORS)
def test_unpatchify_is_the_inverse(name):
    codec = codec_of(name)
    resized = codec.resize(picture(61, 97))
    restored = codec.unpatchify(codec.patchify(resized), codec.grid_thw(resized))
    torch.testing.assert_close(restored, to_unit(resized), atol=1e-6, rtol=0)
    assert torch.equal(to_bytes(restored), resized)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_gradient_is_the_adjoint_so_both_copies_in_time_count(name):
    # <A x, y> = <x, A^T y> for the linear part A of patchify; A^T is what autograd computes
    codec = codec_of(name)
    generator = torch.Generator().manual_seed(0)
    x, zero = (torch.rand(3, 2 * codec.cell, 3 * codec.cell, generator=generator, dtype=torch.float64) for _ in "xz")
    zero = (zero * 0).requires_grad_()
    start = codec.patchify(zero)
    y = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    (adjoint,) = torch.autograd.grad((start * y).sum(), zero)
    linear = codec.patchify(x) - start.detach()
    assert (linear * y).sum().item() == pytest.approx((x * adjoint).sum().item(), rel=1e-12)
    (ones,) = torch.autograd.grad(codec.patchify(zero).sum(), zero)  # each pixel is in 2 copies, divided by std
    expected = torch.tensor([2 / std for std in codec.std], dtype=torch.float64)[:, None, None].expand_as(ones)
    torch.testing.assert_close(ones, expected)


def test_all_256_levels_survive_the_unit_scale_and_a_png():
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 7, 1)
    assert torch.equal(to_bytes(to_unit(levels)), levels)
    resized = codec_of().resize(picture(61, 97))
    file = io.BytesIO()
    Image.fromarray(resized.permute(1, 2, 0).numpy()).save(file, format="PNG")
    back = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).contiguous()
    assert torch.equal(back, resized)
    assert torch.equal(codec_of().patchify(back), codec_of().patchify(resized))


def test_bytes_and_floats_of_the_same_levels_give_the_same_bits():
    # so that with step 0 the attacked view (floats, rounded once) equals the clean one (bytes)
    codec = codec_of()
    resized = codec.resize(picture(84, 84))
    unit = to_unit(resized).requires_grad_()
    assert torch.equal(codec.patchify(resized), codec.patchify(unit))
    assert torch.equal(codec.patchify(to_bytes(unit)), codec.patchify(resized))


def test_a_moved_image_keeps_its_step_through_png_and_stock_processor():
    codec = codec_of()
    clean = codec.resize(picture(84, 84))
    clean = clean.clamp(2, 253)
    moved = to_bytes(to_unit(clean) + 2 / 255 * torch.where(clean % 2 == 0, 1.0, -1.0))
    values, grid = stock(PROCESSORS["qwen2.5-vl"], moved.permute(1, 2, 0).contiguous().numpy())
    seen = codec.unpatchify(values, torch.tensor(grid)) - to_unit(clean)
    assert (seen.abs() * 255 - 2).abs().max() < 1e-3  # every pixel by two levels, no more, no less


def test_an_image_more_than_200_times_longer_than_wide_is_refused():
    with pytest.raises(ValueError, match=r"201 x 1 pixels is more than 200 times longer than wide.*crop or drop it"):
        codec_of().resize(picture(1, 201))


def test_limits_that_no_size_fits_are_refused():
    # whole cells of 28 x 28: 36 cells exactly, but an image 3 times as high as wide wants 10.4 x 3.5 cells
    with pytest.raises(ValueError, match=r"data.min_pixels 28224 and data.max_pixels 28224; set them further apart"):
        codec_of(min_pixels=28224, max_pixels=28224).resize(picture(12, 4))


def test_an_image_processor_of_another_kind_is_refused():
    class Other:
        patch_size = 14

    with pytest.raises(ValueError, match=r"model.path: its image processor Other has no merge_size"):
        ImageCodec.from_processor(Other(), **LIMITS)
