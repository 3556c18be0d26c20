"""The reference policy of the KL term: the model as it was before the run.

Where an adapter is trained, that is the policy with its adapter switched off, so no second copy of the weights is held.
"""

from typing import Any

from saei.adapters import adapter_off, adapter_parameters
from saei.config import DataConfig, ModelConfig
from saei.policy import Policy, load_policy
from saei.types import TokenScores


class WithoutAdapter(Policy):
    """A policy as it is without its adapter: the same weights, counters of its own."""

    def __init__(self, policy: Policy) -> None:
        self.__dict__ |= vars(policy)
        self.packed_forwards = self.tokens_forward = self.tokens_generated = self.tokens_backward = 0

    def score(self, *arguments: Any, **options: Any) -> list[list[TokenScores]]:
        with adapter_off(self.model):
            return super().score(*arguments, **options)


def reference_policy(policy: Policy, model: ModelConfig, data: DataConfig, held_on: str | None = None) -> Policy:
    """What `policy`, just loaded with these arguments, is before its first update, whatever happens to it later."""
    return WithoutAdapter(policy) if adapter_parameters(policy.model) else load_policy(model, data, held_on=held_on)
