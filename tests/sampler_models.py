"""Random models of toy size, one of each family, behind the few policy attributes that the sampler reads; no tokenizer.

`stock_inputs` is what the stock forward pass and `generate` are given for such a prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from saei.families.crops import CropCodec
from saei.families.tiles import TileCodec
from saei.types import Prompt

IMAGE, VIDEO, START, VOCABULARY = 60, 61, 62, 64


@dataclass
class ToyCodec:
    """Patches of the right shape; what they hold need not equal a stock processor's for these tests."""

    patch: int

    def patchify(self, image: torch.Tensor) -> torch.Tensor:
        patches = image.float().div(255).unfold(1, self.patch, self.patch).unfold(2, self.patch, self.patch)
        patches = patches.permute(1, 2, 0, 3, 4).flatten(0, 1)  # one row a patch; the order is the same on both sides
        return patches[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1)

    def grid_thw(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tensor([1, image.shape[1] // self.patch, image.shape[2] // self.patch])

    def tokens(self, image: torch.Tensor) -> int:
        return int(self.grid_thw(image).prod()) // 4


@dataclass
class ToyPolicy:
    model: Any
    codec: Any
    end_token_ids: tuple[int, ...] = (1,)
    suppressed_token_ids: tuple[int, ...] = (IMAGE, VIDEO, START)
    image_token_id: int = IMAGE
    device: str = "cpu"
    tokens_forward: int = 0
    tokens_generated: int = 0


def _special() -> dict[str, int]:
    return {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": 63}


def qwen2_5_vl(dtype: torch.dtype = torch.float64) -> ToyPolicy:
    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False, "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
        "window_size": 16, "fullatt_block_indexes": [1], "initializer_range": 0.3,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_special())
    return ToyPolicy(Qwen2_5_VLForConditionalGeneration(config).to(dtype).eval(), ToyCodec(patch=4))


def qwen3_vl(dtype: torch.dtype = torch.float64) -> ToyPolicy:
    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False, "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0], "initializer_range": 0.3,
    }  # fmt: skip
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_special())
    return ToyPolicy(Qwen3VLForConditionalGeneration(config).to(dtype).eval(), ToyCodec(patch=4))


def qwen2_vl(dtype: torch.dtype = torch.float64) -> ToyPolicy:
    torch.manual_seed(0)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False, "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 2, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 4,
        "initializer_range": 0.3,
    }  # fmt: skip
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **_special())
    return ToyPolicy(Qwen2VLForConditionalGeneration(config).to(dtype).eval(), ToyCodec(patch=4))


def _tiled(config: Any, model: Any, dtype: torch.dtype) -> ToyPolicy:
    """Tiles of 8 x 8 pixels, 2 x 2 patches of 4, one token each; the small image is one more."""
    torch.manual_seed(0)
    text = {
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4, "initializer_range": 0.3,
    }  # fmt: skip
    settings = {"image_token_id": IMAGE, "scale_factor": 2, "pad_token_id": 0, "tie_word_embeddings": False}
    built = model(config(text_config=text, vision_config=vision, **settings)).to(dtype).eval()
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 8})
    return ToyPolicy(built, TileCodec.from_processor(processor, built.config, 64, 1024))


def smolvlm(dtype: torch.dtype = torch.float64) -> ToyPolicy:
    return _tiled(SmolVLMConfig, SmolVLMForConditionalGeneration, dtype)


def idefics3(dtype: torch.dtype = torch.float64) -> ToyPolicy:
    return _tiled(Idefics3Config, Idefics3ForConditionalGeneration, dtype)


def internvl(dtype: torch.dtype = torch.float64) -> ToyPolicy:
    """Tiles of 8 x 8 pixels, 2 x 2 patches of 4, one token each; the thumbnail is one more."""
    torch.manual_seed(0)
    text = {
        "model_type": "qwen2", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": [8, 8], "patch_size": [4, 4], "initializer_range": 0.3,
    }  # fmt: skip
    settings = {"image_token_id": IMAGE, "image_seq_length": 1, "tie_word_embeddings": False}
    built = InternVLForConditionalGeneration(InternVLConfig(text_config=text, vision_config=vision, **settings))
    processor = GotOcr2ImageProcessorPil(size={"height": 8, "width": 8}, crop_to_patches=True)
    return ToyPolicy(built.to(dtype).eval(), CropCodec.from_processor(processor, built.config, 64, 1024))


FAMILIES: dict[str, Callable[..., ToyPolicy]] = {
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "internvl": internvl,
}

SLOW = {"qwen2_vl", "idefics3", "internvl"}
"""Families that sample and score by the code of another; slow tests repeat with them what fast ones show of that."""
PARAMS = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FAMILIES]


def stock_inputs(policy: Any, token_ids: torch.Tensor, images: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keyword arguments of the stock model for one row and its images, as its processor would make them."""
    inputs = {"input_ids": token_ids, "attention_mask": torch.ones_like(token_ids)}
    values = [policy.codec.patchify(image) for image in images]
    if policy.model.config.model_type.startswith("qwen"):
        inputs["mm_token_type_ids"] = (token_ids == policy.image_token_id).int()
        if images:
            inputs["pixel_values"] = torch.cat(values).to(policy.model.dtype)
            inputs["image_grid_thw"] = torch.stack([policy.codec.grid_thw(image) for image in images])
    elif images:
        tiles = torch.cat(values).to(policy.model.dtype)
        inputs["pixel_values"] = tiles if policy.model.config.model_type == "internvl" else tiles[None]
    return inputs


def prompt(policy: ToyPolicy, problem_id: str, sizes: list[tuple[int, int]], text: int, seed: int) -> Prompt:
    """`text` random tokens with images of `sizes` (height, width) after the first two."""
    generator = torch.Generator().manual_seed(seed)
    images = tuple(torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes)
    words = torch.randint(2, 50, (text,), generator=generator).tolist()
    spans = [token for image in images for token in [START] + [IMAGE] * policy.codec.tokens(image) + [63]]
    return Prompt(problem_id=problem_id, token_ids=(*words[:2], *spans, *words[2:]), images=images)


def prompts(policy: ToyPolicy) -> list[Prompt]:
    """Different lengths, image sizes and numbers of images, one without any."""
    return [
        prompt(policy, "square", [(16, 16)], 6, seed=1),
        prompt(policy, "wide", [(8, 24)], 11, seed=2),
        prompt(policy, "two", [(16, 8), (8, 8)], 4, seed=3),
        prompt(policy, "text", [], 9, seed=4),
    ]
