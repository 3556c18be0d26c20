"""What a loss is given: the padded tensors of one micro-batch, and the denominators of its whole update batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LossInputs:
    """Some rollouts of an update batch, right-padded. Only `logprobs` and `entropy` may carry gradient.

    `logprobs`, `old_logprobs` and `ref_logprobs` are of the same tokens on the same image (`loss.train_view`), at the
    rollout temperature; the old ones with the weights before the step's first update. `mask` is True on completion
    tokens, end token included. Padding may hold anything, NaN too: no loss reads it.
    """

    logprobs: Float[Tensor, "rollouts tokens"]
    old_logprobs: Float[Tensor, "rollouts tokens"]
    ref_logprobs: Float[Tensor, "rollouts tokens"] | None
    entropy: Float[Tensor, "rollouts tokens"] | None
    advantages: Float[Tensor, " rollouts"]
    mask: Bool[Tensor, "rollouts tokens"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Denominator:
    """Completion tokens and completions of the *whole update batch*, and the constant length (`max_new_tokens`).

    Every micro-batch divides by these, so the losses of the micro-batches add up to the loss of the batch.
    """

    tokens: int
    sequences: int
    constant_length: int

    def __post_init__(self) -> None:
        for name in ("tokens", "sequences", "constant_length"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Denominator.{name} must be at least 1, got {getattr(self, name)}: an update batch needs "
                    "completions with at least their end token"
                )


def keep_masked(
    values: Float[Tensor, "rollouts tokens"], mask: Bool[Tensor, "rollouts tokens"]
) -> Float[Tensor, "rollouts tokens"]:
    """Zeros on padding, in value and in gradient (a product with the mask would let NaN through)."""
    return torch.where(mask, values, torch.zeros_like(values))
