"""Entropy controls step by step, by hand and against TRL's own controller; and the back-off of the views."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from saei.back_off import back_off
from saei.config import ControlConfig
from saei.control import CONTROLS, RECONSTRUCTIONS
from saei.state import RunState

ACCURACY = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)


def coefficients(config, entropies, accuracy=ACCURACY):
    """Weights of the problems before the first step and after each entropy, and the state at the end."""
    control, state = CONTROLS[config.rule], RunState()
    weights = [control.weight(state, config, accuracy).tolist()]
    for entropy in entropies:
        control.advance(state, config, entropy)
        weights.append(control.weight(state, config, accuracy).tolist())
    return weights, state


def first_column(weights):
    assert all(len(set(row)) == 1 for row in weights), "this control treats all problems alike"
    return [row[0] for row in weights]


def test_without_a_control_every_weight_is_zero_and_nothing_is_remembered():
    weights, state = coefficients(ControlConfig(), [0.1, 0.5])
    assert weights == [[0.0] * 4] * 3
    assert state == RunState()


def test_the_bonus_is_constant_whatever_the_entropy():
    weights, _ = coefficients(ControlConfig(rule="bonus", coef=0.001), [0.1, 5.0, math.nan])
    assert first_column(weights) == [0.001] * 4


def test_skywork_moves_by_delta_and_acts_only_below_the_target():
    config = ControlConfig(rule="skywork", target=0.2, delta=0.002, coef_max=0.005)
    weights, state = coefficients(config, [0.1, 0.1, 0.1, 0.3, 0.2, 0.1])
    # remembered: .002, .004, .006 cut to .005, .003, .001 (at the target is not below it), .003
    # applied:    nothing is measured before the first step; off after .3 and after .2
    expected = [0.0, 0.002, 0.004, 0.005, 0.0, 0.0, 0.003]
    assert first_column(weights) == pytest.approx(expected, abs=1e-15)
    assert state.control_coef == pytest.approx(0.003)


def test_skywork_starts_from_its_coefficient_and_never_falls_below_zero():
    config = ControlConfig(rule="skywork", coef=0.003, target=0.2, delta=0.002)
    weights, state = coefficients(config, [0.3, 0.3, 0.1])  # .003 -> .001 -> -.001 cut to 0 -> .002
    assert first_column(weights) == pytest.approx([0.0, 0.0, 0.0, 0.002])
    assert state.control_coef == pytest.approx(0.002)


def trl_controller(config, entropies):
    """The coefficient that TRL's GRPOTrainer._compute_loss applies in each step, read off the loss's gradient."""
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl, the oracle, is not installed")
    trainer = object.__new__(grpo_trainer.GRPOTrainer)
    trainer.__dict__.update(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1,
            sync_gradients=True,
            gather=lambda values: values,
            reduce=lambda values, reduction: values,
        ),
        args=SimpleNamespace(
            delta=None, use_bias_correction_kl=False, steps_per_generation=1,
            entropy_target=config.target, entropy_coef_delta=config.delta,
            entropy_coef_min=0.0, entropy_coef_max=config.coef_max,
        ),
        current_gradient_accumulation_steps=1, beta=0.0, epsilon_low=0.2, epsilon_high=0.2,
        importance_sampling_level="token", loss_type="bnpo", max_completion_length=3, off_policy_mask_threshold=None,
        top_entropy_quantile=1.0, use_vllm=False, aux_loss_enabled=False,
        entropy_coef=config.coef, use_adaptive_entropy=True, _entropy_bonus_enabled=True,
        _last_world_entropy=float("inf"), _entropy_window_stats=None,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
    )  # fmt: skip
    tokens, applied = torch.zeros((1, 3), dtype=torch.long), []
    for entropy in entropies:
        token_entropy = torch.full((1, 3), entropy, dtype=torch.float64, requires_grad=True)
        logprobs = torch.zeros((1, 3), dtype=torch.float64)
        trainer._get_per_token_logps_and_entropies = lambda *_, e=token_entropy, p=logprobs, **__: (p, e, None)
        loss = trainer._compute_loss(
            None,
            {
                "prompt_ids": tokens, "prompt_mask": torch.ones_like(tokens), "completion_ids": tokens,
                "completion_mask": torch.ones_like(tokens), "advantages": torch.zeros(1, dtype=torch.float64),
                "old_per_token_logps": logprobs, "num_items_in_batch": torch.tensor(3),
            },
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, token_entropy)
        applied.append(-float(gradient.sum()))
    return applied


def test_skywork_applies_in_every_step_what_trl_applies():
    config = ControlConfig(rule="skywork", coef=0.001, target=0.2, delta=0.002, coef_max=0.005)
    entropies = [
        0.3,
        0.1,
        0.15,
        0.05,
        0.1,
        0.25,
        0.4,
        0.5,
        0.1,
        0.1,
    ]  # never at the target, where TRL acts and we do not
    ours = first_column(coefficients(config, entropies)[0])[:-1]
    assert sum(value > 0 for value in ours) == 5
    assert ours == pytest.approx(trl_controller(config, entropies), abs=1e-12)


def test_the_proportional_control_follows_the_gap_up_to_its_cap():
    config = ControlConfig(rule="proportional", target=0.9, gain=0.03, coef_max=0.02)
    # .03 * (.9 - .5) = .012; .03 * .8 = .024, cut to .02; above the target 0
    weights, _ = coefficients(config, [0.5, 0.1, 1.0])
    assert first_column(weights) == pytest.approx([0.0, 0.012, 0.02, 0.0])


def test_aer_spreads_its_coefficient_over_the_hard_problems_with_mean_one():
    config = ControlConfig(rule="aer", coef=0.003, difficulty=0.5)
    # relu(1 - accuracy / .5) = 1, .5, 0, 0, mean .375: shares 8/3, 4/3, 0, 0
    weights, _ = coefficients(config, [])
    assert weights[0] == pytest.approx([0.008, 0.004, 0.0, 0.0])
    assert sum(weights[0]) / 4 == pytest.approx(0.003)


def test_aer_gives_nothing_where_every_problem_is_easy():
    config = ControlConfig(rule="aer", coef=0.003, difficulty=0.5)
    weights, _ = coefficients(config, [], accuracy=torch.tensor([0.5, 1.0]))
    assert weights == [[0.0, 0.0]]


def test_aer_steers_entropy_to_a_share_of_the_first_one():
    config = ControlConfig(rule="aer", coef=0.001, delta=0.01, target_share=0.4, coef_max=0.005)
    control, state, seen = CONTROLS["aer"], RunState(), []
    for entropy in [1.0, 0.2, 0.1, 0.0, 0.5]:
        control.advance(state, config, entropy)
        seen.append(state.control_coef)
    # target .4 * 1.0; .001 - .006 cut to 0; + .01 * .2 = .002; + .01 * .3 = .005; + .01 * .4, cut to .005; - .01 * .1
    assert seen == pytest.approx([0.0, 0.002, 0.005, 0.005, 0.004])
    assert state.first_entropy == 1.0


@pytest.mark.parametrize("rule", CONTROLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_entropy_that_is_not_finite_changes_nothing(rule, bad):
    config = ControlConfig(rule=rule, coef=0.001) if rule in ("bonus", "skywork", "aer") else ControlConfig(rule=rule)
    control, state = CONTROLS[rule], RunState()
    control.advance(state, config, bad)
    assert state == RunState()
    control.advance(state, config, 0.15)
    before = state.to_dict()
    control.advance(state, config, bad)
    assert state.to_dict() == before


@pytest.mark.parametrize("rule", CONTROLS)
def test_a_control_goes_on_from_its_saved_state(rule):
    config = ControlConfig(rule=rule, coef=0.001) if rule in ("bonus", "skywork", "aer") else ControlConfig(rule=rule)
    control = CONTROLS[rule]
    straight, resumed = RunState(), RunState()
    for entropy in [0.3, 0.1, 0.05]:
        control.advance(straight, config, entropy)
        control.advance(resumed, config, entropy)
        resumed = RunState.from_dict(resumed.to_dict())
        ours, theirs = (control.weight(state, config, ACCURACY) for state in (resumed, straight))
        assert torch.equal(ours, theirs)


def test_aer_alone_is_a_reconstruction_and_says_so():
    assert set(RECONSTRUCTIONS) == {"aer"} <= CONTROLS.keys() and "reconstruction" in RECONSTRUCTIONS["aer"]


def strengths(rewards):
    state, seen = RunState(), []
    for reward in rewards:
        back_off(state, reward)
        seen.append(state.strength)
    return seen


def test_the_strength_is_halved_when_the_reward_fell_twice_in_a_row():
    assert strengths([0.5, 0.4, 0.3]) == [1.0, 1.0, 0.5]


def test_one_fall_or_a_fall_and_a_tie_or_two_falls_apart_leave_the_strength():
    assert strengths([0.5, 0.4, 0.4, 0.3, 0.5, 0.4]) == [1.0] * 6


def test_no_fall_is_counted_twice():
    # .5 .4 .3 halves; the window starts again at .3, so it takes .2 and .1 to halve once more
    assert strengths([0.5, 0.4, 0.3, 0.2, 0.1]) == [1.0, 1.0, 0.5, 0.5, 0.25]
