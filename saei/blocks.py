"""Attention of a packed row, block by block: every completion beside its prefix, and no token beside one it cannot see.

A dense mask over `[prefix][c1]...[cn]` computes n times what is looked at. Here a row is cut into *blocks*: prefixes of
similar length, each looking at itself; completions of similar length, each looking at its prefix and itself. Keys and
values of a prefix are copied beside each of its completions, as in plain rows: for the time of one product, or, where
there are gradients, until its backward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saei.packing import PackedBatch, Span

SIMILAR = 0.5
"""Sequences share a block if they are at least this long, relative to its longest: the price of padding."""

SMALL = 32
"""Sequences of up to so many tokens share a block, whatever their lengths: one more block costs more than padding."""

Product = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(query, key, value, mask; None: causal) -> output, all [rows, heads, length, head_dim]. Keys and values may have
fewer heads."""


@dataclass(frozen=True, slots=True)
class Block:
    """Sequences of one block, as places in the packed row. Padding repeats place 0, and nobody reads it.

    `mask` says what may be looked at; None: as many keys as queries, each looking back.
    """

    queries: Int[Tensor, "rows length"]
    keys: Int[Tensor, "rows keys"]
    mask: Bool[Tensor, "rows 1 length keys"] | None


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a packed row; `slots[t]` is the place of token t in their outputs, flattened one after another."""

    blocks: tuple[Block, ...]
    slots: Int[Tensor, " tokens"]


def blocks_of(batch: PackedBatch, device: torch.device | str) -> Blocks:
    """The blocks of a packed batch: few, and with little padding."""
    blocks: list[Block] = []
    slots = torch.empty_like(batch.token_ids)
    taken = 0
    completions: dict[int, list[Span]] = {}
    for span in batch.completions:
        completions.setdefault(span.group, []).append(span)
    for prefixes in _similar(batch.prefixes):
        own = chain.from_iterable(completions.get(prefix.group, []) for prefix in prefixes)
        for spans in [prefixes, *_similar([span for span in own if span.length])]:
            block = _causal(spans) if spans is prefixes else _beside_prefixes(spans, batch.prefixes)
            blocks.append(Block(*(None if part is None else part.to(device) for part in block)))  # pyright: ignore[reportArgumentType]
            length = block[0].shape[1]
            for row, span in enumerate(spans):
                slots[span.start : span.start + span.length] = taken + row * length + torch.arange(span.length)
            taken += block[0].numel()
    return Blocks(tuple(blocks), slots.to(device))


def attend(
    query: Float[Tensor, "1 heads tokens head_dim"],
    key: Float[Tensor, "1 kv_heads tokens head_dim"],
    value: Float[Tensor, "1 kv_heads tokens head_dim"],
    blocks: Blocks,
    product: Product,
) -> Float[Tensor, "1 tokens heads head_dim"]:
    """Attention of every token of a packed row to what it may look at. Differentiable."""
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    outputs = [
        product(_at(rows[0], block.queries), _at(rows[1], block.keys), _at(rows[2], block.keys), block.mask)
        .transpose(1, 2)
        .flatten(0, 1)
        for block in blocks.blocks
    ]
    return torch.cat(outputs).index_select(0, blocks.slots)[None]


def _at(rows: Float[Tensor, "tokens heads head_dim"], places: Int[Tensor, "rows length"]) -> Tensor:
    return rows.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)


def _similar(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans of similar length together, the longest first; those of a group stay in order."""
    together: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: -span.length):
        longest = together[-1][0].length if together else 0
        if not together or not (longest <= SMALL or span.length >= SIMILAR * longest):
            together.append([])
        together[-1].append(span)
    return together


def _places(spans: Sequence[Span]) -> tuple[Int[Tensor, "rows length"], Bool[Tensor, "rows length"]]:
    """Places of the spans' tokens, right-padded, and which of them are tokens."""
    starts, lengths = torch.tensor([span.start for span in spans]), torch.tensor([span.length for span in spans])
    columns = torch.arange(int(lengths.max()))
    held = columns < lengths[:, None]
    return torch.where(held, starts[:, None] + columns, 0), held


def _causal(spans: Sequence[Span]) -> tuple[Tensor, Tensor, None]:
    places, _ = _places(spans)  # padding stands at the end, where no token looks
    return places, places, None


def _beside_prefixes(spans: Sequence[Span], prefixes: Sequence[Span]) -> tuple[Tensor, Tensor, Tensor]:
    own, _ = _places(spans)
    before, seen = _places([prefixes[span.group] for span in spans])
    rows, length = own.shape
    seen = seen[:1] if bool(seen.all()) else seen  # prefixes of one length: one mask for all rows
    back = torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.cat([seen[:, None].expand(-1, length, -1), back.expand(len(seen), -1, -1)], dim=2)
    return own, torch.cat([before, own], dim=1), mask[:, None].expand(rows, -1, -1, -1)
