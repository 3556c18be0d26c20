"""Packed groups: `[prefix][c1][c2]...[cn]` in one row, each completion attending to the prefix and to itself.

All completions of a problem under one view share image and prompt, and in a VLM the prefix is most of the tokens. A
packed row carries it once. Its price is attention over one long row; a cost model splits groups whose completions are
long, and one completion in a row is the plain forward pass. However a group is split, the results agree.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saei.types import ScoreRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One packed row: completions number `members` of request number `request_index`, as a request of its own."""

    request: ScoreRequest
    request_index: int
    members: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.request.prompt.token_ids) + sum(len(c) for c in self.request.completions)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBatch:
    """Rows right-padded to a common length. `segments`: 0 prefix, k the k-th completion of the row, -1 padding.

    `predicts[i]` is the flat position (row * length + column) whose hidden state predicts wanted token `targets[i]`;
    `counts` says how many wanted tokens each completion has, in row and completion order.
    """

    token_ids: Int[Tensor, "rows length"]
    segments: Int[Tensor, "rows length"]
    prefix_lengths: tuple[int, ...]
    predicts: Int[Tensor, " wanted"]
    targets: Int[Tensor, " wanted"]
    counts: tuple[int, ...]


def rows_for_group(prefix: int, lengths: Sequence[int], pack_tokens: int, attention_cost: float) -> int:
    """Into how many rows a group is split: the cheapest number whose rows stay within `pack_tokens`.

    The cost of a row of S tokens is S + attention_cost * S^2, in units of one token's matrix products; the square is
    the dense mask. For a decoder of width d with the usual blocks (about 12 d^2 multiplications a token and layer,
    2 S d for attention), attention_cost is about 1 / (6 d).
    """
    total, n = sum(lengths), max(1, len(lengths))

    def cost(rows: int) -> float:
        row = prefix + total / rows
        return rows * (row + attention_cost * row * row)

    within = [rows for rows in range(1, n + 1) if prefix + math.ceil(total / rows) <= pack_tokens]
    return min(within or [n], key=cost)


def split_requests(requests: Sequence[ScoreRequest], pack_tokens: int, attention_cost: float) -> list[list[Piece]]:
    """Batches of packed rows: each batch is one forward pass of about `pack_tokens` tokens, padding included.

    A single completion whose row is longer than `pack_tokens` still gets its row.
    """
    batches: list[list[Piece]] = []
    longest = 0
    for index, request in enumerate(requests):
        for piece in _rows(request, index, pack_tokens, attention_cost):
            longest = max(longest, piece.tokens)
            if not batches or (len(batches[-1]) + 1) * longest > pack_tokens:
                batches.append([])
                longest = piece.tokens
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


def pack(pieces: Sequence[Piece], padding_id: int) -> PackedBatch:
    """Lay the rows out. Raises ValueError when a `kept` mask does not fit its completion."""
    length = max(piece.tokens for piece in pieces)
    token_ids = torch.full((len(pieces), length), padding_id)
    segments = torch.full((len(pieces), length), -1)
    predicts: list[Tensor] = []
    targets: list[Tensor] = []
    for row, piece in enumerate(pieces):
        request = piece.request
        prefix, completions = request.prompt.token_ids, request.completions
        sizes = torch.tensor([len(prefix), *(len(completion) for completion in completions)])
        used = int(sizes.sum())
        ids = torch.tensor([*prefix, *(token for completion in completions for token in completion)])
        token_ids[row, :used] = ids
        segments[row, :used] = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        start = len(prefix)
        for number, completion in enumerate(completions):
            positions = torch.arange(start - 1, start - 1 + len(completion))
            positions[:1] = len(prefix) - 1  # the first token is predicted by the end of the prefix
            wanted = ids[start : start + len(completion)]
            if request.kept is not None:
                mask = request.kept[number].cpu()
                if mask.shape != wanted.shape:
                    raise ValueError(f"a kept mask of {len(mask)} tokens for a completion of {len(completion)}")
                positions, wanted = positions[mask], wanted[mask]
            predicts.append(row * length + positions)
            targets.append(wanted)
            start += len(completion)
    empty = torch.empty(0, dtype=torch.long)
    return PackedBatch(
        token_ids=token_ids,
        segments=segments,
        prefix_lengths=tuple(len(piece.request.prompt.token_ids) for piece in pieces),
        predicts=torch.cat(predicts) if predicts else empty,
        targets=torch.cat(targets) if targets else empty,
        counts=tuple(len(wanted) for wanted in targets),
    )


def attention_mask(segments: Int[Tensor, "rows length"]) -> Bool[Tensor, "rows 1 length length"]:
    """True where a token (third axis) may look at another (fourth): earlier ones of the prefix or of its own
    completion. Padding looks at itself only, because a row of nothing would be NaN, and nobody looks at padding.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=segments.device)
    return (earlier & (key >= 0) & ((key == 0) | (key == query)) | own)[:, None]


def restart_positions(
    prefix_positions: Int[Tensor, "axes rows prefix"], batch: PackedBatch
) -> Int[Tensor, "axes rows length"]:
    """Rotary positions of packed rows: those of the prefix as given, then every completion from the prefix on.

    In a plain row the first completion token stands one beyond the largest position of the prefix, on all axes.
    """
    rows, length = batch.segments.shape
    positions = torch.zeros((len(prefix_positions), rows, length), dtype=torch.long, device=batch.segments.device)
    columns = torch.arange(length, device=batch.segments.device)
    for row, prefix in enumerate(batch.prefix_lengths):
        positions[:, row, :prefix] = prefix_positions[:, row, :prefix]
        first = prefix_positions[:, row, :prefix].max() + 1
        segments = batch.segments[row]
        starts = torch.cat([torch.ones(1, dtype=torch.bool, device=segments.device), segments[1:] != segments[:-1]])
        start = torch.where(starts, columns, torch.zeros_like(columns)).cummax(dim=0).values
        positions[:, row, prefix:] = (first + columns - start)[prefix:] * (segments[prefix:] > 0)
    return positions
