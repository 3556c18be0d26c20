"""Gain, place, flips and probe: numbers worked out by hand on tiny made-up strips, tables and sweeps."""

# pandas and matplotlib carry no types that a checker can follow here
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis import attack_figures, attack_gains, flips, load, placement, placement_figures, probe
from analysis.strip_files import GAP
from saei import schema
from tests.fake_results import fake_id, write_part, write_sweep

FACTS = {"in_contrast": False, "drops_groups": False}


def grey(levels):
    """height x width levels -> an image of three equal channels."""
    return np.repeat(np.asarray(levels, dtype=np.uint8)[:, :, None], 3, axis=2)


def facts_of(clean, moved):
    return placement.placement(grey(clean), grey(moved)).facts


# ---- where on the image


def test_one_moved_pixel_of_four_is_a_quarter_touched():
    facts = facts_of([[100, 100], [100, 100]], [[100, 100], [100, 96]])
    # mean |change| 4 / 4; no neighbour of the moved pixel moved
    assert (facts["touched"], facts["size"]) == (0.25, 1.0) and math.isnan(facts["alike"])


def test_one_channel_is_enough_to_touch_a_pixel():
    clean = grey([[100, 100], [100, 100]])
    moved = clean.copy()
    moved[0, 0, 1] = 103
    facts = placement.placement(clean, moved).facts
    # 3 levels in one of twelve channels
    assert (facts["touched"], facts["size"]) == (0.25, 0.25)


def test_neighbours_that_move_alike_are_counted_across_and_down():
    # signs + + over - +: across one alike of two, down one alike of two
    facts = facts_of([[100, 100], [100, 100]], [[102, 102], [98, 102]])
    assert facts["alike"] == 0.5


def test_independent_signs_agree_half_of_the_time():
    rng = np.random.default_rng(0)
    clean = np.full((64, 64, 3), 100, dtype=np.uint8)
    moved = (clean + rng.choice([-2, 2], clean.shape)).astype(np.uint8)
    # 2 * 63 * 64 * 3 = 24192 pairs: standard error 0.32 points
    assert placement.placement(clean, moved).facts["alike"] == pytest.approx(0.5, abs=0.013)


def square(paper, ink):
    """9 x 9 paper with a 5 x 5 square of ink in the middle."""
    levels = np.full((9, 9), paper)
    levels[2:7, 2:7] = ink
    return levels


@pytest.mark.parametrize(("paper", "ink"), [(230, 20), (20, 230)])
def test_regions_are_strokes_edges_and_background_whichever_is_lighter(paper, ink):
    masks = placement.regions(grey(square(paper, ink)))
    # edges: 7 x 7 less the 3 x 3 that see ink alone; background: 81 - 49
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"strokes": 9, "edges": 40, "background": 32}
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()


def test_the_change_of_a_region_is_signed_and_its_own():
    clean = square(230, 20)
    moved = clean.copy()
    moved[3:6, 3:6] += 4  # the strokes lighter
    moved[0, :] -= 2  # nine of the 32 pixels of the background darker
    facts = facts_of(clean, moved)
    assert facts["change strokes"] == pytest.approx(4) and facts["change edges"] == 0
    assert facts["change background"] == pytest.approx(-18 / 32)
    assert facts["share strokes"] == pytest.approx(9 / 81)


def test_an_empty_image_is_all_background():
    facts = facts_of(np.full((4, 4), 50), np.full((4, 4), 52))
    assert facts["share background"] == 1 and facts["change background"] == 2
    assert math.isnan(facts["change strokes"])


def test_a_region_of_single_pixels_has_no_change_of_its_own():
    # 225 pixels: a speck of 3 x 3 makes 25 of edges, less the one (0.4 %) that sees ink alone
    clean = np.full((15, 15), 230)
    clean[6:9, 6:9] = 20
    facts = facts_of(clean, clean + 2)
    assert facts["share strokes"] == pytest.approx(1 / 225) and math.isnan(facts["change strokes"])
    assert facts["change edges"] == 2


def test_images_of_any_size_come_to_one_grid_by_the_mean_of_each_cell():
    # a 4 x 8 image on 2 x 2 cells: each the mean of 2 x 4 pixels
    values = np.zeros((4, 8))
    values[0, 0], values[2:, 4:] = 8.0, 3.0
    assert placement.on_grid(values, 2).tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert placement.on_grid(np.ones((3, 5))).shape == (placement.GRID, placement.GRID)


def strips_of(folder, arms, count=2, view="egas", size=(9, 9)):
    """Strips whose image becomes two levels lighter everywhere."""
    rows = []
    clean = np.full((*size, 3), 200, dtype=np.uint8)
    clean[3:5, 3:5] = 20
    gap = np.full((size[0], GAP, 3), 255, dtype=np.uint8)
    for arm in arms:
        for step in range(count):
            path = folder / f"{arm}-{step}-{view}-{size[1]}.png"
            Image.fromarray(np.concatenate([clean, gap, clean + 2, gap, clean], axis=1)).save(path)
            rows.append({"arm": arm, "seed": 0, "step": step, "view": view, "problem_id": "p", "path": path})
    frame = pd.DataFrame(rows)
    frame["arm"] = pd.Categorical(frame["arm"], categories=arms, ordered=True)
    return frame


def test_the_map_is_the_mean_over_an_arms_strips_of_different_sizes(tmp_path):
    one, other = strips_of(tmp_path, ["saei"]), strips_of(tmp_path, ["saei"], size=(12, 20))
    measured = placement.placements(pd.concat([one, other], ignore_index=True))
    figure = placement_figures.where_on_the_image(measured)
    assert isinstance(figure, Figure)
    # all pixels are touched, so the first picture is the change: two levels everywhere
    assert np.allclose(np.asarray(figure.axes[0].images[0].get_array()), 2)
    assert "4 strips" in figure.axes[0].get_ylabel()
    table = placement_figures.where_table(measured)
    assert table[["strips", "pixels touched", "neighbours alike"]].iloc[0].tolist() == [4, "100 %", "100 %"]


def test_the_random_control_is_drawn_last_and_never_left_out(tmp_path):
    arms = [f"arm {number}" for number in range(8)]
    control = strips_of(tmp_path, ["control"], view="random_sign")
    both = pd.concat([control.astype({"arm": str}), strips_of(tmp_path, arms).astype({"arm": str})])
    figure = placement_figures.where_on_the_image(placement.placements(both.reset_index(drop=True)))
    assert isinstance(figure, Figure)
    names = [axes.get_ylabel().split("\n")[0] for axes in figure.axes if axes.get_ylabel()]
    assert names == [*arms[:5], "control"]
    assert figure.get_suptitle().endswith("3 more arms are in the table")


def test_of_many_strips_an_even_selection_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "MOST_STRIPS", 3)
    measured = placement.placements(strips_of(tmp_path, ["saei", "other"], count=7))
    # the first of each third of seven: 0, 3, 5
    assert measured.groupby("arm", observed=True)["step"].agg(list).tolist() == [[0, 3, 5]] * 2


def test_damaged_strips_are_left_out_and_counted(tmp_path):
    strips = strips_of(tmp_path, ["saei"])
    strips["path"].iloc[0].write_text("no picture")
    measured = placement.placements(strips)
    assert len(measured) == 1 and measured.attrs[placement.DAMAGED] == 1
    strips["path"].iloc[1].write_text("no picture")
    assert "2 damaged" in str(placement_figures.where_on_the_image(placement.placements(strips)))


# ---- gain


def gained(rows):
    """(arm, seed, family, levels, same, fresh) -> `attack_gains.gains`."""
    columns = ["arm", "seed", "family", "levels", "same", "fresh"]
    frame = pd.DataFrame(rows, columns=columns).assign(images=10, measured=2, text=False, finished=True, **FACTS)
    frame["arm"] = pd.Categorical(frame["arm"], categories=list(dict.fromkeys(frame["arm"])), ordered=True)
    return frame


def points_of(line):
    return np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float).round(6)


def lines_drawn(axes):
    """Labelled lines -> their points."""
    return {
        line.get_label(): points_of(line).tolist()
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def test_arms_that_differ_in_size_alone_are_one_line_through_their_means():
    frame = gained(
        [
            ("step_4", 0, "", 4.0, 0.03, 0.02),
            ("step_4", 1, "", 4.0, 0.05, 0.02),
            ("step_2", 0, "", 2.0, 0.01, 0.00),
            ("step_2", 1, "", 2.0, 0.02, 0.02),
        ]
    )
    figure = attack_figures.gain_by_size(frame)
    assert isinstance(figure, Figure)
    assert lines_drawn(figure.axes[0]) == {"step_4, step_2": [[2.0, 0.015], [4.0, 0.04]]}
    assert lines_drawn(figure.axes[1]) == {"step_4, step_2": [[2.0, 0.01], [4.0, 0.02]]}


def test_an_arm_that_differs_in_more_is_no_point_of_the_line():
    frame = gained([("a", 0, "x", 2.0, 0.1, 0.1), ("b", 0, "x", 4.0, 0.2, 0.2), ("down", 0, "y", 2.0, -0.1, 0.0)])
    figure = attack_figures.gain_by_size(frame)
    assert isinstance(figure, Figure)
    assert lines_drawn(figure.axes[0]) == {"a, b": [[2.0, 0.1], [4.0, 0.2]], "down": [[2.0, -0.1]]}


def test_arms_of_one_size_that_would_hide_each_other_are_told_or_are_the_axis():
    line = [("a", 0, "x", 2.0, 0.1, 0.1), ("b", 0, "x", 4.0, 0.2, 0.2)]
    figure = attack_figures.gain_by_size(gained([*line, ("c", 0, "y", 2.0, 0.1, 0.0), ("d", 0, "z", 2.05, 0.1, 0.0)]))
    assert isinstance(figure, Figure)
    assert list(lines_drawn(figure.axes[0])) == ["a, b"]
    assert figure.axes[0].get_xlim()[1] >= 4
    assert "2 arms that differ in more than the size are in the table" in figure.get_suptitle()
    many = gained([*line, *((name, 0, name, 2.0, 0.1, 0.0) for name in "cde")])
    figure = attack_figures.gain_by_size(many)
    assert isinstance(figure, Figure) and len(figure.axes[0].get_yticklabels()) == 5


def test_an_attack_of_no_size_makes_no_line():
    frame = gained([("saei", 0, "x", 2.0, 0.1, 0.1), ("step_zero", 0, "x", 0.0, 0.0, 0.0)])
    figure = attack_figures.gain_by_size(frame)
    assert isinstance(figure, Figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["saei (2 levels)", "step_zero (0 levels)"]


def test_sizes_that_vary_between_seeds_make_no_line_of_one_arm():
    frame = gained([("noise", 0, "", 150.0, 0.1, 0.1), ("noise", 1, "", 154.0, 0.1, 0.1)])
    figure = attack_figures.gain_by_size(frame)
    assert isinstance(figure, Figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["noise (152 levels)"]


def test_equal_sizes_have_the_arms_for_an_axis_and_what_was_not_measured_says_so():
    frame = gained([("a", 0, "x", 2.0, math.nan, 0.1), ("b", 0, "y", 2.0, 0.2, 0.2)])
    figure = attack_figures.gain_by_size(frame)
    assert isinstance(figure, Figure)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a (2 levels)", "b (2 levels)"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["not measured"]
    assert not figure.axes[1].texts


def test_arms_that_move_text_have_no_place_on_the_axis_of_levels():
    frame = gained([("a", 0, "", 2.0, 0.1, 0.1), ("b", 0, "", 4.0, 0.2, 0.2), ("words", 0, "", 0.0, 0.3, 0.3)])
    frame.loc[2, "text"] = True
    figure = attack_figures.gain_by_size(frame)
    assert isinstance(figure, Figure)
    assert list(lines_drawn(figure.axes[0])) == ["a, b"]
    assert "arms that move text are in the table" in figure.get_suptitle()


def test_gains_that_are_rounding_are_drawn_as_zero_on_a_scale_of_thousandths():
    frame = gained([("a", 0, "x", 2.0, 1e-17, 1e-17), ("b", 0, "x", 4.0, -1e-17, 0.0)])
    for figure in (attack_figures.gain_by_size(frame), attack_figures.gain_by_arm(frame)):
        assert isinstance(figure, Figure)
        limits = [
            axes.get_ylim() if axes.get_xlabel().startswith("realised") else axes.get_xlim() for axes in figure.axes
        ]
        assert all(0.001 <= high <= 0.002 and -0.002 <= low <= -0.001 for low, high in limits)


def test_without_an_attack_there_is_a_sentence():
    assert "No gain to show" in str(attack_figures.gain_by_size(gained([])))


def attacked_run(folder, arm, seed, rows, settings):
    """A finished run with the given `attacks` rows and view settings."""
    run = folder / fake_id(arm, seed)
    tree = json.loads((run / schema.CONFIG_FILE).read_text())
    tree["config"]["view"] = settings
    (run / schema.CONFIG_FILE).write_text(json.dumps(tree))
    for path in (run / "attacks").glob("*"):
        path.unlink()
    write_part(run, "attacks", (0, 20), rows)


@pytest.fixture
def two_sizes(tmp_path):
    """A sweep of a baseline and two arms that differ in view.step_size, a seed each, two attacked images a run."""
    folder = write_sweep(tmp_path, "sizes", arms={"GRPO": 0.1, "small": 0.11, "large": 0.12}, seeds=1, steps=4)
    nan = math.nan
    for arm, levels in (("small", 2), ("large", 8)):
        common = {"problem_id": "p", "view": "egas", "touched_share": 1.0, "moved": True, "l2": 1.0, "text_l2": nan}
        common |= {"tokens_kept": 1, "tokens_total": 4}
        rows = [
            # gains 0.01 and 0.03 times levels; fresh is measured at the first step alone: 0.005 times levels
            {**common, "step": 0, "linf": levels / 255, "entropy_before": 0.1, "entropy_after": 0.1 + 0.01 * levels,
             "fresh_entropy_clean": 0.2, "fresh_entropy_moved": 0.2 + 0.005 * levels},
            {**common, "step": 1, "linf": levels / 255, "entropy_before": 0.1, "entropy_after": 0.1 + 0.03 * levels,
             "fresh_entropy_clean": nan, "fresh_entropy_moved": nan},
        ]  # fmt: skip
        attacked_run(folder, arm, 0, rows, {"name": "egas", "step_size": float(levels)})
    return load.load_sweep(tmp_path, "sizes")


def test_gains_are_means_over_a_runs_images_and_fresh_ones_over_those_measured(two_sizes):
    found = attack_gains.gains(two_sizes).set_index("arm")
    assert found["same"].round(9).to_dict() == {"small": 0.04, "large": 0.16}
    assert found["fresh"].round(9).to_dict() == {"small": 0.01, "large": 0.04}
    assert found["levels"].round(9).to_dict() == {"small": 2.0, "large": 8.0}
    assert found["measured"].tolist() == [1, 1] and found["images"].tolist() == [2, 2]
    # the step size is no part of the family
    assert found["family"].nunique() == 1


def test_what_was_spent_stands_beside_the_gain(two_sizes):
    table = attack_gains.spent(two_sizes).set_index("arm")
    row = table.loc["large"]
    assert (row["images"], row["L∞ (grey levels)"], row["tokens kept"]) == ("2", "8", "25.0 %")
    # one seed: no interval
    assert row["gain, fresh completions (nats)"] == "+0.0400"


# ---- flips


def items_of(rows):
    """(seed, problem, arm accuracy, against accuracy, arm greedy, against greedy) -> `items.paired_items`."""
    columns = ["seed", "problem_id", "arm_accuracy", "against_accuracy", "arm_greedy", "against_greedy"]
    return pd.DataFrame(rows, columns=columns).assign(kind="sum", figure="f")


FLIPS = items_of(
    [
        (0, "a", 1.0, 0.0, 1.0, 0.0),
        (0, "b", 0.5, 0.5, 1.0, 1.0),
        (0, "c", 0.0, 0.25, 0.0, 1.0),
        (0, "d", 0.0, 0.0, 0.0, 0.0),
        (1, "a", 0.5, 0.0, 1.0, 0.0),
        (1, "b", 0.5, 0.5, 1.0, 0.0),
        (1, "c", 0.0, 0.25, math.nan, math.nan),
        (1, "d", 0.0, 0.0, 0.0, 0.0),
    ]
)


def test_greedy_answers_are_kept_gained_lost_or_never_right():
    counted = flips.outcomes(FLIPS)
    # problem c of seed 1 was not asked
    assert counted.loc[0].to_dict() == {"kept": 1, "gained": 1, "lost": 1, "never": 1}
    assert counted.loc[1].to_dict() == {"kept": 0, "gained": 2, "lost": 0, "never": 1}


def test_bars_come_by_net_gain_and_say_that_they_are_no_verdict():
    figure = flips.flips_by_seed(FLIPS, "saei", "grpo")
    assert isinstance(figure, Figure)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["seed 1 (+2)", "seed 0 (+0)"]
    assert "no verdict on a method" in axes.get_title(loc="left").replace("\n", " ")
    # seed 1's bar begins with kept, none; then gained, from 0 to 2
    gained_bars = axes.containers[1]
    assert [bar.get_width() for bar in gained_bars.patches] == [2, 1]


def test_cells_count_problems_by_their_mean_over_seeds():
    figure = flips.accuracy_by_item(FLIPS, "saei", "grpo")
    assert isinstance(figure, Figure)
    square = next(axes for axes in figure.axes if axes.get_xlabel().startswith("grpo"))
    # x: grpo, y: saei. a: (0, 0.75); b: (0.5, 0.5); c: (0.25, 0); d: (0, 0)
    counts = {
        (round(text.get_position()[0], 3), round(text.get_position()[1], 3)): text.get_text() for text in square.texts
    }
    assert counts == {(0, 0.75): "1", (0.5, 0.5): "1", (0.25, 0): "1", (0, 0): "1"}
    assert "1 better under saei, 1 worse" in figure.get_suptitle().replace("\n", " ")


def test_the_most_flipped_problems_come_with_their_seeds():
    table = flips.most_flipped(FLIPS)
    # a: 75 % against 0 %; c: 0 % against 25 %; b and d do not differ
    assert table["question"].tolist() == ["a", "c"]
    assert table["difference (points)"].tolist() == ["+75", "−25"]
    assert table["seeds in which the arm is better"].tolist() == ["2 of 2", "0 of 2"]


def test_flips_without_finished_pairs_are_sentences(tmp_path):
    write_sweep(tmp_path, "part", seeds=1, steps=4, unfinished={("SaEI", 0): schema.RUNNING})
    data = load.load_sweep(tmp_path, "part")
    items = flips.planned_items(data)
    assert flips.pair_of(data) == ("SaEI", "GRPO") and items.empty
    assert "no seed has finished both arms" in str(flips.accuracy_by_item(items, "SaEI", "GRPO"))
    assert "no seed has finished both arms" in str(flips.flips_by_seed(items, "SaEI", "GRPO"))
    assert flips.most_flipped(items).iloc[0, 0] == "no seed has finished both arms"


def test_a_sweep_of_one_arm_has_no_pair(tmp_path):
    write_sweep(tmp_path, "one", arms={"GRPO": 0.1}, seeds=1, steps=2)
    data = load.load_sweep(tmp_path, "one")
    assert flips.pair_of(data) is None and flips.planned_items(data).empty


# ---- probe


def probe_folder(results, rows, settings='{"model": "tiny", "problems": 12}'):
    folder = results / "probe"
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=["step_size", "condition", "metric", "mean", "half", "pairs"]).to_parquet(
        folder / probe.DIFFERENCES
    )
    (folder / probe.SETTINGS).write_text(settings)
    return folder


EFFECTS = [
    (2.0, "egas", "accuracy", 0.02, 0.01, 12),
    (2.0, "random_sign", "accuracy", 0.01, 0.03, 12),
    (2.0, "egas", "entropy_fresh", 0.004, math.nan, 1),
    (2.0, "egas", "unheard of", 1.0, 0.1, 12),
]


def test_a_probe_is_found_and_drawn_in_the_units_of_its_panels(tmp_path):
    probe_folder(tmp_path, EFFECTS)
    assert probe.probes_in([tmp_path]) == [tmp_path / "probe"]
    figure = probe.effects(probe.probes_in([tmp_path]))
    assert isinstance(figure, Figure)
    entropy, accuracy = figure.axes
    assert [label.get_text() for label in entropy.get_yticklabels()] == ["egas", "random_sign"]
    # accuracy in points: 2 from 1 to 3, and 1 from -2 to 4; an interval that leaves out 0 is blue
    reach = {tuple(points_of(line)[:, 0]): line.get_color() for line in accuracy.get_lines()}
    assert reach[(1.0, 3.0)] == probe.SURE and reach[(-2.0, 4.0)] == probe.UNSURE
    assert figure.get_suptitle().startswith("tiny, 12 problems: condition minus clean_again")
    # without an interval: a hollow mark
    assert [line.get_markerfacecolor() for line in entropy.get_lines() if line.get_marker() == "o"] == ["white"]


def test_a_condition_without_a_size_is_one_row_though_the_probe_repeats_it(tmp_path):
    rows = [(size, "noise_500", "accuracy", -0.05, 0.01, 12) for size in (2.0, 8.0)]
    rows += [(size, "egas", "accuracy", size / 100, 0.01, 12) for size in (2.0, 8.0)]
    figure = probe.effects([probe_folder(tmp_path, rows)])
    assert isinstance(figure, Figure)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["noise_500", "egas 2/255", "egas 8/255"]


def test_the_newest_probe_comes_first(tmp_path):
    old, new = probe_folder(tmp_path, EFFECTS), probe_folder(tmp_path / "manual", EFFECTS)
    os.utime(old / probe.DIFFERENCES, (1, 1))
    assert probe.probes_in([tmp_path]) == [new, old]


@pytest.mark.parametrize("settings", ["no json", "[]", "[" * 100_000, '{"model": "$\\\\frac{\\u202e"}'])
def test_hostile_settings_change_words_at_most(tmp_path, settings):
    figure = probe.effects([probe_folder(tmp_path, EFFECTS, settings)])
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "a.png")
    assert "\u202e" not in figure.get_suptitle()


def test_a_table_that_is_no_probe_is_a_sentence(tmp_path):
    folder = tmp_path / "probe"
    folder.mkdir()
    (folder / probe.DIFFERENCES).write_text("no parquet")
    assert "cannot be read" in str(probe.effects([folder]))
    pd.DataFrame({"mean": [1.0]}).to_parquet(folder / probe.DIFFERENCES)
    assert "lacks step_size, condition, metric, half" in str(probe.effects([folder]))
    text = [("2", "egas", "accuracy", "much", "more", 1)]
    assert "holds no numbers" in str(probe.effects([probe_folder(tmp_path, text)]))
    endless = [(2.0, "egas", "accuracy", math.inf, 1.0, 1)]
    assert "no difference that is drawn" in str(probe.effects([probe_folder(tmp_path, endless)]))


def test_without_a_probe_the_command_is_named():
    assert "python -m saei.probe" in str(probe.effects([]))
