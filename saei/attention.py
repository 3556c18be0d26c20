"""Attention back-ends of the decoder, and how a packed row reaches each of them.

`sdpa` (torch's own kernels) and `eager` (plain matrix products, the oracle) take a packed row block by block
(`saei.blocks`); `flex` (torch's flex_attention, GPU) skips the blocks that no token of a row may look at. All three
serve the image tower, prompts and decoding as the stock back-ends do. A model that others loaded is given the same
(`use_blocks`); with a back-end that is none of these it reads the dense mask over all tokens of a pass.

flash_attention_2 cannot be had: it knows causal rows, not completions that share a prefix.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from saei.blocks import Blocks, attend, blocks_of
from saei.packing import PackedBatch, attention_mask

_SDPA, _EAGER, _FLEX = "saei_sdpa", "saei_eager", "saei_flex"
_IMPLEMENTATIONS = {"sdpa": _SDPA, "eager": _EAGER, "flex": _FLEX}
"""Setting `model.attention` -> the name under which transformers knows it."""

Forward = Callable[..., tuple[Tensor, Tensor | None]]
"""(module, query, key, value, mask, **options) -> output [rows, length, heads, head_dim] and no weights."""


class _BlocksMask(Tensor):
    """What a model takes for a mask that was made beforehand: it hands it on as it is. The blocks are what is read.

    Empty, so that code which reads it as a mask fails.
    """

    blocks: Blocks


def implementation(name: str, device: str) -> str:
    """What `from_pretrained` is given as `attn_implementation`. Raises ValueError for flex without a GPU."""
    if name == "flex" and not device.startswith("cuda"):
        raise ValueError(
            f"model.attention flex needs a GPU, and model.device is {device}: torch computes no gradient of "
            "flex_attention on a CPU; set model.attention sdpa"
        )
    return _IMPLEMENTATIONS[name]


def use_blocks(model: Any) -> None:
    """Let the decoder of a model that others loaded, with `sdpa` or `eager`, take packed rows block by block.

    In everything else it attends as before.
    """
    text = model.config.get_text_config()
    text._attn_implementation = _IMPLEMENTATIONS.get(text._attn_implementation, text._attn_implementation)


def reads_dense_masks(model: nn.Module) -> bool:
    """Was the model loaded with a back-end that is not one of ours?"""
    return _back_end(model) not in _IMPLEMENTATIONS.values()


def packed_mask(model: Any, batch: PackedBatch, device: torch.device | str) -> Tensor | BlockMask:
    """Who may look at whom in a packed row, see `packing.attention_mask`, in the form that the model's back-end reads.

    `model` is the stock model; its text settings say which back-end it was loaded with.
    """
    if _back_end(model) == _FLEX:
        return block_mask(batch.groups().to(device), batch.segments().to(device))
    if reads_dense_masks(model):
        return readable_mask(model, attention_mask(batch).to(device))
    mask = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device).as_subclass(_BlocksMask)
    mask.blocks = blocks_of(batch, device)
    return mask


def refuse_unknown(options: Mapping[str, Any]) -> None:
    """Raises ValueError for what changes attention beyond mask and scale, and is not computed here."""
    for name, what in {"softcap": "soft-caps its attention scores", "s_aux": "attends to sinks"}.items():
        if options.get(name) is not None:
            raise ValueError(
                f"the text decoder {what} ({name}), which packed rows and decoding would leave out: take another model"
            )


def readable_mask(model: Any, mask: Bool[Tensor, "rows 1 queries keys"]) -> Tensor:
    """A mask that is True where a token may look, in the form that the model's back-end reads."""
    if _back_end(model) not in ("eager", _EAGER):
        return mask
    closed = torch.finfo(model.dtype).min
    return torch.zeros_like(mask, dtype=model.dtype).masked_fill(~mask, closed)


def block_mask(groups: Int[Tensor, " tokens"], segments: Int[Tensor, " tokens"]) -> BlockMask:
    """`packing.attention_mask` as a block mask: the same rule, by which blocks of 128 x 128 are skipped."""
    on_gpu = segments.device.type == "cuda"  # compiled: the mask is then made block by block, never whole
    length = len(segments)
    return create_block_mask(
        lambda row, head, query, key: _may_look(groups, segments, query, key),
        1,
        None,
        length,
        length,
        device=str(segments.device),
        _compile=on_gpu,
    )


def _may_look(groups: Tensor, segments: Tensor, query: Tensor, key: Tensor) -> Tensor:
    seen = segments[key]
    return (query >= key) & (groups[query] == groups[key]) & ((seen == 0) | (seen == segments[query]))


def _back_end(model: Any) -> str:
    return model.config.get_text_config()._attn_implementation


def _sdpa_product(module: nn.Module, scaling: float | None) -> Callable[..., Tensor]:
    def product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if key.shape[1] != query.shape[1] and query.device.type != "cpu":
            # with a mask, no fused GPU kernel takes grouped heads
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        grouped = key.shape[1] != query.shape[1]
        return scaled_dot_product_attention(
            query, key, value, mask, scale=scaling, is_causal=mask is None, enable_gqa=grouped
        )

    return product


def _eager_product(module: nn.Module, scaling: float | None) -> Callable[..., Tensor]:
    def product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        added = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
        return _eager_forward(module, query, key, value, added, scaling=scaling)[0].transpose(1, 2)

    return product


def _eager_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    refuse_unknown(options)
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _by_blocks(stock: Forward, product_of: Callable[..., Callable[..., Tensor]]) -> Forward:
    """Packed rows go block by block, everything else to `stock`. Shapes as transformers' attention functions have."""

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(attention_mask, _BlocksMask):
            refuse_unknown(options)
            return attend(query, key, value, attention_mask.blocks, product_of(module, scaling)), None
        return stock(module, query, key, value, attention_mask, scaling=scaling, **options)

    return forward


def _flex_or_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Block masks go to flex_attention, everything else to sdpa."""
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, **options)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register(_SDPA, _by_blocks(sdpa_attention_forward, _sdpa_product))
AttentionInterface.register(_EAGER, _by_blocks(_eager_forward, _eager_product))
AttentionInterface.register(_FLEX, _flex_or_sdpa)
AttentionMaskInterface.register(_SDPA, sdpa_mask)
AttentionMaskInterface.register(_EAGER, AttentionMaskInterface()["eager"])
AttentionMaskInterface.register(_FLEX, sdpa_mask)
