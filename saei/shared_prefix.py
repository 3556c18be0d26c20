"""Attention while decoding: the keys and values of a prefix are read once for all rows that continue it.

In the stock way every row holds a copy of its prefix, and reading the copies is most of what a step of decoding does
once the prefix holds an image. Here the queries of a prefix's rows are laid side by side and multiplied with it as one
matrix; with the row's own tokens they are multiplied alone; the two softmaxes are joined by their normalisers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from saei.attention import refuse_unknown

_NAME = "saei_shared_prefix"


class SharedPrefixes:
    """Cached prefixes, left-padded, and which row continues which; `keys[layer]` and `values[layer]` as prefilled."""

    def __init__(
        self,
        keys: Sequence[Float[Tensor, "prefixes heads columns head_dim"]],
        values: Sequence[Float[Tensor, "prefixes heads columns head_dim"]],
        attended: Bool[Tensor, "prefixes columns"],
    ) -> None:
        self._keys, self._values = list(keys), list(values)
        self._hidden = None if bool(attended.all()) else ~attended
        self._held = torch.arange(len(attended), device=attended.device)  # numbers of the prefixes still held
        self._width = 0
        self._seats: Int[Tensor, " rows"] = self._held[:0]
        self._aligned = False

    def seat(self, prefix_of_row: Int[Tensor, " rows"]) -> None:
        """Say which prefix every row continues. Prefixes without rows go once they are half of all."""
        used, prefix = torch.unique(prefix_of_row, return_inverse=True)
        if 2 * len(used) <= len(self._held):
            kept = torch.searchsorted(self._held, used)
            self._keys = [keys[kept] for keys in self._keys]
            self._values = [values[kept] for values in self._values]
            self._hidden = None if self._hidden is None else self._hidden[kept]
            self._held = used
        elif len(used) < len(self._held):
            prefix = torch.searchsorted(self._held, used)[prefix]
        counts = torch.bincount(prefix, minlength=len(self._held))
        order = torch.argsort(prefix, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[prefix[order]]
        self._width = int(counts.max())
        self._seats = prefix * self._width + rank
        seats = len(self._held) * self._width
        # every prefix with as many rows, side by side: nothing needs to be moved
        self._aligned = bool(torch.equal(self._seats, torch.arange(seats, device=order.device)))

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "rows heads 1 head_dim"],
        key: Float[Tensor, "rows kv_heads own head_dim"],
        value: Float[Tensor, "rows kv_heads own head_dim"],
        scaling: float,
    ) -> Float[Tensor, "rows 1 heads head_dim"]:
        """Attention of each row's newest token to its prefix and to its own tokens so far."""
        rows, heads, _, width = query.shape
        grouped = (query * scaling).view(rows, key.shape[1], -1, width)  # query heads that share a key head
        hidden = None if self._hidden is None else self._hidden[:, None, None]
        shared = _read(self._per_prefix(grouped), self._keys[layer], self._values[layer], hidden)
        of_prefix, log_prefix = (self._per_row(part) for part in shared)
        of_own, log_own = _read(grouped, key, value, None)
        share = torch.sigmoid(log_prefix - log_own).to(of_own.dtype)
        return torch.lerp(of_own, of_prefix, share).view(rows, 1, heads, width)

    def _per_prefix(self, of_rows: Float[Tensor, "rows heads shared _"]) -> Float[Tensor, "prefixes heads _ _"]:
        """The rows of each prefix side by side; empty seats hold zeros."""
        if not self._aligned:
            seats = of_rows.new_zeros(len(self._held) * self._width, *of_rows.shape[1:])
            of_rows = seats.index_copy_(0, self._seats, of_rows)
        return of_rows.unflatten(0, (len(self._held), self._width)).transpose(1, 2).flatten(2, 3)

    def _per_row(self, of_prefixes: Float[Tensor, "prefixes heads _ _"]) -> Float[Tensor, "rows heads _ _"]:
        seats = of_prefixes.unflatten(2, (self._width, -1)).transpose(1, 2).flatten(0, 1)
        return seats if self._aligned else seats.index_select(0, self._seats)


class _Shared(Tensor):
    """What the model takes for a mask that was made beforehand; empty, so that code which reads it as one fails."""

    prefixes: SharedPrefixes


@contextmanager
def decoding(model: Any, prefixes: SharedPrefixes) -> Iterator[Tensor]:
    """Inside, the text decoder attends by `prefixes.attend`, whatever back-end it has, given the mask that this yields.

    Without gradient: a pass that is computed again after it would find the back-end that was there before.
    """
    text = model.config.get_text_config()
    before = text._attn_implementation
    mask = torch.empty(1, 1, 0, 0, dtype=torch.bool).as_subclass(_Shared)
    mask.prefixes = prefixes
    text._attn_implementation = _NAME
    try:
        yield mask
    finally:
        text._attn_implementation = before


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    refuse_unknown(options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attention_mask.prefixes.attend(module.layer_idx, query, key, value, scale), None


def _read(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads columns width"],
    value: Float[Tensor, "batch heads columns width"],
    hidden: Bool[Tensor, "batch 1 1 columns"] | None,
) -> tuple[Float[Tensor, "batch heads queries width"], Float[Tensor, "batch heads queries 1"]]:
    """Attention to these columns alone, and the logarithm of the sum of its exponentials. Scores are overwritten."""
    scores = query @ key.transpose(2, 3)
    if scores.dtype != torch.float64:
        scores = scores.float()
    if hidden is not None:
        scores.masked_fill_(hidden, -torch.inf)
    largest = scores.amax(-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    total = weights.sum(-1, keepdim=True)
    return (weights.to(value.dtype) @ value) / total.to(value.dtype), largest + total.log()


AttentionInterface.register(_NAME, _forward)
