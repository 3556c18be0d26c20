from fractions import Fraction

import pytest

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
from saei.units import parse_grey_levels


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
    assert len(field_names()) <= 137  # 77 before the rivals: most are of one view, loss or control
