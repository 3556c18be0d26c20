"""Attention back-ends of the decoder, and the mask of packed rows as each of them reads it.

`sdpa` reads the boolean mask as it is. `eager`, the plain matrix products of transformers, is the oracle and reads a
mask that is added. `flex` (torch's flex_attention, GPU) never holds a mask of length x length: it skips the blocks that
no token of a row may look at, which is most of a row of many completions. It serves packed rows only; the image tower,
prompts and decoding go through sdpa.

flash_attention_2 cannot be had: it knows causal rows, not completions that share a prefix.
"""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from saei.packing import attention_mask

_FLEX = "saei_flex"
_IMPLEMENTATIONS = {"sdpa": "sdpa", "eager": "eager", "flex": _FLEX}
"""Setting `model.attention` -> the name under which transformers knows it."""


def implementation(name: str, device: str) -> str:
    """What `from_pretrained` is given as `attn_implementation`. Raises ValueError for flex without a GPU."""
    if name == "flex" and not device.startswith("cuda"):
        raise ValueError(
            f"model.attention flex needs a GPU, and model.device is {device}: torch computes no gradient of "
            "flex_attention on a CPU; set model.attention sdpa"
        )
    return _IMPLEMENTATIONS[name]


def packed_mask(model: Any, segments: Int[Tensor, "rows length"]) -> Tensor | BlockMask:
    """Who may look at whom in packed rows, see `packing.attention_mask`, in the form that the model's back-end reads.

    `model` is the stock model; its text settings say which back-end it was loaded with.
    """
    if _back_end(model) == _FLEX:
        return block_mask(segments)
    return readable_mask(model, attention_mask(segments))


def readable_mask(model: Any, mask: Bool[Tensor, "rows 1 queries keys"]) -> Tensor:
    """A mask that is True where a token may look, in the form that the model's back-end reads."""
    if _back_end(model) != "eager":
        return mask
    closed = torch.finfo(model.dtype).min
    return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, closed)


def block_mask(segments: Int[Tensor, "rows length"]) -> BlockMask:
    """`packing.attention_mask` as a block mask: the same rule, by which blocks of 128 x 128 are skipped."""
    rows, length = segments.shape
    on_gpu = segments.device.type == "cuda"  # compiled: the mask is then made block by block, never whole
    return create_block_mask(
        lambda row, head, query, key: _may_look(segments, row, query, key),
        rows,
        None,
        length,
        length,
        device=str(segments.device),
        _compile=on_gpu,
    )


def _may_look(segments: Tensor, row: Tensor, query: Tensor, key: Tensor) -> Tensor:
    looks, seen = segments[row, query], segments[row, key]
    earlier = (query >= key) & (seen >= 0) & ((seen == 0) | (seen == looks))
    return earlier | (query == key)


def _back_end(model: Any) -> str:
    return model.config.get_text_config()._attn_implementation


def _flex_or_sdpa(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Block masks go to flex_attention, everything else to sdpa. Shapes as transformers' attention functions have."""
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **options)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(_FLEX, _flex_or_sdpa)
AttentionMaskInterface.register(_FLEX, sdpa_mask)
