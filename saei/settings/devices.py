"""How the processes of a trial share one model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class DistributedConfig:
    """Changes no number beyond rounding, like the number of processes: no trial is named by it."""

    strategy: Literal["replicate", "shard"] = "replicate"
    """With several processes: each holds the whole model, or a part of weights, gradients and optimizer (FSDP2)."""
