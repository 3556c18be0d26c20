"""What a run remembers from step to step besides weights and optimizer: all of it is in the checkpoint.

Everything else is a function of the settings and the step. A control that needs memory adds a field here.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True, slots=True)
class RunState:
    """Plain JSON values.

    `control_coef`: coefficient of the entropy control in the next step. `first_entropy`: mean token entropy of the
    first step (nats), `last_entropy` that of the latest; None before any is measured. `strength`: factor of the views'
    strength (back-off). `validation_rewards`: clean validation rewards since the last back-off, one an evaluation,
    oldest first. `quantile_low`, `quantile_high`: running thresholds of
    select.rule quantile (nats), None before the first step; `policy_quantile_*` those of policy_select.
    """

    control_coef: float = 0.0
    first_entropy: float | None = None
    last_entropy: float | None = None
    strength: float = 1.0
    validation_rewards: list[float] = field(default_factory=list)
    quantile_low: float | None = None
    quantile_high: float | None = None
    policy_quantile_low: float | None = None
    policy_quantile_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> "RunState":
        """Raises TypeError for a field that does not exist: a checkpoint of another version."""
        return cls(**tree)
