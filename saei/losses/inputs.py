"""What a loss is given: the padded tensors of one micro-batch, and the denominators of its whole update batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LossInputs:
    """Some rollouts of an update batch, right-padded. Only `logprobs` and `entropy` may carry gradient.

    `logprobs`, `old_logprobs` and `ref_logprobs` are of the same tokens on the same image (`loss.train_view`), at the
    rollout temperature; the old ones with the weights before the step's first update. `mask` is True on completion
    tokens, end token included. Padding may hold anything, NaN too: no loss reads it.

    `selected` (within `mask`): tokens of the policy loss. `counted`: tokens its means divide by, `selected` or `mask`.
    `picks`: what the loss's own pick said of each token, 0 for most. `perturbed_logprobs`: under the image of
    `score.view`, old weights. `entropy_weight`: this rollout's coefficient in the entropy control. `engine_weights`:
    what each token's policy loss is multiplied by (`loss.engine_correction`). None: not there.
    """

    logprobs: Float[Tensor, "rollouts tokens"]
    old_logprobs: Float[Tensor, "rollouts tokens"]
    advantages: Float[Tensor, " rollouts"]
    mask: Bool[Tensor, "rollouts tokens"]
    ref_logprobs: Float[Tensor, "rollouts tokens"] | None = None
    entropy: Float[Tensor, "rollouts tokens"] | None = None
    selected: Bool[Tensor, "rollouts tokens"] | None = None
    counted: Bool[Tensor, "rollouts tokens"] | None = None
    picks: Int[Tensor, "rollouts tokens"] | None = None
    perturbed_logprobs: Float[Tensor, "rollouts tokens"] | None = None
    entropy_weight: Float[Tensor, " rollouts"] | None = None
    engine_weights: Float[Tensor, "rollouts tokens"] | None = None

    @property
    def chosen(self) -> Bool[Tensor, "rollouts tokens"]:
        """Tokens of the policy loss: `selected`, or all."""
        return self.mask if self.selected is None else self.selected

    @property
    def divided_by(self) -> Bool[Tensor, "rollouts tokens"]:
        """Tokens that the policy loss's means divide by: `counted`, or all."""
        return self.mask if self.counted is None else self.counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Denominator:
    """Sizes of the *whole update batch*: completion tokens, those that the policy loss divides by (None: all), and
    completions; and the constant length (`max_new_tokens`).

    Every micro-batch divides by these, so the losses of the micro-batches add up to the loss of the batch.
    """

    tokens: int
    sequences: int
    constant_length: int
    counted: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "sequences", "constant_length"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Denominator.{name} must be at least 1, got {getattr(self, name)}: an update batch needs "
                    "completions with at least their end token"
                )

    @property
    def policy_tokens(self) -> int:
        """Tokens that the policy loss divides by; 1 where none was selected, whose loss is then 0."""
        return self.tokens if self.counted is None else max(1, self.counted)


def keep_masked(
    values: Float[Tensor, "rollouts tokens"], mask: Bool[Tensor, "rollouts tokens"]
) -> Float[Tensor, "rollouts tokens"]:
    """Zeros on padding, in value and in gradient (a product with the mask would let NaN through)."""
    return torch.where(mask, values, torch.zeros_like(values))
