"""Control of the policy's entropy: the coefficient of each problem's completions in `- coefficient * mean(entropy)`.

A rule is two functions. `weight` gives the coefficients of this step from what is remembered; `advance` takes the
step's mean token entropy (nats, full vocabulary, image of `loss.train_view`) and sets what the next step remembers. So
a control acts one step after what it measured, as in Skywork-OR1 and TRL. A non-finite entropy is no measurement: it
changes nothing.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saei.config import ControlConfig
from saei.state import RunState

Weight = Callable[[RunState, ControlConfig, Float[Tensor, " problems"]], Float[Tensor, " problems"]]
Advance = Callable[[RunState, ControlConfig, float], None]


class Control(NamedTuple):
    """`weight(state, config, accuracy of each problem's group)`, per problem, all zeros where the step has no control
    (its mean is the step's coefficient); `advance(state, config, entropy of the step)`.
    """

    weight: Weight
    advance: Advance


RECONSTRUCTIONS: dict[str, str] = {
    "aer": (
        "control.rule aer is a reconstruction: arXiv 2510.10959 allots the coefficient by difficulty and steers "
        "entropy to a share of the initial one, but its formulas and code are not available; ours are "
        "relu(1 - accuracy / difficulty), scaled to mean 1 over the step's problems, times a coefficient moved by "
        "delta * (target - entropy) a step"
    )
}
"""`control.rule` -> what of it is ours and not the paper's, for the run record and the report."""


def _measure(state: RunState, entropy: float) -> bool:
    """Remember a measured entropy; False for a non-finite one."""
    if not math.isfinite(entropy):
        return False
    if state.first_entropy is None:
        state.first_entropy = entropy
    state.last_entropy = entropy
    return True


def _coefficient(state: RunState, config: ControlConfig) -> float:
    """The remembered coefficient; `control.coef` before the first measurement."""
    return min(config.coef, config.coef_max) if state.last_entropy is None else state.control_coef


def _everywhere(coefficient: float, accuracy: Float[Tensor, " problems"]) -> Float[Tensor, " problems"]:
    return torch.full_like(accuracy, coefficient)


def no_weight(
    state: RunState, config: ControlConfig, accuracy: Float[Tensor, " problems"]
) -> Float[Tensor, " problems"]:
    """Zeros: no control."""
    return torch.zeros_like(accuracy)


def keep_state(state: RunState, config: ControlConfig, entropy: float) -> None:
    """Rules without memory."""


def bonus_weight(
    state: RunState, config: ControlConfig, accuracy: Float[Tensor, " problems"]
) -> Float[Tensor, " problems"]:
    """`control.coef`, always: the plain entropy bonus (methods.md 8.1)."""
    return _everywhere(config.coef, accuracy)


def skywork_weight(
    state: RunState, config: ControlConfig, accuracy: Float[Tensor, " problems"]
) -> Float[Tensor, " problems"]:
    """The coefficient while the latest entropy is below the target, else 0 (arXiv 2505.22312; methods.md 8.2).

    Nothing before the first measurement, as in TRL. TRL also applies it *at* the target.
    """
    low = state.last_entropy is not None and state.last_entropy < config.target
    return _everywhere(_coefficient(state, config) if low else 0.0, accuracy)


def skywork_advance(state: RunState, config: ControlConfig, entropy: float) -> None:
    """c <- clip(c + delta below the target, c - delta otherwise, 0, coef_max)."""
    coefficient = _coefficient(state, config)
    if _measure(state, entropy):
        step = config.delta if entropy < config.target else -config.delta
        state.control_coef = min(max(coefficient + step, 0.0), config.coef_max)


def proportional_weight(
    state: RunState, config: ControlConfig, accuracy: Float[Tensor, " problems"]
) -> Float[Tensor, " problems"]:
    """The coefficient that the latest entropy called for; nothing before the first measurement."""
    return _everywhere(0.0 if state.last_entropy is None else state.control_coef, accuracy)


def proportional_advance(state: RunState, config: ControlConfig, entropy: float) -> None:
    """c = min(coef_max, gain * max(0, target - entropy)) (arXiv 2606.00096, which has no cap; methods.md 8.2).

    Its gain .03 and target .9 ask for up to .027: raise coef_max to that to have the paper's rule.
    """
    if _measure(state, entropy):
        state.control_coef = min(config.coef_max, config.gain * max(0.0, config.target - entropy))


def aer_weight(
    state: RunState, config: ControlConfig, accuracy: Float[Tensor, " problems"]
) -> Float[Tensor, " problems"]:
    """Coefficient times relu(1 - accuracy / difficulty), scaled to mean 1 over the step's problems (methods.md 8.3).

    Zeros where every problem is easier than `difficulty`.
    """
    hardness = (1 - accuracy / config.difficulty).clamp(min=0)
    if not bool((hardness > 0).any()):
        return torch.zeros_like(accuracy)
    return _coefficient(state, config) * hardness / hardness.mean()


def aer_advance(state: RunState, config: ControlConfig, entropy: float) -> None:
    """c <- clip(c + delta * (target_share * first entropy - entropy), 0, coef_max)."""
    coefficient = _coefficient(state, config)
    if _measure(state, entropy):
        assert state.first_entropy is not None, "a measured entropy sets the first one"
        gap = config.target_share * state.first_entropy - entropy
        state.control_coef = min(max(coefficient + config.delta * gap, 0.0), config.coef_max)


CONTROLS: dict[str, Control] = {
    "none": Control(no_weight, keep_state),
    "bonus": Control(bonus_weight, keep_state),
    "skywork": Control(skywork_weight, skywork_advance),
    "proportional": Control(proportional_weight, proportional_advance),
    "aer": Control(aer_weight, aer_advance),
}
"""`control.rule` -> its two functions."""
