"""A randomly initialised Qwen2.5-VL of a given size, with what scoring and sampling read of a policy."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from saei.attention import implementation, reads_dense_masks
from saei.pixels import ImageCodec


class Scale(NamedTuple):
    """Widths of the text decoder and of the image tower; a head has 128 dimensions (tiny: 40) as in Qwen2.5-VL."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int


SCALES = {
    "tiny": Scale(160, 448, 4, 4, 640, 96, 2),
    "1b": Scale(1536, 8960, 16, 12, 151_936, 640, 12),
    "3b": Scale(2048, 11_008, 36, 16, 151_936, 1280, 32),
}
"""`3b` has the widths of Qwen2.5-VL-3B, `1b` those of a decoder of 1.5 billion with fewer layers."""


def random_policy(scale: str, device: str, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """The policy attributes that `saei.scoring` and `saei.sampler` read, around random weights; seeded."""
    sizes = SCALES[scale]
    head = sizes.hidden // sizes.heads
    vocabulary = sizes.vocabulary
    image, video, start, end = (vocabulary - place for place in (1, 2, 3, 4))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": sizes.hidden,
            "intermediate_size": sizes.intermediate,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [head // 10, head // 5, head // 2 - head // 10 - head // 5],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": 0,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": 8 * sizes.vision_hidden // 3,
            "num_heads": sizes.vision_hidden // (80 if sizes.vision_hidden > 96 else 32),
            "out_hidden_size": sizes.hidden,
            "fullatt_block_indexes": [sizes.vision_layers - 1],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    config._attn_implementation = implementation(attention, device)
    with torch.device(device):
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
    model = model.to(dtype).eval()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 0
    return SimpleNamespace(
        model=model,
        codec=ImageCodec(
            patch=14, merge=2, temporal=2, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28), resample=3,
            min_pixels=784, max_pixels=28_224,
        ),
        device=torch.device(device),
        image_token_id=image,
        end_token_ids=(0,),
        suppressed_token_ids=(image, video, start, end),
        attention_cost=1.0 / (6.0 * sizes.hidden) if reads_dense_masks(model) else 0.0,
        packed_forwards=0,
        tokens_forward=0,
        tokens_backward=0,
        tokens_generated=0,
    )  # fmt: skip
