"""Positions of a decoder with one axis: tokens are counted, whatever they stand for."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from saei.families.family import Positions


def counted(
    model: Any,
    codec: Any,
    token_ids: Int[Tensor, "rows columns"],
    attended: Bool[Tensor, "rows columns"],
    images: Sequence[Tensor],
) -> tuple[Positions, Int[Tensor, " rows"]]:
    """[1, rows, columns] positions, padding at 0, and how many tokens each row has; see `Family.positions`."""
    number = attended.long().cumsum(dim=-1)
    return (number - 1).clamp(min=0)[None], number[:, -1]
