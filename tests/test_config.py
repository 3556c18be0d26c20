import re
from fractions import Fraction
from typing import Any

import pytest
import torch

from saei.config import (
    Config,
    PlannedView,
    content_hash,
    field_names,
    from_dict,
    identity,
    to_dict,
    with_overrides,
)
from saei.options import train_command_line
from saei.presets import PRESETS, preset
from saei.settings.readers import ALPHA_READERS, IDLE, VIEW_READERS
from saei.token_scores import SCORES
from saei.types import PairScores, TokenScores
from saei.units import parse_grey_levels
from saei.views import VIEWS


def test_two_and_two_over_255_are_both_two_grey_levels():
    assert parse_grey_levels("2") == 2.0
    assert parse_grey_levels("2/255") == 2.0
    assert parse_grey_levels("2.5 / 255") == 2.5
    assert parse_grey_levels("2.") == 2.0
    with pytest.raises(ValueError, match="write 0, or at least 1/255"):
        parse_grey_levels("0.4/255")
    with pytest.raises(ValueError, match="number of grey levels"):
        parse_grey_levels("two")


@pytest.mark.parametrize(("text", "cure"), [("0.00784", "did you mean 2/255?"), ("0.03", "did you mean 8/255?")])
def test_a_share_of_the_range_is_refused_with_the_level_it_means(text, cure):
    with pytest.raises(ValueError, match=cure.replace("?", r"\?")):
        parse_grey_levels(text)


def test_the_papers_negative_step_is_refused_with_its_translation():
    with pytest.raises(ValueError, match=r"the paper prints -2/255 for descent on -H; write 2/255; .*--view.direction"):
        parse_grey_levels("-2/255")


def test_several_iterations_need_an_epsilon():
    with pytest.raises(ValueError, match=r"view.epsilon must be given when view.iterations > 1 \(got 3\)"):
        with_overrides(Config(), {"view.iterations": 3})
    assert with_overrides(Config(), {"view.iterations": 3, "view.epsilon": 4.0}).view.epsilon == 4.0


def test_only_attacks_on_images_need_an_epsilon():
    text = {"view.name": "text_embedding", "view.iterations": 3}
    assert with_overrides(Config(), text).view.epsilon is None
    with pytest.raises(ValueError, match=r"write --view.epsilon 2 \(= step\) or --view.epsilon 6 \(= T \* step\)"):
        with_overrides(Config(), {**text, "rollout.plan": ("clean:4", "egas:4", "text_embedding:4")})


def test_dropping_everything_is_refused():
    with pytest.raises(ValueError, match="must be < 1"):
        with_overrides(Config(), {"select.drop_low": Fraction(2, 3)})


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"select.share": Fraction(1, 5)}, "rule band keeps what drop_low and drop_high leave"),
        ({"select.rule": "top", "select.drop_low": Fraction(1, 5)}, "do nothing for top"),
        ({"view.epsilon": 0.7, "view.iterations": 3}, "cannot move within less than one"),
    ],
)
def test_a_setting_that_could_not_matter_is_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        with_overrides(Config(), overrides)


NOISE, MASK = {"view.name": "noise"}, {"view.name": "mask"}
TEXT, ERROR = {"view.name": "text_embedding"}, {"view.name": "error"}
THRICE = {"view.iterations": 3, "view.epsilon": 6.0}
TOP, RANDOM = {"policy_select.rule": "top"}, {"policy_select.rule": "random"}
CURRENT = {"policy_select.weights": "current", "loss.agg_scope": "micro"}
UNREAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (NOISE, {"select.rule": "all"}, "for noise; leave it at band: it belongs to egas, random_sign, gaussian, text_emb"),
    (NOISE, {"select.score": "vepo", "score.view": "mask"}, "select.score (vepo) does nothing for noise"),
    (MASK, {"select.drop_low": Fraction(1, 5)}, "select.drop_low (1/5) does nothing for mask; leave it at 1/3"),
    (ERROR, {"select.scope": "group"}, "select.scope (group) does nothing for error"),
    (NOISE, {"view.epsilon": 2.0}, "view.epsilon (2.0) does nothing for noise; leave it at None"),
    (TEXT, {"view.epsilon": 2.0}, "view.epsilon (2.0) does nothing for text_embedding"),
    (MASK, {"view.objective": "token_mean"}, "view.objective (token_mean) does nothing for mask"),
    (NOISE, {"view.iterations": 3}, "view.iterations (3) does nothing for noise"),
    ({}, {"view.schedule_midpoint": 0.5}, "with view.schedule constant; leave it at 0.666"),
    ({"view.schedule": "power"}, {"view.schedule_midpoint": 0.5}, "or set view.schedule to sigmoid"),
    ({"view.schedule": "linear"}, {"view.schedule_slope": 2.0}, "view.schedule_slope (2.0) does nothing with view.sch"),
    ({"rollout.plan": ("clean:4", "egas:4", "text_embedding:4")}, {"view.adv_per": "response"}, "set view.adv_per pro"),
    ({"select.rule": "random"}, {"select.score": "vepo", "score.view": "noise"}, "does nothing with select.rule rand"),
    ({"select.rule": "all"}, {"select.score": "dependency", "score.view": "mask"}, "with select.rule all; leave it at"),
    ({"select.rule": "otsu"}, {"select.count": "ceil"}, "or set select.rule to top, bottom, middle or random"),
    ({"select.rule": "all"}, {"select.scope": "group"}, "select.scope (group) does nothing with select.rule all"),
    ({"select.rule": "all"}, {"select.denominator": "all"}, "select.denominator (all) does nothing with select.rule"),
    ({**THRICE, "select.rule": "all"}, {"select.refresh": "each_iteration"}, "does nothing with select.rule all"),
    ({}, {"select.refresh": "each_iteration"}, "with view.iterations 1; leave it at once, or set view.iterations to"),
    ({}, {"policy_select.scope": "batch"}, "with policy_select.rule all; leave it at response, or set policy_select.r"),
    ({}, {"policy_select.count": "band"}, "policy_select.count (band) does nothing with policy_select.rule all"),
    ({"policy_select.rule": "band"}, {"policy_select.count": "band"}, "does nothing with policy_select.rule band"),
    ({}, {"policy_select.denominator": "all"}, "policy_select.denominator (all) does nothing with policy_select.rul"),
    ({"score.view": "noise"}, {"policy_select.score": "vepo"}, "policy_select.score (vepo) does nothing with policy_s"),
    ({"score.view": "noise", **RANDOM}, {"policy_select.score": "vepo"}, "does nothing with policy_select.rule random"),
    ({}, CURRENT, "policy_select.weights (current) does nothing with policy_select.rule all; leave it at old"),
    (RANDOM, CURRENT, "policy_select.weights (current) does nothing with policy_select.rule random; leave it at old"),
    ({**TOP, "loss.aggregation": "constant_length"}, {"policy_select.denominator": "all"}, "to token_mean or sequence"),
    ({"loss.name": "kl_cov"}, {"loss.clip_low": 0.1}, "loss.clip_low (0.1) does nothing for loss.name kl_cov; it bel"),
    ({"loss.name": "sent_v1"}, {"loss.clip_high": 0.28}, "loss.clip_high (0.28) does nothing for loss.name sent_v1"),
    ({"loss.name": "sent_v2"}, {"loss.clip_high": 0.28}, "loss.clip_high (0.28) does nothing for loss.name sent_v2"),
    ({"loss.name": "sent_paper"}, {"loss.clip_low": 1.0}, "loss.clip_low (1.0) does nothing for loss.name sent_paper"),
    ({}, {"loss.kl_estimator": "k1"}, "with loss.kl_coef 0.0; leave it at k3, or set loss.kl_coef to more than 0"),
    ({}, {"filter.max_batches": 10}, "filter.max_batches (10) does nothing with filter.rule none; leave it at 4, or"),
    ({"advantage.rule": "group_mean"}, {"advantage.epsilon": 1e-4}, "or set advantage.rule to group_std"),
    ({"advantage.rule": "leave_one_out"}, {"advantage.epsilon": 1e-4}, "with advantage.rule leave_one_out; leave it"),
    (
        {"loss.name": "papo", "score.view": "mask"},
        {"score.noise_level": 400},
        "does nothing with score.view mask; leav",
    ),
    ({"loss.name": "papo", "score.view": "noise"}, {"score.mask_share": 0.5}, "or set score.view to mask"),
    ({"loss.name": "papo", "score.view": "no_image"}, {"score.per": "response"}, "does nothing with score.view no_im"),
    ({"loss.name": "papo", "score.view": "mask"}, {"score.alpha": 0.5}, "score.alpha (0.5) does nothing for loss.name"),
    (
        {**TOP, "policy_select.score": "dependency", "score.view": "mask"},
        {"score.alpha": 0.5},
        "for policy_select.score dependency; leave it at 0.7, or set select.score or policy_select.score to one of",
    ),
]
"""Settings of a run that works; one more that nothing in it would read; words of the refusal."""


@pytest.mark.parametrize(("run", "unread", "said"), UNREAD)
def test_a_setting_that_nothing_reads_is_refused_with_a_cure(run, unread, said):
    works = {name: value for name, value in {**run, **unread}.items() if name not in unread}
    if "score.view" in works and "loss.name" not in works:  # a score view alone is itself unread
        works["loss.name"] = "papo"
    with_overrides(Config(), works)
    with pytest.raises(ValueError, match=re.escape(said)):
        with_overrides(Config(), {**run, **unread})


READ: list[dict[str, Any]] = [
    {"rollout.plan": ("clean:4", "noise:4", "egas:4"), "select.rule": "top", "view.epsilon": 2.0},
    {
        "rollout.plan": ("clean:4", "mask:4", "text_embedding:4"),
        "select.scope": "group",
        "view.objective": "token_mean",
    },
    {**ERROR, "view.objective": "token_mean", **THRICE},
    {"view.schedule": "sigmoid", "view.schedule_midpoint": 0.5, "view.schedule_slope": 10.0},
    {**NOISE, "view.schedule": "power", "view.schedule_slope": 2.0},
    {"view.schedule": "exponential", "view.schedule_slope": 2.0},
    {"view.adv_per": "response"},
    {"select.rule": "random", "select.count": "ceil", "select.scope": "group"},
    {"select.score": "vepo", "score.view": "noise", "score.noise_level": 400, "score.alpha": 0.5},
    {"select.rule": "middle", "select.score": "dependency", "score.view": "mask", "score.mask_share": 0.5},
    {**THRICE, "select.refresh": "each_iteration"},
    {**TEXT, "view.iterations": 2, "select.refresh": "each_iteration"},
    {**RANDOM, "policy_select.scope": "batch", "policy_select.count": "band", "policy_select.denominator": "all"},
    {**TOP, **CURRENT, "policy_select.scope": "micro_batch"},
    {**TOP, "policy_select.weights": "current", "loss.aggregation": "constant_length"},
    {**TOP, "policy_select.denominator": "all", "loss.aggregation": "sequence_mean"},
    {**TOP, "policy_select.score": "vepo_h", "score.view": "no_image", "score.alpha": 0.5},
    {"loss.name": "papo", "score.view": "noise", "score.per": "response"},
    *({"loss.name": name, "loss.clip_low": 0.1, "loss.clip_high": 0.3} for name in ("gspo", "cispo", "clip_cov")),
    {"loss.kl_coef": 0.01, "loss.kl_estimator": "k1"},
    {"filter.rule": "mixed_reward", "filter.max_batches": 10},
    {"advantage.epsilon": 1e-4},
]


@pytest.mark.parametrize("overrides", READ)
def test_a_setting_that_something_reads_is_taken(overrides):
    config = with_overrides(Config(), overrides)
    assert identity(config) != identity(Config())


def test_without_a_view_the_attacks_settings_are_left_alone():
    unread = {"view.schedule_slope": 2.0, "select.count": "ceil", "view.iterations": 3, "view.objective": "token_mean"}
    assert identity(with_overrides(preset("grpo"), unread)) == identity(preset("grpo"))


def test_score_alpha_belongs_to_the_scores_that_it_changes():
    entropy = torch.tensor([0.2, 0.9, 0.4, 0.7])
    tokens = TokenScores(logprobs=torch.tensor([-1.0, -2.0, -0.5, -3.0]), entropy=entropy, entropy_t1=entropy)
    pair = PairScores(
        logprobs=torch.tensor([-1.5, -1.0, -0.8, -3.5]),
        entropy=torch.tensor([0.6, 1.0, 0.3, 1.4]),
        jsd=torch.tensor([0.1, 0.3, 0.2, 0.05]),
        kl=torch.tensor([0.3, 0.2, 0.4, 0.1]),
    )
    changed = {name for name, score in SCORES.items() if not score(tokens, pair, 0.2).equal(score(tokens, pair, 0.8))}
    assert changed == set(ALPHA_READERS)


def test_a_table_of_readers_names_settings_and_views_that_exist():
    named = {name for row in IDLE for name in (row.setting, row.other)} | set(VIEW_READERS)
    assert named <= set(field_names())
    assert {view for readers in VIEW_READERS.values() for view in readers} == set(VIEWS) - {"clean"}


def test_an_empty_interval_of_covariances_is_refused_with_both_ends():
    with pytest.raises(ValueError, match=r"loss.cov_low must be < loss.cov_high, got 5 and 5: .* lower cov_low or rai"):
        with_overrides(Config(), {"loss.name": "clip_cov", "loss.cov_low": 5.0})


def test_the_group_plan_is_a_list_and_leaves_out_empty_views():
    assert Config().group_plan() == (PlannedView("clean", 6), PlannedView("egas", 6))
    assert preset("grpo").group_plan() == (PlannedView("clean", 12),)
    longer = with_overrides(Config(), {"rollout.plan": ("clean:4", "egas:4", "random_sign:4")})
    assert longer.group_plan()[2] == PlannedView("random_sign", 4)
    assert longer.group_size == 12


def test_a_plan_without_clean_completions_is_refused():
    with pytest.raises(ValueError, match="must start with clean"):
        with_overrides(Config(), {"rollout.n_clean": 0})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = preset(name)
    assert from_dict(to_dict(config)) == config


def test_an_unknown_field_names_its_nearest():
    with pytest.raises(ValueError, match=r"unknown setting view.step_sise: did you mean view.step_size\?"):
        from_dict({"view": {"step_sise": 2}})


def test_a_bad_value_in_a_file_is_told_in_the_settings_own_words():
    with pytest.raises(ValueError, match=r"view.step_size must be >= 0, got -2"):
        from_dict({"view": {"step_size": -2.0}})


def test_where_a_run_lies_and_how_often_it_saves_do_not_enter_its_identity():
    other = with_overrides(Config(), {"out": "elsewhere", "checkpoint.every": 3, "model.device": "cuda", "preset": "x"})
    assert identity(other) == identity(Config())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 7),
        ("threads", 2),
        ("model.dtype", "float64"),
        ("view.step_size", 3.0),
        ("select.drop_low", Fraction(1, 5)),
    ],
)
def test_what_can_change_a_number_enters_the_identity(name, value):
    assert content_hash(identity(with_overrides(Config(), {name: value}))) != content_hash(identity(Config()))


def test_the_grpo_baseline_is_one_trial_whatever_the_attack_would_have_been():
    baseline = preset("grpo")
    assert identity(with_overrides(baseline, {"view.step_size": 8.0, "select.rule": "all"})) == identity(baseline)


def test_list_form_and_counts_of_the_same_plan_are_the_same_trial():
    assert identity(with_overrides(Config(), {"rollout.plan": ("clean:6", "egas:6")})) == identity(Config())


def test_the_command_line_starts_from_the_preset_wherever_it_stands():
    config = train_command_line(["--steps", "3", "--preset", "grpo", "--checkpoint-every", "2"])
    assert config is not None
    assert (config.group_size, config.rollout.n_view, config.steps, config.checkpoint.every) == (12, 0, 3, 2)
    assert config.preset == "grpo"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--view.step-size", "-2/255"], "the paper prints -2/255"),
        (["--view.step-size", "0.0078"], "did you mean 2/255?"),
        (["--view.step-sise", "2"], "view.step-size"),
        (["--rollout.top-p", "2"], "rollout.top_p must be in (0, 1]"),
        (["--loss.train-view", "moved"], "as_sampled"),
    ],
)
def test_a_wrong_flag_or_value_leaves_with_code_2_and_says_why(arguments, said, capsys):
    with pytest.raises(SystemExit) as left:
        train_command_line(arguments)
    assert left.value.code == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in shown


def test_the_number_of_settings_grows_only_on_purpose():
    # 77 before the rivals: most are of one view, loss or control; one more for record.trackers, one for recipe,
    # seven for sets of the hub
    # eight for what a large model needs: a frozen projector, recomputing, a back-end, an adapter (4), master weights
    # eleven for the rollout engine: where it runs, what it is given, how long it is waited for, its correction
    # one for several devices: distributed.strategy
    assert len(field_names()) <= 166


def test_sizes_of_attacks_that_nobody_asked_for_are_refused():
    with pytest.raises(ValueError, match=r"eval\.attack_levels .* do nothing without eval\.attacks"):
        with_overrides(Config(), {"eval.attack_levels": (4.0,)})
    assert with_overrides(Config(), {"eval.attack_levels": (4.0,), "eval.attacks": ("egas",)}).eval.attack_levels == (
        4.0,
    )


def test_settings_added_later_leave_earlier_trials_their_names():
    # of 2026-11-21; a new setting whose default does what was done before carries rules.ADDED_LATER
    assert content_hash(identity(Config())) == "620b7c9af8f6"
