"""From per-token losses to one number, with one denominator over the update batch (methods.md 1.6).

| ours | elsewhere |
|---|---|
| `token_mean` | verl, DAPO: token-mean; TRL `dapo`, and `bnpo` when there is one micro-batch |
| `sequence_mean` | GRPO paper: seq-mean-token-mean; TRL `grpo` |
| `constant_length` | Dr. GRPO; TRL `dr_grpo` (verl's leaves out the division by the number of sequences) |
"""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

from saei.losses.inputs import Denominator


def token_mean(
    losses: Float[Tensor, "rollouts tokens"],
    counted: Bool[Tensor, "rollouts tokens"],
    tokens: int,
    denominator: Denominator,
) -> Float[Tensor, ""]:
    """Every token weighs the same."""
    return losses.sum() / tokens


def sequence_mean(
    losses: Float[Tensor, "rollouts tokens"],
    counted: Bool[Tensor, "rollouts tokens"],
    tokens: int,
    denominator: Denominator,
) -> Float[Tensor, ""]:
    """Every completion weighs the same, whatever its length."""
    lengths = counted.sum(dim=1).clamp(min=1)
    return (losses.sum(dim=1) / lengths).sum() / denominator.sequences


def constant_length(
    losses: Float[Tensor, "rollouts tokens"],
    counted: Bool[Tensor, "rollouts tokens"],
    tokens: int,
    denominator: Denominator,
) -> Float[Tensor, ""]:
    """Every token weighs the same, and as much as in any other batch."""
    return losses.sum() / (denominator.sequences * denominator.constant_length)


Aggregation = Callable[
    [Float[Tensor, "rollouts tokens"], Bool[Tensor, "rollouts tokens"], int, Denominator], Float[Tensor, ""]
]
AGGREGATIONS: dict[str, Aggregation] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "constant_length": constant_length,
}
"""`loss.aggregation` -> its function of (losses, zero where they do not count; the tokens that count in each
completion; how many count in the whole update batch; its other sizes)."""
