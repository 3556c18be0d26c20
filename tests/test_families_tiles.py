"""The tile codec of Idefics3 and SmolVLM against the stock image processors and what an 8-bit file can hold."""

import dataclasses
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from saei.families.tiles import TileCodec, _weights, longest_side
from saei.types import to_bytes, to_unit

CONFIG = SimpleNamespace(vision_config=SimpleNamespace(patch_size=8), scale_factor=2)
PROCESSORS = {"idefics3": Idefics3ImageProcessorPil, "smolvlm": SmolVLMImageProcessorPil}
# height x width: square, wide, tall, odd, far too large, one pixel, and 800 : 1
SIZES = [(128, 128), (64, 128), (100, 30), (61, 97), (700, 500), (1, 1), (1, 800)]


def codec_of(name: str = "idefics3", longest: int = 128, **settings: Any) -> TileCodec:
    """The codec for a published processor, and that processor as a saved folder would hold it."""
    published = PROCESSORS[name](size={"longest_edge": longest}, max_image_size={"longest_edge": 32}, **settings)
    side = longest_side(published, 1024, 10**7)
    saved = PROCESSORS[name](size={"longest_edge": side}, max_image_size={"longest_edge": 32}, **settings)
    return TileCodec.from_processor(saved, CONFIG, 1024, 10**7)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stock(codec: TileCodec, image: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    output = codec.processor(images=[[Image.fromarray(image)]], return_tensors="pt", return_row_col_info=True)
    assert output["pixel_attention_mask"].all()  # nothing is padded
    return output["pixel_values"][0], (output["rows"][0][0], output["cols"][0][0])


@pytest.mark.parametrize("splitting", [True, False], ids=["tiles", "whole"])
@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_tile_codec_equals_the_stock_processor_and_a_second_pass_changes_nothing(name, size, splitting):
    codec, image = codec_of(name, do_image_splitting=splitting), picture(*size)
    expected, grid = stock(codec, image)
    resized = codec.resize(image)
    values = codec.patchify(resized)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
    assert codec.grid(resized) == (grid if grid != (0, 0) else (1, 1))
    assert codec.frames(resized) == len(expected)
    assert codec.tokens(resized) == 4 * len(expected)  # 4 x 4 patches of 8, 2 x 2 to a token
    again = resized.permute(1, 2, 0).contiguous().numpy()
    assert torch.equal(codec.resize(again), resized)
    torch.testing.assert_close(stock(codec, again)[0], values, atol=1e-5, rtol=0)


def test_sizes_worked_out_by_hand():
    codec = codec_of()
    # 61 x 97: the longest side to 128, the other to 128 * 61 / 97 = 80.5, up to whole tiles: 96; 3 x 4 tiles and one
    assert codec.resize(picture(61, 97)).shape == (3, 96, 128)
    assert codec.frames(codec.resize(picture(61, 97))) == 13
    assert codec.resize(picture(800, 1)).shape == (3, 128, 32)
    whole = codec_of(do_image_splitting=False)
    assert (whole.longest, whole.resize(picture(61, 97)).shape) == (32, (3, 32, 32))
    assert whole.frames(whole.resize(picture(61, 97))) == 1
    # published sides are rounded up to whole tiles, as the processor's second resize does
    assert codec_of(longest=100).longest == 128


def test_a_moved_image_keeps_its_step_through_png_and_stock_processor():
    codec = codec_of()
    clean = codec.resize(picture(61, 97)).clamp(2, 253)
    moved = to_bytes(to_unit(clean) + 2 / 255 * torch.where(clean % 2 == 0, 1.0, -1.0))
    file = io.BytesIO()
    Image.fromarray(moved.permute(1, 2, 0).numpy()).save(file, format="PNG")
    values, _ = stock(codec, np.array(Image.open(file)))
    torch.testing.assert_close(values, codec.patchify(moved), atol=1e-5, rtol=0)
    step = (values - codec.patchify(clean))[:-1] * 0.5 * 255  # all tiles but the small image; std is 0.5
    assert (step.abs() - 2).abs().max() < 1e-3


def test_bytes_and_floats_of_the_same_levels_give_the_same_bits():
    codec = codec_of()
    resized = codec.resize(picture(61, 97))
    for unit in (to_unit(resized).requires_grad_(), to_unit(resized).double()):
        assert torch.equal(codec.patchify(resized), codec.patchify(unit).float())


@pytest.mark.parametrize("resample", [1, 2, 3], ids=["lanczos", "bilinear", "bicubic"])
def test_the_weights_are_pillows_filter(resample):
    # on floats Pillow rounds nothing, so that its resize is the product of the two matrices
    image = np.random.default_rng(0).random((96, 128)).astype(np.float32)
    theirs = np.array(Image.fromarray(image).resize((32, 32), resample=Image.Resampling(resample)))
    ours = _weights(96, 32, resample).numpy() @ image @ _weights(128, 32, resample).numpy().T
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert _weights(96, 32, resample).sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-6)


def test_the_gradient_reaches_a_pixel_through_its_tile_and_through_the_small_image():
    codec = codec_of()
    image = to_unit(codec.resize(picture(64, 128))).double().requires_grad_()
    values = codec.patchify(image)
    assert values.shape == (9, 3, 32, 32)
    # the sum over the tiles alone: every pixel once, over std 0.5
    (tiles,) = torch.autograd.grad(values[:-1].sum(), image, retain_graph=True)
    assert torch.equal(tiles, torch.full_like(tiles, 2.0))
    # one value of the small image, row 3 and column 20: the outer product of its two rows of weights
    (small,) = torch.autograd.grad(values[-1, 1, 3, 20], image)
    expected = 2 * torch.outer(_weights(64, 32, 1)[3], _weights(128, 32, 1)[20]).double()
    torch.testing.assert_close(small[1], expected, atol=1e-7, rtol=0)  # the weights are float32
    assert not small[0].any() and not small[2].any()


def test_the_small_image_between_two_levels_follows_the_filter():
    codec = codec_of()
    base = codec.resize(picture(64, 64))
    shift = (
        0.3
        / 255
        * torch.randn(base.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(-1, 1)
    )
    change = codec.patchify(to_unit(base).double() + shift)[-1] - codec.patchify(to_unit(base).double())[-1]
    weights = _weights(128, 32, 1).double()
    torch.testing.assert_close(change, 2 * (weights @ shift @ weights.T), atol=1e-9, rtol=0)


def test_pixel_limits_become_whole_tiles_or_are_refused():
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 128}, max_image_size={"longest_edge": 32})
    # the root of 10000 is 100: three tiles of 32
    assert [longest_side(processor, 1, pixels) for pixels in (1024, 10_000, 16_384, 10**7)] == [32, 96, 128, 128]
    with pytest.raises(ValueError, match=r"data.max_pixels 1023 is less than one tile of 32 x 32.*at least 1024"):
        longest_side(processor, 1, 1023)
    with pytest.raises(
        ValueError, match=r"data.min_pixels 3073 cannot be kept: with a longest side of 96 .* have 3072"
    ):
        longest_side(processor, 3073, 10_000)


def test_processors_that_do_not_fit_are_refused():
    class Other:
        size = SimpleNamespace(longest_edge=None)

    with pytest.raises(ValueError, match=r"its image processor Other has None and None as the longest edges of"):
        longest_side(Other(), 1, 1024)
    for tile in ("32", 0, None):
        Other.max_image_size, Other.size.longest_edge = {"longest_edge": tile}, 128
        with pytest.raises(
            ValueError, match=rf"has {tile!r} and 128 as the longest edges .* need two numbers of pixels"
        ):
            longest_side(Other(), 1, 1024)
    for tile in (31, 4098):
        processor = Idefics3ImageProcessorPil(size={"longest_edge": tile}, max_image_size={"longest_edge": tile})
        with pytest.raises(ValueError, match=rf"tiles of {tile} pixels would be resized again by every engine"):
            longest_side(processor, 1, 10**8)
    for scale in (3, 0):
        config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=8), scale_factor=scale)
        with pytest.raises(ValueError, match=rf"a tile of 32 pixels is 4 patches of 8, which {scale} does not divide"):
            TileCodec.from_processor(codec_of().processor, config, 1024, 10**7)


def test_patches_that_do_not_fill_a_tile_are_counted_as_the_tower_counts_them():
    # SmolVLM 2.2B: tiles of 384, patches of 14 (27 of them, 6 pixels left over), 3 x 3 to a token: 81 tokens
    processor = SmolVLMImageProcessorPil(size={"longest_edge": 1536}, max_image_size={"longest_edge": 384})
    config = SimpleNamespace(vision_config=SimpleNamespace(patch_size=14), scale_factor=3)
    codec = TileCodec.from_processor(processor, config, 1, 10**7)
    assert (codec.tile_tokens, codec.longest) == (81, 1536)
    assert dataclasses.replace(codec, tile_tokens=1).tokens(torch.zeros(3, 768, 1536)) == 9
