"""A method whose own part is switched off is GRPO; how a batch is split, or a run interrupted, changes nothing.

On the shipped model in float64 throughout (the stock RMSNorm rounds to float32, whatever the model's type), so that two
ways of computing the same differ by far less than 1e-10.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

import saei.train
from saei import filters, schema
from saei.checkpoint import checkpoints, read_cursor
from saei.clock import Clock
from saei.config import Config, ControlConfig, with_overrides
from saei.credit import group_advantages, update_batches
from saei.data import load_problems
from saei.evidence import gather_evidence
from saei.policy import Policy, load_policy
from saei.presets import PRESETS, preset
from saei.recorder import Recorder as RunRecorder
from saei.reward import Scorer
from saei.rollout import GroupsInProgress
from saei.seeding import torch_generator
from saei.state import RunState
from saei.steer import view_strength
from saei.tiny import model_dir
from saei.train import Run, roll_out, train
from saei.update import update_policy
from tests.runs import assert_same_run, frame, small_config
from tests.test_rival_losses import WITHOUT_OWN_TERM
from tests.toy_batch import OWNERS, LogitModel, Recorder, measured_before, toy_step

WIDE: dict[str, Any] = {
    "model__dtype": "float64", "eval__every": 0, "optim__max_grad_norm": 1e9, "rollout__problems_per_step": 4,
    "rollout__max_new_tokens": 32,
}  # fmt: skip


def wide_config(name: str, **overrides: Any) -> Config:
    return small_config(Path("unused"), name, **{**WIDE, **overrides})


def norm(self: Any, hidden_states: Tensor) -> Tensor:
    """RMSNorm in the type of its input."""
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)


@pytest.fixture(scope="module")
def policy() -> Policy:
    config = wide_config("grpo")
    loaded = load_policy(config.model, config.data)
    norms = [module for module in loaded.model.modules() if isinstance(module, Qwen2_5_VLRMSNorm)]
    assert norms
    for module in norms:
        module.forward = MethodType(norm, module)
    return loaded


def rolled(policy: Policy, config: Config, folder: Path) -> GroupsInProgress:
    """The first step's rollouts."""
    config = with_overrides(config, {"out": str(folder)})
    problems = load_problems(config.data, config.data.train_split)
    batch = [problems[i] for i in range(config.rollout.problems_per_step)]
    with Scorer(config.reward) as scorer:
        run = Run(config, policy, None, Recorder(policy.model.parameters()), scorer, RunRecorder(config))
        return roll_out(run, batch, 0, view_strength(config, 0, RunState()), Clock())


@pytest.fixture(scope="module")
def progress(policy, tmp_path_factory) -> GroupsInProgress:
    """GRPO's rollouts, with rewards that differ within every group."""
    found = rolled(policy, wide_config("grpo"), tmp_path_factory.mktemp("grpo"))
    return rewarded(found)


def rewarded(progress: GroupsInProgress) -> GroupsInProgress:
    for rollouts in progress.rollouts:
        for rollout, reward in zip(rollouts, (1.0, 0.0, 0.1, 0.9), strict=True):
            progress.rewards[rollout.key] = reward
    return progress


@dataclass(frozen=True, slots=True)
class Learned:
    loss: float
    gradient: Tensor
    passes: int


@contextmanager
def moved_weights(policy: Policy) -> Iterator[None]:
    """Inside, every weight is a little off: a later update of a step, where ratios are not 1."""
    generator = torch_generator(0, "loss")
    before = [parameter.detach().clone() for parameter in policy.model.parameters()]
    with torch.no_grad():
        for parameter in policy.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter += 0.03 * parameter.std(correction=0) * noise
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(policy.model.parameters(), before, strict=True):
                parameter.copy_(value)


def learned(policy: Policy, progress: GroupsInProgress, config: Config) -> Learned:
    """Summed loss and gradient of the step's two updates, both with weights that moved since the rollouts."""
    groups, reference = progress.groups(), policy if config.loss.kl_coef else None
    advantages = group_advantages(groups, progress.rewards, config)
    evidence = gather_evidence(policy, reference, groups, advantages, progress, config, 0, RunState())
    evidence = measured_before(evidence, policy, groups, config)
    optimizer, before = Recorder(policy.model.parameters()), policy.packed_forwards
    losses, gradients = [], []
    with moved_weights(policy):
        for number, part in enumerate(update_batches(groups, config.optim.updates_per_step)):
            generator = torch_generator(config.seed, "loss", 0, number)
            result = update_policy(policy, optimizer, part, evidence, config, generator, first=False)
            losses.append(result.loss)
            gradients.append(torch.cat([gradient.flatten() for gradient in optimizer.gradients]))
    return Learned(sum(losses), torch.stack(gradients).sum(dim=0), policy.packed_forwards - before)


def assert_same_learning(one: Learned, other: Learned, tolerance: float) -> None:
    """Loss, and gradient in units of its norm."""
    assert one.loss == pytest.approx(other.loss, abs=tolerance)
    norm = float(other.gradient.norm())
    assert norm > 1e-3, "nothing is learned here, so that everything would be equal"
    assert float((one.gradient - other.gradient).norm()) <= tolerance * norm


def same(one: Learned, other: Learned) -> bool:
    return float((one.gradient - other.gradient).norm()) <= 1e-6 * float(other.gradient.norm())


# --- views that are switched off --------------------------------------------------------------------------------------

SWITCHED_OFF: dict[str, tuple[str, dict[str, Any]]] = {
    "saei, step 0": ("saei", {"view__step_size": 0.0}),
    "saei, no iteration": ("saei", {"view__iterations": 0}),
    "saei, linear schedule in its last step": ("saei", {"view__schedule": "linear", "steps": 1}),
    "noisyrollout, no noise": ("noisyrollout", {"view__noise_level": 0}),
    "text_embedding, radius 0": ("text_embedding", {"view__text_radius": 0.0}),
    "random_sign, step 0": ("random_sign", {"view__step_size": 0.0}),
    "gaussian, step 0": ("gaussian", {"view__step_size": 0.0}),
    "mask, no block": ("saei", {"view__name": "mask", "view__mask_share": 0.0}),
}


def texts(progress: GroupsInProgress) -> list[list[tuple[int, ...]]]:
    return [[rollout.token_ids for rollout in rollouts] for rollouts in progress.rollouts]


@pytest.mark.parametrize("arm", SWITCHED_OFF)
def test_a_view_that_is_switched_off_samples_and_learns_what_grpo_does(arm, policy, progress, grpo, tmp_path):
    name, settings = SWITCHED_OFF[arm]
    config = wide_config(name, **settings)
    assert [entry.count for entry in config.group_plan()] == [2, 2]
    ours = rolled(policy, config, tmp_path)
    assert texts(ours) == texts(progress)
    assert_same_learning(learned(policy, rewarded(ours), config), grpo, 1e-12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("saei", {"view__step_size": 8.0}), ("noisyrollout", {}), ("text_embedding", {"view__text_radius": 0.5})],
)
def test_a_view_that_is_on_samples_something_else(name, settings, policy, progress, tmp_path):
    ours = rolled(policy, wide_config(name, **settings), tmp_path)
    assert [group[:2] for group in texts(ours)] == [group[:2] for group in texts(progress)]
    assert texts(ours) != texts(progress)


# --- losses whose own part is switched off ----------------------------------------------------------------------------

ALL = Fraction(1)
UNCLIPPED = {"loss__clip_low": 1.0, "loss__clip_high": 1e9}
EQUAL_LOSSES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # arm: preset, what switches its own part off, and what GRPO is to be given
    "top share 1": ("grpo", {"policy_select__rule": "top", "policy_select__share": ALL}, {}),
    "top_entropy, share 1": (
        "top_entropy", {"policy_select__share": ALL}, {"loss__clip_high": 0.28, "loss__dual_clip": 10.0},
    ),
    "vepo, share 1": ("vepo", {"policy_select__share": ALL}, {}),
    "vppo, share 1, no shaping, no penalty": (
        "vppo",
        {"policy_select__share": ALL, "advantage__shaping_strength": 0.0, "loss__nll_coef": 0.0},
        {"loss__clip_high": 0.28, "loss__dual_clip": 10.0},
    ),
    "papo, no perception": (
        "papo",
        {"loss__perception_coef": 0.0, "loss__kl_coef": 0.0, "loss__nll_coef": 0.0},
        {"loss__clip_high": 0.3, "loss__dual_clip": 3.0},
    ),
    "kl_cov, no penalty": ("kl_cov", {"loss__penalty": 0.0}, UNCLIPPED),
    "clip_cov, none eligible": ("clip_cov", {"loss__cov_low": 1e6, "loss__cov_high": 1e7}, {"loss__clip_low": 1.0,
                                                                                          "loss__clip_high": 1.0}),
    "sent, no penalty": ("sent", {"loss__penalty": 0.0, "loss__kl_coef": 0.0}, UNCLIPPED),
    "adaptive_entropy, coefficient 0": ("adaptive_entropy", {}, {}),
    "aer, coefficient 0": ("aer", {}, {}),
    "ecvgpo, strength 0": ("ecvgpo", {"advantage__shaping_strength": 0.0}, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def grpo(policy, progress) -> Learned:
    return learned(policy, progress, wide_config("grpo"))


@pytest.mark.parametrize("arm", EQUAL_LOSSES)
def test_a_loss_whose_own_part_is_switched_off_is_grpo(arm, policy, progress):
    name, off, host = EQUAL_LOSSES[arm]
    ours = learned(policy, progress, wide_config(name, **off))
    assert_same_learning(ours, learned(policy, progress, wide_config("grpo", **host)), 1e-12)


@pytest.mark.parametrize("name", ["top_entropy", "vepo", "vppo", "papo", "kl_cov", "sent", "ecvgpo"])
def test_the_same_loss_switched_on_is_not(name, policy, progress, grpo):
    assert not same(learned(policy, progress, wide_config(name)), grpo)


# --- micro-batches ----------------------------------------------------------------------------------------------------

SPLIT: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("grpo", {}),
    "gspo": ("gspo", {"loss__clip_low": 0.05, "loss__clip_high": 0.05}),
    "kl_cov": ("kl_cov", {"loss__token_share": 0.05}),
    "clip_cov": ("clip_cov", {"loss__token_share": 0.05, "loss__cov_low": 0.1}),
    "sent_v1": ("sent", {"loss__name": "sent_v1", "loss__token_share": 0.05}),
    "sent_v2": ("sent", {"loss__token_share": 0.05}),
    "top_entropy": ("top_entropy", {}),
    "vepo": ("vepo", {}),
    "vppo": ("vppo", {}),
    "papo": ("papo", {}),
    "aer": ("aer", {"control__coef": 0.01, "control__difficulty": 1.0}),
}
SMALL_BATCHES = {"optim__pack_tokens": 256}


@pytest.mark.parametrize("name", SPLIT)
def test_results_do_not_depend_on_how_the_update_batch_is_split(name, policy, progress, monkeypatch):
    base, settings = SPLIT[name]
    whole = learned(policy, progress, wide_config(base, **settings))
    monkeypatch.setattr(policy, "attention_cost", 10.0)  # every completion in a row of its own: groups are split too
    parts = learned(policy, progress, wide_config(base, **settings, **SMALL_BATCHES))
    assert parts.passes >= whole.passes + 3
    assert_same_learning(parts, whole, 1e-9)  # the stock image tower rotates in float32


@pytest.mark.parametrize("scope", ["agg_scope", "pick_scope"])
def test_scopes_of_micro_batches_do_depend_on_it(scope, policy, progress, monkeypatch):
    settings = {"loss__token_share": 0.05, f"loss__{scope}": "micro"}
    whole = learned(policy, progress, wide_config("kl_cov", **settings))
    monkeypatch.setattr(policy, "attention_cost", 10.0)
    assert not same(learned(policy, progress, wide_config("kl_cov", **settings, **SMALL_BATCHES)), whole)


@pytest.mark.parametrize("scope", ["response", "group", "batch"])
def test_the_scope_of_a_selection_is_what_is_ranked_together(scope, policy, progress):
    config, groups = wide_config("top_entropy", policy_select__scope=scope), progress.groups()
    advantages = group_advantages(groups, progress.rewards, config)
    evidence = gather_evidence(policy, None, groups, advantages, progress, config, 0, RunState())
    for part in update_batches(groups, config.optim.updates_per_step):
        of_groups = [[evidence[rollout.key] for rollout in group.rollouts] for group in part]
        pools = {
            "response": [[one] for of_group in of_groups for one in of_group],
            "group": of_groups,
            "batch": [[one for of_group in of_groups for one in of_group]],
        }
        assert len({len(pool) for pool in pools.values()}) == 3
        for pool in pools[scope]:
            entropy, chosen = (
                torch.cat([one.measured.entropy for one in pool]),
                torch.cat([one.selected for one in pool if one.selected is not None]),
            )
            assert int(chosen.sum()) == math.ceil(len(chosen) / 5)
            assert entropy[chosen].min() > entropy[~chosen].max()


# --- no signal, and extreme logits ------------------------------------------------------------------------------------


def without_own_terms(config: Config) -> Config:
    """The policy loss alone: no penalty, divergence or control that acts whatever the advantages."""
    own = {f"loss.{name}": value for name, value in WITHOUT_OWN_TERM.get(config.loss.name, {}).items()}
    config = with_overrides(config, {"loss.kl_coef": 0.0, "loss.nll_coef": 0.0, **own})
    return replace(config, control=ControlConfig())


@pytest.mark.parametrize("name", PRESETS)
def test_equal_rewards_teach_nothing(name):
    silent = toy_step(without_own_terms(preset(name)), rewards=dict.fromkeys(OWNERS, 0.1))
    assert silent.losses == (0.0, 0.0) and not silent.logprobs.any()
    rewards = dict(zip(OWNERS, (1.0, 0.1, 0.9, 0.0), strict=True))
    assert toy_step(without_own_terms(preset(name)), rewards=rewards).logprobs.any()


@pytest.mark.parametrize("name", PRESETS)
def test_logits_of_ten_thousand_give_finite_losses_and_gradients(name):
    logits = 1e4 * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
    rows = logits.repeat(2, 1)[:, None].expand(4, 5, 3)
    old = LogitModel(rows.flip(0))  # sampled tokens have log-prob 0 where they now have -20000, and the reverse
    step = toy_step(preset(name), current=LogitModel(rows), old=old, perturbed=old.logprobs.detach().flip(0))
    assert torch.isfinite(torch.tensor(step.losses)).all() and torch.isfinite(step.gradients["logits"]).all()


# --- score views that show the same image -----------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "degenerate"), [(0.0, True), (0.6, False)])
def test_a_score_view_of_the_same_image_is_found_out(share, degenerate, tmp_path):
    train(small_config(tmp_path, "vepo", steps=1, eval__every=0, score__view="mask", score__mask_share=share))
    alarms = {alarm["detector"] for alarm in json.loads((tmp_path / schema.ALARMS_FILE).read_text())["alarms"]}
    assert ("score_degenerate" in alarms) == degenerate
    assert frame(tmp_path, "steps")["score_degenerate_share"].tolist() == [float(degenerate)]


# --- runs: dynamic sampling, memory of the controllers ----------------------------------------------------------------

SHORT: dict[str, Any] = {"eval__every": 0, "reward__overlong_buffer": 8}


def test_dynamic_sampling_counts_the_tokens_of_groups_that_it_drops(tmp_path):
    train(small_config(tmp_path, "dapo", steps=2, **SHORT))
    rows = frame(tmp_path, "rollouts").to_dict("records")
    assert {row["trained"] for row in rows} == {True, False}
    for step in frame(tmp_path, "steps").to_dict("records"):
        own = [row for row in rows if row["step"] == step["step"]]
        assert step["tokens_generated"] == sum(row["tokens"] for row in own)
        assert step["groups_sampled"] == len({row["problem_id"] for row in own})
        trained = {row["problem_id"] for row in own if row["trained"]}
        assert step["groups_trained"] == len(trained) <= 2
        for problem_id in trained:
            assert {row["reward_accuracy"] for row in own if row["problem_id"] == problem_id} == {0.0, 1.0}


def test_one_batch_at_most_samples_what_no_filter_samples(tmp_path):
    for name, settings in {"once": {"filter__max_batches": 1}, "none": {"filter__rule": "none"}}.items():
        train(small_config(tmp_path / name, "dapo", steps=1, **SHORT, **settings))
    columns = ["problem_id", "index", "text", "reward"]
    once, none = (frame(tmp_path / name, "rollouts") for name in ("once", "none"))
    for column in columns:
        assert list(once[column]) == list(none[column])
    assert set(none["trained"]) == {True}


def test_a_step_in_which_no_group_passes_changes_nothing_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(filters.GROUP_FILTERS, "mixed_accuracy", lambda accuracies, rewards: False)
    train(small_config(tmp_path, "dapo", steps=2, **SHORT, filter__max_batches=2))
    steps = frame(tmp_path, "steps").to_dict("records")
    assert [(row["updates"], row["groups_trained"], row["groups_sampled"]) for row in steps] == [(0, 0, 4)] * 2
    assert all(math.isnan(row["loss"]) for row in steps)
    ours, shipped = (
        safetensors.torch.load_file(folder / "model.safetensors")
        for folder in (tmp_path / schema.MODEL_FOLDER, model_dir())
    )
    assert ours.keys() == shipped.keys()
    assert all(torch.equal(ours[name].to(weight.dtype), weight) for name, weight in shipped.items())


REMEMBERING: dict[str, tuple[str, dict[str, Any]]] = {
    "aer, quantile band, back-off, filter": (
        "saei",
        {
            "control__rule": "aer", "control__coef": 0.002, "control__delta": 0.01, "control__target_share": 2.0,
            "control__coef_max": 0.05, "control__difficulty": 1.0, "select__rule": "quantile",
            "view__back_off": True, "eval__every": 1, "eval__problems": 1, "filter__rule": "mixed_accuracy",
            "filter__max_batches": 2,
        },
    ),
    "skywork, quantile of the policy, curriculum": (
        "sent",
        {
            "control__rule": "skywork", "control__target": 9.0, "control__delta": 0.001,
            "policy_select__rule": "quantile", "policy_select__scope": "batch", "data__curriculum_samples": 4,
            "rollout__n_clean": 2, "rollout__n_view": 2, "eval__every": 0,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("arm", REMEMBERING)
def test_an_interrupted_run_remembers_what_its_controllers_knew(arm, tmp_path, monkeypatch):
    name, settings = REMEMBERING[arm]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(small_config(straight, name, **settings))
    step, calls = saei.train.train_step, []

    def interrupted(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments[2])
        if arguments[2] == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(saei.train, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(small_config(broken, name, **settings))
    assert calls == [0, 1, 2, 3]
    (kept,) = checkpoints(broken / schema.CHECKPOINTS_FOLDER)
    state = RunState.from_dict(read_cursor(kept).state)
    assert state.control_coef > 0 and state.first_entropy is not None
    if settings.get("select__rule") == "quantile":
        assert state.quantile_low is not None and len(state.validation_rewards) > 0
    else:
        assert state.policy_quantile_low is not None and (broken / schema.CURRICULUM_FILE).is_file()
    train(small_config(broken, name, **settings))
    assert_same_run(broken, straight)
    finals = [checkpoints(run / schema.CHECKPOINTS_FOLDER)[-1] for run in (broken, straight)]
    assert read_cursor(finals[0]).state == read_cursor(finals[1]).state
    assert read_cursor(finals[0]).state != read_cursor(kept).state
