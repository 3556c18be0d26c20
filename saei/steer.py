"""What one step teaches the next: the controllers' memory after a step, and the strength of its views."""

import math
from collections.abc import Mapping

import torch

from saei.config import Config
from saei.control import CONTROLS
from saei.evidence import Evidence
from saei.rollout import Key
from saei.select import running_thresholds
from saei.state import RunState
from saei.token_scores import SCORES
from saei.views import schedule


def view_strength(config: Config, step: int, state: RunState) -> float:
    """Factor of the views' strength in this step: the schedule's, times what the back-off has left."""
    return schedule.strength(config.view, step, config.steps) * state.strength


def attack_thresholds(state: RunState) -> tuple[float, float] | None:
    """Running thresholds of select.rule `quantile`; None before the first step."""
    if state.quantile_low is None or state.quantile_high is None:
        return None
    return state.quantile_low, state.quantile_high


def remember(state: RunState, entropy: float, evidence: Mapping[Key, Evidence], config: Config) -> None:
    """Move the entropy controller and the running thresholds on after a step of mean token entropy `entropy` (nats)."""
    CONTROLS[config.control.rule].advance(state, config.control, entropy)
    if not evidence:
        return
    if config.select.rule == "quantile":
        scores = torch.cat([one.measured.entropy for one in evidence.values()])
        state.quantile_low, state.quantile_high = running_thresholds(
            scores, config.select.drop_low, config.select.drop_high, attack_thresholds(state)
        )
    select = config.policy_select
    if select.rule == "quantile":
        rule, alpha = SCORES[select.score], config.score.alpha
        scores = torch.cat([rule(one.measured, one.pair, alpha) for one in evidence.values()])
        before = None
        if state.policy_quantile_low is not None and state.policy_quantile_high is not None:
            before = state.policy_quantile_low, state.policy_quantile_high
        state.policy_quantile_low, state.policy_quantile_high = running_thresholds(
            scores, select.drop_low, select.drop_high, before
        )


def shown_strength(config: Config, strength: float) -> float:
    """What the table shows: NaN where no view changes the input."""
    return strength if config.changes_inputs else math.nan
