"""Figures over settings, cost and entropy: what is drawn, from numbers worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import (
    comparisons,
    costs,
    curves,
    heat_maps,
    lines,
    load,
    plots,
    settings,
    style,
    swept,
    swept_figures,
    training,
    trajectories,
)
from saei import schema
from saei.config import identity, to_dict
from sweeps.definition import arm_config
from sweeps.definition import load_sweep as load_definition
from tests.fake_results import fake_id, write_sweep

BAND = {"select.rule": "band", "rollout.n_clean": 6, "rollout.n_view": 6}


def settings_of(arms):
    """A `settings.varied` frame of one seed: arm -> dotted settings."""
    frame = pd.DataFrame([{"arm": arm, "seed": 0, **values} for arm, values in arms.items()])
    return frame.assign(arm=pd.Categorical(frame["arm"], categories=list(arms), ordered=True))


def final_of(scores, arms=None):
    """A `stats.final_scores` frame: arm -> accuracy of each seed; the first arm is the baseline."""
    rows = [
        {"arm": arm, "seed": seed, "accuracy": accuracy, "samples": 8}
        for arm, accuracies in scores.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "accuracy", "samples"])
    return frame.assign(arm=pd.Categorical(frame["arm"], categories=list(arms or scores), ordered=True))


def defined(name):
    """The settings of a sweep of ours as if one run of each arm were there."""
    sweep = load_definition(name)
    configs = {arm: arm_config(sweep, arm, 0, {}) for arm in sweep.arms}
    plan = {"arms": [{"name": arm, "overrides": {}} for arm in sweep.arms]}
    trees = [
        {"arm": arm, "config": to_dict(config), "identity": {"settings": identity(config)}}
        for arm, config in configs.items()
    ]
    trials = pd.DataFrame({"arm": pd.Categorical(list(configs), categories=list(configs), ordered=True), "seed": 0})
    data = load.SweepData(plan=plan, trials=trials)
    data.documents = lambda file: json.loads(json.dumps(trees))
    return settings.varied(data)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def ticks(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


# ---- settings


def test_settings_of_arms_are_numbers_and_only_those_that_have_an_effect_and_differ():
    frame = settings.by_arm(defined("tsec_ratio"))
    expected = ["rollout.n_clean", "rollout.n_view", "select.rule", "select.drop_low", "select.drop_high"]
    assert list(frame) == expected  # no step size: all attacks have one, and GRPO has none
    assert frame.loc["middle_1_5", "select.drop_low"] == pytest.approx(2 / 5)
    assert frame.loc["middle_1_3", "select.drop_high"] == pytest.approx(1 / 3)
    assert frame.loc["grpo", ["select.rule", "select.drop_low"]].isna().all()
    assert frame.loc["random_third", "select.rule"] == "random"


def test_an_arm_that_has_not_begun_has_the_settings_of_its_plan(tmp_path):
    folder = write_sweep(
        tmp_path, "s", arms={"grpo": 0.1, "two": 0.1, "eight": 0.1}, seeds=2, leave_out=[("eight", 0), ("eight", 1)]
    )
    plan = json.loads((folder / schema.PLAN_FILE).read_text())
    overrides = {"two": {}, "eight": {"view.step_size": 8.0, "select.share": "1/5"}}
    plan["arms"] = [{"name": one["name"], "overrides": overrides.get(one["name"], {})} for one in plan["arms"]]
    (folder / schema.PLAN_FILE).write_text(json.dumps(plan))
    for arm in ("grpo", "two"):
        path = folder / fake_id(arm, 0) / schema.CONFIG_FILE
        tree = json.loads(path.read_text())
        tree["config"] |= {"view": {"step_size": 2.0}, "select": {"share": "1/3"}}
        path.write_text(json.dumps(tree))
    frame = settings.varied(load.load_sweep(tmp_path, "s"))
    assert frame.columns.tolist() == ["arm", "seed", "view.step_size", "select.share"]
    assert frame["view.step_size"].tolist() == [2, 2, 2, 2, 8, 8]
    assert frame["select.share"].iloc[-1] == pytest.approx(0.2)


def test_without_any_sweep_no_setting_differs(tmp_path):
    assert settings.varied(load.load_sweep(tmp_path)).columns.tolist() == ["arm", "seed"]


# ---- which settings are swept


def places(families):
    return [(family.axes, dict(family.places)) for family in families]


def test_the_share_that_is_kept_is_one_setting_of_two_cuts_and_controls_are_no_points_of_its_curve():
    (curve,) = swept.curves(defined("tsec_ratio"))
    assert curve.axes == (swept.KEPT,)
    assert {arm: round(place[0], 6) for arm, place in curve.places.items()} == {
        "middle_3_5": 0.6, "middle_1_2": 0.5, "middle_1_3": 0.333333, "middle_1_5": 0.2
    }  # fmt: skip


def test_the_baseline_is_a_point_of_a_curve_over_what_it_has_none_of():
    (curve,) = swept.curves(defined("group_split"))
    assert curve.axes == ("rollout.n_view",) and curve.places["split_12_0"] == (0,) and len(curve.places) == 6


def test_balls_of_one_step_and_of_all_steps_are_two_curves_that_share_the_single_iteration():
    found = places(swept.curves(defined("pgd_iterations")))
    same = {"once": (1,), "twice_same_ball": (2,), "thrice_same_ball": (3,)}
    wide = {"once": (1,), "twice_wide_ball": (2,), "thrice_wide_ball": (3,)}
    assert found == [(("view.iterations",), same), (("view.iterations",), wide)]


def test_step_size_and_iterations_are_two_grids_by_ball_and_mitigations_are_in_neither():
    grids = swept.covering(swept.grids(defined("attack_strength")), 3)
    assert [grid.axes for grid in grids] == [("view.step_size", "view.iterations")] * 2
    assert [len(grid.places) for grid in grids] == [13, 13]  # 4 steps x T 1, 2, 4, and step 32 at T 1
    assert [grid.fixed["ball"] for grid in grids] == ["of one step", "of all steps"]
    assert not any("back_off" in arm for grid in grids for arm in grid.places)


def test_a_cross_of_two_curves_is_no_grid():
    cross = {"a": (1, 1), "b": (2, 1), "c": (3, 1), "d": (1, 2), "e": (1, 3)}
    frame = settings_of({arm: {"optim.lr": x, "loss.kl_coef": y} for arm, (x, y) in cross.items()})
    assert swept.grids(frame) == []
    found = places(swept.curves(frame))
    assert [axes for axes, _ in found] == [("optim.lr",), ("loss.kl_coef",)]
    assert found[1][1] == {"a": (1,), "d": (2,), "e": (3,)}


def test_two_numbers_that_always_move_together_are_one_setting():
    frame = settings_of({f"arm{lr}": {"optim.lr": lr, "optim.warmup_steps": 10 * lr} for lr in (1, 2, 4)})
    assert [axes for axes, _ in places(swept.curves(frame))] == [("optim.lr",)]


# ---- accuracy over one setting

KEPT = {
    "grpo": {"rollout.n_clean": 12, "rollout.n_view": 0},
    "three_fifths": {**BAND, "select.drop_low": 1 / 5, "select.drop_high": 1 / 5},
    "third": {**BAND, "select.drop_low": 1 / 3, "select.drop_high": 1 / 3},
    "fifth": {**BAND, "select.drop_low": 2 / 5, "select.drop_high": 2 / 5},
    "top": {**BAND, "select.rule": "top", "select.drop_low": 1 / 3, "select.drop_high": 1 / 3},
}
SCORES = {
    "grpo": [0.50, 0.52],
    "three_fifths": [0.60, 0.62],
    "third": [0.64, 0.66],
    "fifth": [0.55, 0.57],
    "top": [0.40, 0.44],
}


def test_accuracy_over_a_setting_is_the_mean_of_its_seeds_with_shares_as_fractions():
    (axes,) = swept_figures.accuracy_by_setting(final_of(SCORES), settings_of(KEPT)).axes
    assert ticks(axes.xaxis) == ["1/5", "1/3", "3/5"]
    assert axes.get_xlabel() == "share of the tokens that the attack acts on"
    (line,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert line.get_xdata() == pytest.approx([0.2, 1 / 3, 0.6], abs=1e-6)
    assert line.get_ydata() == pytest.approx([0.56, 0.65, 0.61])
    # t of 1 degree of freedom is 12.7062; the mean's standard error is 0.02 / 2 = 0.01
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert corners.max() == pytest.approx(0.65 + 0.127062) and corners.min() == pytest.approx(0.56 - 0.127062)


def test_baseline_and_controls_are_levels_beside_a_curve():
    (axes,) = swept_figures.accuracy_by_setting(final_of(SCORES), settings_of(KEPT)).axes
    levels = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert levels.keys() == {"grpo", "top"} and texts(axes) == ["top", "grpo"]  # from the lowest
    assert levels["grpo"].get_ydata() == pytest.approx([0.51, 0.51])
    assert levels["top"].get_ydata() == pytest.approx([0.42, 0.42])
    assert levels["grpo"].get_color() == "black" and levels["grpo"].is_dashed()


def test_an_unfinished_arm_leaves_its_place_empty_and_the_title_tells_the_seeds():
    scores = {arm: SCORES[arm] for arm in ("grpo", "three_fifths")} | {"fifth": [0.55]}
    figure = swept_figures.accuracy_by_setting(final_of(scores, list(KEPT)), settings_of(KEPT))
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "_curve"]
    assert line.get_ydata() == pytest.approx([0.55, 0.61]) and ticks(figure.axes[0].xaxis) == ["1/5", "1/3", "3/5"]
    assert "so far 1 to 2 finished seeds an arm, no interval with one" in figure.axes[0].get_title(loc="left")


def test_sentences_stand_in_for_accuracy_over_settings():
    both = (swept_figures.accuracy_by_setting, heat_maps.accuracy_by_two_settings)
    for draw in both:
        assert "no run has finished" in draw(final_of({}, ["a"]), settings_of(KEPT))
    assert "No setting takes three or more values" in both[0](final_of({"a": [0.5]}), settings_of({"a": {}}))
    assert "No two settings" in both[1](final_of(SCORES), settings_of(KEPT))
    early = final_of({"grpo": [0.5], "third": [0.6]}, list(KEPT))
    assert both[0](early, settings_of(KEPT)) == (
        "No curve over share kept yet: fewer than two of its arms have a finished run."
    )


@pytest.mark.parametrize(
    ("values", "expected", "note"),
    [
        ([0, 1, 2, 4, 8], [0, 1, 2, 4, 8], ""),
        ([1, 2, 4, 64], [0, 1, 2, 6], "log scale"),
        ([0, 1, 100], [0, 1, 2], "not to scale"),  # 0 has no logarithm, 1 would lie on it
    ],
)
def test_values_too_close_to_tell_apart_are_spread_and_the_axis_says_so(values, expected, note):
    assert swept_figures.spaced(values) == (pytest.approx(expected), note)


# ---- accuracy over two settings

GRID = {
    "grpo": {"rollout.n_view": 0},
    "a": {"rollout.n_view": 6, "view.step_size": 2.0, "view.iterations": 1},
    "b": {"rollout.n_view": 6, "view.step_size": 2.0, "view.iterations": 4},
    "c": {"rollout.n_view": 6, "view.step_size": 4.0, "view.iterations": 1},
    "d": {"rollout.n_view": 6, "view.step_size": 4.0, "view.iterations": 4},
    "e": {"rollout.n_view": 6, "view.step_size": 8.0, "view.iterations": 1},
}


def test_a_heat_map_has_means_and_seeds_in_its_cells_and_hatches_what_is_missing():
    final = final_of({"grpo": [0.5], "a": [0.60, 0.62], "b": [0.65], "c": [0.64], "e": [0.70]}, list(GRID))
    axes, bar = heat_maps.accuracy_by_two_settings(final, settings_of(GRID)).axes
    assert ticks(axes.xaxis) == ["2", "4", "8"] and ticks(axes.yaxis) == ["1", "4"]
    assert axes.get_xlabel() == "attack step (grey levels)" and axes.get_ylabel() == "attack iterations"
    cells = {(round(text.get_position()[0]), round(text.get_position()[1])): text for text in axes.texts[::2]}
    assert {"61.0", "60–62, 2 seeds", "65.0", "1 seed", "planned"} < set(texts(axes))
    assert cells[0, 0].get_text() == "61.0"
    hatched = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    assert sorted(hatched) == [(0.5, 0.5), (1.5, 0.5)]  # d is planned, and no arm is at 8 and 4
    assert texts(axes).count("planned") == 1
    assert bar.get_ylabel() == "test accuracy, mean@8"


def test_cells_are_lighter_the_more_accurate_they_are():
    scores = {"grpo": [0.5], "a": [0.60], "b": [0.61], "c": [0.62], "d": [0.63], "e": [0.64]}
    axes, _ = heat_maps.accuracy_by_two_settings(final_of(scores), settings_of(GRID)).axes
    light = {
        patch.get_xy(): np.dot(patch.get_facecolor()[:3], [0.299, 0.587, 0.114])
        for patch in axes.patches
        if not patch.get_hatch()
    }
    ordered = [light[place] for place in ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5), (1.5, -0.5))]
    assert ordered == sorted(ordered) and len(set(ordered)) == 5


# ---- over steps, tokens and time


def steps_of(values, **columns):
    """A `steps` frame: arm -> per seed, the values of `column` over steps."""
    rows = [
        {"arm": arm, "seed": seed, "step": step, **columns, **row}
        for arm, seeds in values.items()
        for seed, own in enumerate(seeds)
        for step, row in enumerate(own)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(arm=pd.Categorical(frame["arm"], categories=list(values), ordered=True))


def parts(accuracy, low=0.0, penalty=0.0):
    return {
        "reward_accuracy": accuracy, "reward_format": 1.0, "overlong_penalty": penalty,
        "clip_low_share": low, "clip_high_share": float("nan"),
    }  # fmt: skip


def test_the_parts_of_the_reward_have_a_panel_each_and_the_penalty_only_where_there_is_one():
    steps = steps_of({"GRPO": [[parts(0.2), parts(0.4)], [parts(0.4), parts(0.6)]]})
    figure = training.reward_parts_over_steps(steps)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["accuracy", "format"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.3, 0.5])
    assert figure.get_suptitle() == "band: lowest to highest of 2 seeds"
    punished = training.reward_parts_over_steps(steps_of({"GRPO": [[parts(0.2, penalty=0.1)]]}))
    assert punished.axes[2].get_title(loc="left") == "overlong penalty"


def test_clipped_tokens_have_a_panel_for_each_end_that_was_recorded():
    figure = training.clipping_over_steps(steps_of({"GRPO": [[parts(0.2, low=0.01), parts(0.2, low=0.03)]]}))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["at the low end"]  # the other is NaN throughout
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.01, 0.03])
    assert figure.axes[0].get_ylim()[0] == 0


def test_in_a_crowd_the_highest_arm_is_named():
    arms = {f"arm{number}": [[parts(0.2, low=0.2 if number == 7 else 0.0)]] for number in range(12)}
    figure = training.clipping_over_steps(steps_of(arms))
    assert figure.axes[0].get_title(loc="left") == "at the low end (highest: arm7)"


def test_of_many_arms_the_planned_pair_and_the_first_of_the_plan_have_panels():
    arms = {f"arm{number:02d}": [[{"entropy": 0.2}]] for number in range(14)}
    frame = steps_of(arms).assign(in_contrast=False)
    frame.loc[frame["arm"] == "arm13", "in_contrast"] = True
    figure = curves.panels(frame, [("all", "entropy", lambda rows: rows)], "entropy", "")
    assert isinstance(figure, Figure)
    shown = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert shown == [f"arm{number:02d}" for number in (*range(11), 13)]
    assert figure.get_suptitle() == "12 of 14 arms"


def test_no_step_no_panels():
    empty = steps_of({"GRPO": [[parts(0.2)]]}).iloc[:0]
    for draw in (training.reward_parts_over_steps, training.clipping_over_steps):
        assert "no run has recorded a step" in draw(empty)


def test_the_note_on_seeds_tells_that_arms_have_other_numbers_of_them():
    frame = steps_of({"GRPO": [[{}], [{}]], "SaEI": [[{}]]})
    assert curves.seed_note(frame) == "band: lowest to highest of 1 to 2 seeds"
    assert curves.seed_note(frame[frame["seed"] == 0]) == "one seed"


def test_accuracy_against_entropy_goes_from_a_ring_to_the_last_evaluation():
    rows = [("GRPO", 0, 0, 0.3, 0.5), ("GRPO", 1, 0, 0.5, 0.5), ("GRPO", 0, 9, 0.1, 0.7), ("GRPO", 1, 9, 0.3, 0.6)]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "step", "entropy", "accuracy"]).assign(samples=8)
    frame["arm"] = pd.Categorical(frame["arm"], ordered=True)
    (axes,) = trajectories.accuracy_against_entropy(frame).axes
    path, ends, ring = axes.lines
    assert path.get_xdata() == pytest.approx([0.4, 0.2]) and path.get_ydata() == pytest.approx([0.5, 0.65])
    assert sorted(ends.get_xdata()) == [0.1, 0.3] and path.get_markevery() == [-1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == pytest.approx((0.4, 0.5))
    assert "no run has been evaluated" in trajectories.accuracy_against_entropy(frame.assign(entropy=float("nan")))


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dropping")
    spent = {"tokens_generated": 6000, "tokens_forward": 0, "seconds": 7.0}
    write_sweep(
        folder, arms={"GRPO": 0.1, "dapo": 0.2, "sent": 0.1}, seeds=2, filters=("dapo",), orders={"sent": spent}
    )
    return load.load_sweep(folder)


def test_validation_entropy_stands_beside_its_accuracy(dropping):
    frame = trajectories.evaluations(dropping)
    assert len(frame) == 3 * 2 * 5 and frame["accuracy"].between(0, 1).all()
    # the made-up entropy is 0.2 - 0.1 x level, the level START = 0.4 at step 0 and 0.4 + 0.2 at the end of dapo
    assert frame.query("arm == 'dapo' and step == 20")["entropy"].tolist() == pytest.approx([0.14, 0.14])


def test_time_is_that_of_the_steps_before_without_measuring_and_with_the_curriculum(dropping):
    frame = costs.accuracy_by_tokens(dropping).query("seed == 0").set_index(["arm", "step"])["seconds"]
    assert [frame["GRPO", step] for step in (0, 5, 20)] == [0, 5, 20]  # a step takes 1 s, fresh completions left out
    assert [frame["sent", step] for step in (0, 5, 20)] == [7, 12, 27]
    (axes,) = comparisons.accuracy_over_time(costs.accuracy_by_tokens(dropping)).axes
    assert axes.get_xlabel() == "minutes of training"
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(20 / 60)


def test_days_of_training_are_told_in_hours(dropping):
    slow = costs.accuracy_by_tokens(dropping).eval("seconds = 3600 * seconds")
    (axes,) = comparisons.accuracy_over_time(slow).axes
    assert axes.get_xlabel() == "hours of training" and axes.lines[0].get_xdata()[-1] == pytest.approx(20)


def test_entropy_over_tokens_is_of_all_that_was_sampled_and_starts_after_the_curriculum(dropping):
    frame = costs.entropy_by_tokens(dropping).query("seed == 1").set_index(["arm", "step"])
    assert [frame.loc[(arm, 3), "tokens"] for arm in ("GRPO", "dapo", "sent")] == [9000, 18_000, 15_000]
    assert frame.loc[("sent", 0), "tokens"] == 6000
    steps = dropping.table("steps").query("seed == 1").set_index(["arm", "step"])
    assert frame.loc[("dapo", 3), "entropy"] == steps.loc[("dapo", 3), "entropy_sampled_image"]
    assert frame.loc[("GRPO", 3), "entropy"] == steps.loc[("GRPO", 3), "entropy"]
    (axes,) = comparisons.entropy_over_tokens(costs.entropy_by_tokens(dropping)).axes
    assert [line.get_label() for line in axes.lines] == ["GRPO", "dapo (drops groups)", "sent"]


def test_no_run_no_cost_figures(tmp_path):
    data = load.load_sweep(tmp_path)
    assert "no run" in comparisons.accuracy_over_time(costs.accuracy_by_tokens(data))
    assert "no run" in comparisons.entropy_over_tokens(costs.entropy_by_tokens(data))
    assert "no run" in trajectories.accuracy_against_entropy(trajectories.evaluations(data))


def test_bands_of_entropy_are_on_a_log_scale_without_formulas(dropping):
    figure = plots.entropy_by_band(dropping.table("steps"))
    figure.canvas.draw()
    assert figure.axes[0].get_yscale() == "log"
    assert {"0.001", "0.01", "0.1"} < set(ticks(figure.axes[0].yaxis))
    nothing = dropping.table("steps").assign(entropy_low=0.0, entropy_middle=0.0, entropy_high=0.0)
    assert plots.entropy_by_band(nothing).axes[0].get_yscale() == "linear"


# ---- names and files


def test_a_dollar_in_a_name_is_text_in_every_file(tmp_path):
    arms = {"GR$PO": [[parts(0.2)]], "$\\frac{1}{": [[parts(0.3)]]}
    figure = training.reward_parts_over_steps(steps_of(arms))
    assert isinstance(figure, Figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(arms)
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())
    png, svg, pdf = style.save(figure, tmp_path / "reward.parts")
    assert png.name == "reward.parts.png" and png.read_bytes().startswith(b"\x89PNG")
    assert b"/FontFile2" in pdf.read_bytes() and b"/Type3" not in pdf.read_bytes()  # TrueType inside, no bitmaps
    assert "<text" not in svg.read_text() and "<path" in svg.read_text()


def test_a_long_name_keeps_its_ends_on_one_line():
    assert lines.short("a\nb") == "a b" and lines.short("x" * 36) == "x" * 36
    cut = lines.short("begin" + "x" * 40 + "end")
    assert len(cut) == 36 and cut.startswith("begin") and cut.endswith("end") and "…" in cut
