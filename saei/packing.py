"""Packed groups: `[prefix][c1][c2]...[cn]`, each completion attending to the prefix and to itself.

All completions of a problem under one view share image and prompt, and in a VLM the prefix is most of the tokens. A
packed group carries it once. The groups of a pass stand end to end in one row, without padding: all that works on
single tokens sees no more tokens than there are, and attention goes block by block (`saei.blocks`). A group is split
where it is longer than a pass may be, or where attention reads a dense mask and a long row would cost more than it
saves. However a group is split, the results agree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saei.types import ScoreRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A packed group or a part of one: completions number `members` of request `request_index`, as a request."""

    request: ScoreRequest
    request_index: int
    members: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.request.prompt.token_ids) + sum(len(c) for c in self.request.completions)


class Span(NamedTuple):
    """A prefix or a completion as it stands in a packed row: number of its piece, place of its first token, length."""

    group: int
    start: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Pieces end to end in one row of tokens; `prefixes` and `completions` say which are whose.

    `predicts[i]` is the token whose hidden state predicts wanted token `targets[i]`; `counts` says how many wanted
    tokens each completion has.
    """

    token_ids: Int[Tensor, " tokens"]
    prefixes: tuple[Span, ...]
    completions: tuple[Span, ...]
    predicts: Int[Tensor, " wanted"]
    targets: Int[Tensor, " wanted"]
    counts: tuple[int, ...]

    def groups(self) -> Int[Tensor, " tokens"]:
        """The number of each token's piece."""
        groups = torch.empty_like(self.token_ids)
        for span in (*self.prefixes, *self.completions):
            groups[span.start : span.start + span.length] = span.group
        return groups

    def segments(self) -> Int[Tensor, " tokens"]:
        """The number of each token's completion in the batch, from 1 on; 0 in a prefix."""
        segments = torch.zeros_like(self.token_ids)
        for number, span in enumerate(self.completions, start=1):
            segments[span.start : span.start + span.length] = number
        return segments


def rows_for_group(prefix: int, lengths: Sequence[int], pack_tokens: int, attention_cost: float) -> int:
    """Into how many rows a group is split: the cheapest number whose rows stay within `pack_tokens`.

    The cost of a row of S tokens is S + attention_cost * S^2, in units of one token's matrix products. The square is
    that of a dense mask; attention that goes by blocks has none, `attention_cost` 0, and a group then stays whole where
    it fits. With a dense mask, for a decoder of width d with the usual blocks (about 12 d^2 multiplications a token and
    layer, 2 S d for attention), attention_cost is about 1 / (6 d).
    """
    total, n = sum(lengths), max(1, len(lengths))

    def cost(rows: int) -> float:
        row = prefix + total / rows
        return rows * (row + attention_cost * row * row)

    within = [rows for rows in range(1, n + 1) if prefix + math.ceil(total / rows) <= pack_tokens]
    return min(within or [n], key=cost)


def split_requests(requests: Sequence[ScoreRequest], pack_tokens: int, attention_cost: float) -> list[list[Piece]]:
    """Batches of pieces: each batch is one forward pass of at most `pack_tokens` tokens.

    A single completion that is longer than `pack_tokens` with its prefix still gets its pass.
    """
    batches: list[list[Piece]] = []
    used = 0
    for index, request in enumerate(requests):
        for piece in _rows(request, index, pack_tokens, attention_cost):
            used += piece.tokens
            if not batches or used > pack_tokens:
                batches.append([])
                used = piece.tokens
            batches[-1].append(piece)
    return batches


def _rows(request: ScoreRequest, index: int, pack_tokens: int, attention_cost: float) -> list[Piece]:
    prefix, lengths = len(request.prompt.token_ids), [len(completion) for completion in request.completions]
    rows = rows_for_group(prefix, lengths, pack_tokens, attention_cost)
    if rows == 1:
        return [Piece(request=request, request_index=index, members=tuple(range(len(lengths))))]
    share, parts, filled, row = sum(lengths) / rows, [[]], 0, prefix
    for member, length in enumerate(lengths):
        # a new row where the completion's middle lies beyond the row's share of the tokens, or its end over the budget
        if parts[-1] and (filled + length / 2 > share * len(parts) or row + length > pack_tokens):
            parts.append([])
            row = prefix
        parts[-1].append(member)
        filled += length
        row += length
    return [Piece(request=request_part(request, part), request_index=index, members=tuple(part)) for part in parts]


def request_part(request: ScoreRequest, members: Sequence[int]) -> ScoreRequest:
    """The same request for some of its completions."""
    return ScoreRequest(
        prompt=request.prompt,
        images=request.images,
        completions=tuple(request.completions[member] for member in members),
        kept=None if request.kept is None else tuple(request.kept[member] for member in members),
        text_shift=request.text_shift,
    )


def pack(pieces: Sequence[Piece]) -> PackedBatch:
    """Lay the pieces out. Raises ValueError when a `kept` mask does not fit its completion."""
    ids: list[int] = []
    prefixes: list[Span] = []
    completions: list[Span] = []
    predicts: list[Tensor] = []
    targets: list[Tensor] = []
    for group, piece in enumerate(pieces):
        prefixes.append(Span(group, len(ids), len(piece.request.prompt.token_ids)))
        ids += piece.request.prompt.token_ids
        last = len(ids) - 1  # the end of the prefix predicts the first token of every completion
        for number, completion in enumerate(piece.request.completions):
            positions = torch.arange(len(ids) - 1, len(ids) - 1 + len(completion))
            positions[:1] = last
            wanted = torch.tensor(completion, dtype=torch.long)
            if piece.request.kept is not None:
                mask = piece.request.kept[number].cpu()
                if mask.shape != wanted.shape:
                    raise ValueError(f"a kept mask of {len(mask)} tokens for a completion of {len(completion)}")
                positions, wanted = positions[mask], wanted[mask]
            completions.append(Span(group, len(ids), len(completion)))
            ids += completion
            predicts.append(positions)
            targets.append(wanted)
    empty = torch.empty(0, dtype=torch.long)
    return PackedBatch(
        token_ids=torch.tensor(ids),
        prefixes=tuple(prefixes),
        completions=tuple(completions),
        predicts=torch.cat(predicts) if predicts else empty,
        targets=torch.cat(targets) if targets else empty,
        counts=tuple(len(wanted) for wanted in targets),
    )


def prefix_rows(
    batch: PackedBatch, padding_id: int
) -> tuple[Int[Tensor, "groups prefix"], Bool[Tensor, "groups prefix"]]:
    """The prefixes alone, right-padded to a common length, and which of their columns hold a token."""
    lengths = torch.tensor([span.length for span in batch.prefixes])
    held = torch.arange(int(lengths.max())) < lengths[:, None]
    token_ids = torch.full(held.shape, padding_id)
    token_ids[held] = torch.cat([batch.token_ids[span.start : span.start + span.length] for span in batch.prefixes])
    return token_ids, held


def attention_mask(batch: PackedBatch) -> Bool[Tensor, "1 1 tokens tokens"]:
    """True where a token (third axis) may look at another (fourth): earlier ones of its prefix or of its completion."""
    group, segment = batch.groups(), batch.segments()
    earlier = torch.ones(len(group), len(group), dtype=torch.bool).tril()
    return (earlier & (group[:, None] == group) & ((segment == 0) | (segment[:, None] == segment)))[None, None]


def restart_positions(
    prefix_positions: Int[Tensor, "axes groups prefix"], batch: PackedBatch
) -> Int[Tensor, "axes 1 tokens"]:
    """Rotary positions of a packed row: those of the prefixes as given, then every completion from its prefix on.

    In a plain row the first completion token stands one beyond the largest position of the prefix, on all axes.
    """
    axes = len(prefix_positions)
    positions = torch.empty(axes, len(batch.token_ids), dtype=torch.long)
    own = prefix_positions.cpu()
    for span in batch.prefixes:
        positions[:, span.start : span.start + span.length] = own[:, span.group, : span.length]
    first = [int(own[:, span.group, : span.length].max()) + 1 for span in batch.prefixes]
    for span in batch.completions:
        start = first[span.group]
        positions[:, span.start : span.start + span.length] = torch.arange(start, start + span.length)
    return positions[:, None].to(prefix_positions.device)
