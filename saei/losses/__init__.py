"""Policy losses: a name -> a function of (LossInputs, LossConfig, Denominator). One file a loss."""

from collections.abc import Callable

from torch import Tensor

from saei.config import LossConfig
from saei.losses.aggregate import AGGREGATIONS
from saei.losses.grpo import KL_ESTIMATORS, grpo
from saei.losses.inputs import Denominator, LossInputs

Loss = Callable[[LossInputs, LossConfig, Denominator], tuple[Tensor, dict[str, Tensor]]]

LOSSES: dict[str, Loss] = {"grpo": grpo}
"""`loss.name` -> (loss of the micro-batch, per-rollout sums over tokens)."""

__all__ = ["AGGREGATIONS", "KL_ESTIMATORS", "LOSSES", "Denominator", "Loss", "LossInputs"]
