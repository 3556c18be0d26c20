"""Results on disk -> frames -> statistics -> figures -> report, on made-up sweeps (fake_results.py)."""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from scipy import stats as scipy_stats
from statsmodels.stats.power import TTestPower

from analysis import (
    arms,
    attacked,
    comparisons,
    contrasts,
    costs,
    figure_files,
    fragments,
    health,
    lines,
    load,
    page,
    plots,
    reference,
    repeat,
    report,
    stats,
    strips,
    tables,
    verdicts,
)
from saei import schema
from saei.config import Config
from sweeps.definition import Sweep, parse_setting
from sweeps.plan import write_plan
from sweeps.trial import Trial
from tests.fake_results import SAMPLED_MORE, fake_id, write_run, write_sweep

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "<script>document.title='x'</script><img src=http://example.org/a.png>"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_sweep(folder, "full", text=HOSTILE)
    return folder


def all_plots(data):
    items, steps = data.table("eval"), data.table("steps")
    return [
        plots.accuracy_by_arm(stats.final_scores(items, data.test_split)),
        plots.accuracy_over_steps(stats.scores(items, data.validation_split)),
        plots.entropy_over_steps(steps),
        plots.entropy_by_view(data.table("views")),
        plots.entropy_by_band(steps),
        plots.attack_gain_over_steps(steps),
        plots.reward_over_steps(steps),
        plots.length_over_steps(steps),
        strips.strip_gallery(data.strips()),
        comparisons.accuracy_over_tokens(costs.accuracy_by_tokens(data)),
        comparisons.accuracy_under_attack(attacked.robustness(data)),
    ]


# ---- load


def test_analysis_never_loads_torch():
    code = "import sys, analysis.report, analysis.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_full_sweep_has_every_row_of_every_trial(results):
    data = load.load_sweep(results, "full")
    assert data.arms == ["GRPO", "SaEI", "random third"]
    assert list(data.trials["state"]) == ["finished"] * 9
    assert len(data.table("steps")) == 9 * 20
    assert len(data.table("views")) == 3 * 20 + 6 * 20 * 2  # GRPO has one view, the others two
    # per run: validation at steps 0 5 10 15 20, test and larger_grid at the end; 12 problems x (8 sampled + 1 greedy)
    assert len(data.table("eval")) == 9 * 7 * 12 * 9
    assert "text" not in data.table("eval") and "text" in data.table("eval", ["step", "text"])


def test_no_results_at_all_is_an_empty_sweep_with_sentences_for_plots(tmp_path):
    data = load.load_sweep(tmp_path)
    assert all(isinstance(drawn, plots.Sentence) for drawn in all_plots(data))
    own = (tables.verdicts, tables.side_figures, tables.examples, tables.last_steps, tables.progress)
    new = (tables.summary_table, tables.cost_table, tables.equal_tokens_table, tables.alarm_table)
    for table in (*own, *new, tables.robustness_table):
        table(data)


def test_a_partial_sweep_says_what_each_trial_is_doing(tmp_path):
    write_sweep(
        tmp_path,
        leave_out=[("SaEI", 2)],
        unfinished={("SaEI", 1): schema.RUNNING, ("GRPO", 2): schema.FAILED, ("random third", 0): schema.FINISHED},
    )
    data = load.load_sweep(tmp_path)
    state = {(row.arm, row.seed): row.state for row in data.trials.itertuples()}
    assert state["SaEI", 2] == "missing" and state["SaEI", 1] == "running" and state["GRPO", 2] == "failed"
    assert state["random third", 0] == "finished"
    assert data.state("failed").iloc[0]["message"] == "RuntimeError: loss is not finite"
    # the running trial has half its steps, and no part in the comparison
    assert len(data.table("steps").query("arm == 'SaEI' and seed == 1")) == 10
    assert set(stats.final_scores(data.table("eval"), "test").query("arm == 'SaEI'")["seed"]) == {0}


def test_a_running_trial_that_went_silent_was_interrupted(tmp_path):
    folder = write_sweep(tmp_path, unfinished={("GRPO", 0): schema.RUNNING})
    beat = json.loads((folder / fake_id("GRPO", 0) / schema.STATUS_FILE).read_text())["heartbeat"]
    assert load.load_sweep(tmp_path, now=beat + 500).trials.iloc[0]["state"] == "running"
    assert load.load_sweep(tmp_path, now=beat + 700).trials.iloc[0]["state"] == "interrupted"


def test_a_run_is_not_finished_without_done_whatever_its_status_says(tmp_path):
    folder = write_sweep(tmp_path)
    (folder / fake_id("GRPO", 0) / schema.DONE_FILE).unlink()
    assert load.load_sweep(tmp_path).trials.iloc[0]["state"] == "interrupted"


def test_same_as_is_followed_to_the_other_sweep(tmp_path):
    write_sweep(tmp_path, "first")
    folder = write_sweep(tmp_path, "second", leave_out=[("GRPO", 0)])
    pointer = folder / fake_id("GRPO", 0)
    pointer.mkdir()
    (pointer / schema.SAME_AS_FILE).write_text(f"../../first/{fake_id('GRPO', 0)}\n")
    data = load.load_sweep(tmp_path, "second")
    assert data.trials.iloc[0]["state"] == "finished"
    assert data.trials.iloc[0]["same_as"] == f"first/{fake_id('GRPO', 0)}"
    assert len(data.table("steps").query("arm == 'GRPO' and seed == 0")) == 20
    (pointer / schema.SAME_AS_FILE).write_text("../../gone/away")
    assert load.load_sweep(tmp_path, "second").trials.iloc[0]["state"] == "missing"


def test_rows_with_equal_keys_are_refused(tmp_path):
    folder = write_sweep(tmp_path)
    parts = sorted((folder / fake_id("GRPO", 1) / "steps").iterdir())
    pq.write_table(pq.read_table(parts[0]), parts[0].with_name("part-000003-000099.parquet"))
    with pytest.raises(ValueError, match="equal keys"):
        load.load_sweep(tmp_path).table("steps")


def test_a_part_that_vanishes_while_being_read_is_looked_for_again(tmp_path, monkeypatch):
    folder = write_sweep(tmp_path) / fake_id("GRPO", 1)
    original, failures = Path.read_bytes, [FileNotFoundError("replaced"), FileNotFoundError("replaced")]

    def flaky(path):
        if failures:
            raise failures.pop()
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", flaky)
    table = load.read_run_table(folder, "steps", ["step"])
    assert table is not None and len(table) == 20 and not failures


def test_another_schema_version_is_refused_with_a_sentence(tmp_path):
    folder = write_sweep(tmp_path)
    path = folder / fake_id("SaEI", 0) / schema.CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(ValueError, match="schema_version is 99, this code reads 1"):
        load.load_sweep(tmp_path)


def test_an_unknown_sweep_names_those_present(results):
    with pytest.raises(ValueError, match=r"there is no 'other'.*it holds full"):
        load.load_sweep(results, "other")


def test_strips_are_found_by_what_their_names_say(results):
    found = load.load_sweep(results, "full").strips()
    # SaEI and random third, three seeds each, at steps 0 and 10
    assert len(found) == 12 and set(found["step"]) == {0, 10}
    assert (found.iloc[0]["view"], found.iloc[0]["problem_id"]) == ("egas", "train/0")


# ---- stats


def test_the_t_interval_of_one_two_three():
    # mean 2, sd 1, t(0.975, 2) = 4.3027, half width 4.3027 / sqrt 3 = 2.4842
    interval = stats.t_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.count) == (2.0, 3)
    assert interval.low == pytest.approx(2 - 2.4842, abs=1e-4) and interval.high == pytest.approx(4.4842, abs=1e-4)
    alone = stats.t_interval([0.5])
    assert alone.mean == 0.5 and math.isnan(alone.low)


def test_the_paired_difference_is_scipys():
    rng = np.random.default_rng(0)
    arm, baseline = rng.normal(0.5, 0.1, 6), rng.normal(0.45, 0.1, 6)
    oracle = scipy_stats.ttest_rel(arm, baseline)
    ours = stats.paired_difference(arm.tolist(), baseline.tolist())
    assert ours.p == pytest.approx(oracle.pvalue, rel=1e-9)
    interval = oracle.confidence_interval(0.95)
    assert (ours.interval.low, ours.interval.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize(("seeds", "expected"), [(3, 3.3), (5, 1.7), (10, 1.0)])
def test_the_detectable_difference_in_deviations(seeds, expected):
    assert stats.minimum_detectable(1.0, seeds) == pytest.approx(expected, abs=0.05)
    oracle = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8, alternative="two-sided")
    assert stats.minimum_detectable(2.0, seeds) == pytest.approx(2 * oracle, rel=1e-3)


@pytest.mark.parametrize("effect", [0.3, 1.0, 1.7, 5.0])
def test_the_seeds_needed_are_the_fewest_that_reach_the_power(effect):
    needed = int(stats.seeds_needed(effect, 1.0))
    assert stats.power(effect, 1.0, needed) >= 0.8
    assert needed == 3 or stats.power(effect, 1.0, needed - 1) < 0.8
    oracle = TTestPower().power(effect, needed, 0.05, alternative="two-sided")
    assert stats.power(effect, 1.0, needed) == pytest.approx(oracle, abs=1e-6)


def test_no_difference_needs_no_finite_number_of_seeds():
    assert math.isinf(stats.seeds_needed(0.0, 1.0)) and math.isinf(stats.seeds_needed(0.001, 1.0))


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], verdicts.NO_PAIR),
        ([0.9], verdicts.ONE_SEED),
        ([0.9, 0.91], verdicts.TWO_SEEDS),
        ([0.10, 0.11, 0.12], verdicts.BETTER),  # t = 0.11 / (0.01 / sqrt 3) = 19, p = 0.003
        ([-0.10, -0.11, -0.12], verdicts.WORSE),
        ([0.1, -0.1, 0.12], verdicts.SAME),
        ([0.0, 0.0, 0.0], verdicts.SAME),  # the same trial on both sides
    ],
)
def test_the_verdict_in_words(differences, expected):
    difference = stats.paired_difference(differences, [0.0] * len(differences))
    assert verdicts.word(len(differences), difference.interval.mean, difference.p) == expected
    assert math.isnan(difference.p) == (len(differences) < 3)


def test_holm_by_hand():
    # sorted 0.01, 0.03, 0.04 times 3, 2, 1, made monotone: 0.03, 0.06, 0.06; no p value stays none
    adjusted = stats.holm([0.04, 0.01, math.nan, 0.03])
    assert adjusted[:2] == pytest.approx([0.06, 0.03]) and math.isnan(adjusted[2])
    assert adjusted[3] == pytest.approx(0.06)


def test_pass_at_k_by_hand():
    # 2 of 4 right, k = 2: both wrong in 1 of 6 pairs
    assert stats.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert stats.pass_at_k(8, 0, 8) == 0.0 and stats.pass_at_k(8, 1, 8) == 1.0
    with pytest.raises(ValueError, match="k = 9 and 8"):
        stats.pass_at_k(8, 2, 9)


def eval_items(rows):
    """(arm, seed, step, problem, accuracies) -> rows of an eval table of finished runs."""
    frame = pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "trial_id": f"{arm}-s{seed}", "state": "finished", "step": step, "split": "test"}
            | {
                "decoding": "sampled",
                "problem_id": problem,
                "index": i,
                "accuracy": right,
                "tokens": 10,
                "entropy": 0.1,
            }
            for arm, seed, step, problem, accuracies in rows
            for i, right in enumerate(accuracies)
        ]
    )
    frame["arm"] = pd.Categorical(frame["arm"], categories=["base", "new"], ordered=True)
    return frame


def test_the_reported_figure_is_the_last_steps_and_not_the_best():
    items = eval_items([("base", 0, 10, "a", (1, 1)), ("base", 0, 20, "a", (0, 1))])
    final = stats.final_scores(items, "test")
    assert final[["step", "accuracy", "samples"]].values.tolist() == [[20, 0.5, 2]]


def test_arms_are_paired_by_seed_over_the_seeds_both_finished():
    items = eval_items(
        [
            *(("base", seed, 5, "a", (0, 0, 0, 1)) for seed in (0, 1, 2, 3)),  # 0.25 each
            ("new", 2, 5, "a", (1, 1, 0, 0)),  # 0.50: +0.25
            ("new", 0, 5, "a", (1, 1, 1, 0)),  # 0.75: +0.50
            ("new", 7, 5, "a", (1, 1, 1, 1)),  # no partner
        ]
    )
    row = stats.compare_arms(
        stats.final_scores(items, "test"), arms=["base", "new"], baseline="base", primary="new"
    ).iloc[1]
    assert (row["pairs"], row["seeds"]) == (2, 3)
    assert row["difference"] == pytest.approx(0.375)
    assert row["score"] == pytest.approx(0.75)  # of all three own seeds
    assert row["verdict"] == verdicts.TWO_SEEDS


def test_runs_tested_on_different_problems_are_not_paired():
    items = eval_items([("base", 0, 5, "a", (1,)), ("new", 0, 5, "b", (1,))])
    with pytest.raises(ValueError, match="different problems"):
        stats.compare_arms(stats.final_scores(items, "test"), arms=["base", "new"], baseline="base")


def test_loaded_scores_equal_those_that_the_run_sealed(results):
    data = load.load_sweep(results, "full")
    sealed = {tree["trial_id"]: tree["scores"]["test/mean@8"] for tree in data.documents(schema.DONE_FILE)}
    final = stats.final_scores(data.table("eval"), "test").set_index("trial_id")["accuracy"]
    assert final.to_dict() == pytest.approx(sealed)


# ---- plots


def test_every_plot_of_a_full_sweep_is_a_figure_with_labelled_axes(results):
    *drawn, under_attack = all_plots(load.load_sweep(results, "full"))
    assert isinstance(under_attack, plots.Sentence)  # nothing was attacked in this sweep
    assert all(isinstance(figure, Figure) for figure in drawn)
    entropy = drawn[2].axes[0]
    assert entropy.get_ylabel() == "entropy (nats per token)" and entropy.get_xlabel() == "step"
    assert [line.get_label() for line in entropy.lines] == ["GRPO", "SaEI", "random third"]
    assert [len(axes.lines) for axes in drawn[3].axes] == [1, 2, 2]  # views: GRPO is clean only


def test_a_curve_is_the_mean_of_the_seeds_and_its_band_their_range():
    rows = [("GRPO", seed, step, value) for step in (0, 1) for seed, value in ((0, 0.1), (1, 0.3))]
    steps = pd.DataFrame(rows, columns=["arm", "seed", "step", "entropy"])
    steps["arm"] = pd.Categorical(steps["arm"], categories=["GRPO"])
    axes = plots.entropy_over_steps(steps).axes[0]
    assert axes.lines[0].get_ydata() == pytest.approx([0.2, 0.2])
    corners = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((0.1, 0.3))


def test_ten_arms_all_look_different():
    styles = lines.arm_styles([f"arm {i}" for i in range(10)])
    assert len({(style["color"], str(style["linestyle"])) for style in styles.values()}) == 10


def test_names_beside_the_axes_stay_near_their_lines_and_apart():
    # two at 0 give way to both sides; where 0 is the edge, only upwards
    assert lines.spread_apart([0, 0, 10], 2, -5, 20) == pytest.approx([-1, 1, 10])
    assert lines.spread_apart([0, 0, 10], 2, 0, 20) == pytest.approx([0, 2, 10])
    assert lines.spread_apart([9, 10, 10], 2, 0, 10) == pytest.approx([6, 8, 10])
    assert lines.spread_apart([], 2, 0, 10) == []


def test_in_a_crowd_the_planned_pair_has_colours_and_every_line_its_name(tmp_path):
    crowd = {f"arm {i:02d}": 0.1 + 0.01 * i for i in range(27)}
    write_sweep(tmp_path, arms=crowd, seeds=1, steps=4, problems=2, filters=["arm 09"])
    data = load.load_sweep(tmp_path)
    shown = [arm for arm in crowd if arm != "arm 09"]
    axes = plots.entropy_over_steps(data.table("steps")).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == shown
    heights = sorted(text.xyann[1] for text in axes.texts)
    assert min(np.diff(heights)) > 0.9 * (axes.get_ylim()[1] - axes.get_ylim()[0]) / 30
    assert not axes.figure.legends
    coloured = [line.get_label() for line in axes.lines if line.get_color() != lines.OTHERS_COLOUR]
    assert coloured == ["arm 00", "arm 01"]
    on_tokens = comparisons.accuracy_over_tokens(costs.accuracy_by_tokens(data)).axes[0]
    coloured = [line.get_color() for line in on_tokens.lines if line.get_color() != lines.OTHERS_COLOUR]
    assert len(on_tokens.lines) == 27 and len(set(coloured)) == 3  # and the one that drops groups


# ---- report


def test_the_report_is_one_page_that_needs_nothing_and_escapes_what_models_wrote(results):
    path, failed = report.build("full", results)
    text = path.read_text()
    assert path == results / "full" / "report" / "index.html"
    assert failed == {}
    figures = {figure.name for figure in (path.parent / "figures").iterdir()}
    assert figures == {
        f"{name}.{kind}"
        for name in figure_files.FIGURES
        # nothing was attacked in this sweep, and the arms differ in no amount
        if name not in ("accuracy_under_attack", "accuracy_by_setting", "accuracy_by_two_settings")
        for kind in ("png", "svg")
    }
    assert "<script" not in text and "&lt;script&gt;" in text
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", text.replace("&lt;img src=http", ""))
    assert len(addresses) > 8 and all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"@import|url\(", text)
    assert "3 seeds and 20 steps: this budget shows the machinery, not evidence." in text
    assert "9 finished" in text and "0123456789ab" in text and "Does acting on the middle third" in text
    assert 'class="error"' not in text
    assert "None: every planned trial is finished." in text
    for name in ("accuracy", "entropy"):
        executed = json.loads((path.parent / f"{name}.ipynb").read_text())
        assert any(cell.get("outputs") for cell in executed["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("finished", [0, 1])
def test_a_report_of_no_or_one_run_has_sentences_in_place_of_plots(tmp_path, finished):
    arms, seeds = {"GRPO": 0.1, "SaEI": 0.2}, 3
    everything = [(arm, seed) for arm in arms for seed in range(seeds)]
    write_sweep(tmp_path, arms=arms, seeds=seeds, leave_out=everything[finished:])
    text = report.build("fake", tmp_path).page.read_text()
    assert 'class="error"' not in text
    assert "missing" in text and "No attack to show" in text
    assert ("No accuracy to compare yet" in text) == (finished == 0)


def test_an_error_in_a_notebook_shows_as_text():
    class Output(dict):
        __getattr__ = dict.__getitem__

    shown = fragments.result(Output(output_type="error", ename="KeyError", evalue="<b>bold</b>"))
    assert str(shown) == '<pre class="error">KeyError: &lt;b&gt;bold&lt;/b&gt;</pre>'


def test_a_large_budget_carries_no_warning(tmp_path):
    folder = write_sweep(tmp_path, seeds=3, problems=1, steps=4)
    path = folder / schema.PLAN_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps": 150}))
    assert page.budget_sentence(load.load_sweep(tmp_path)) == ""
    (folder / fake_id("SaEI", 0) / schema.DONE_FILE).unlink()
    assert "2 finished seeds in the least finished arm" in page.budget_sentence(load.load_sweep(tmp_path))


def test_the_command_line_refuses_an_unknown_sweep_with_exit_code_2(results):
    command = [sys.executable, "-m", "analysis.report", "nonsense", "--results", str(results)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "there is no 'nonsense'" in result.stderr and "it holds full" in result.stderr


def test_the_report_says_how_to_repeat_the_sweep(results):
    data = load.load_sweep(results, "full")
    assert repeat.command(data) == (
        "python sweeps/run.py full --seeds 3 --only GRPO --only SaEI --only 'random third' --steps 20"
    )
    data.plan["settings"] = {"steps": 60, "eval.every": 20}
    assert repeat.command(data).endswith("'random third' --steps 60 --set eval.every=20")


@pytest.mark.parametrize(
    "text",
    [
        "model.freeze_vision=true",
        "view.epsilon=none",
        "view.epsilon=4/255",
        "optim.lr=1e-05",
        "select.drop_low=1/5",
        "select.drop_high=0",
        "data.shifted_splits=null",
        "data.shifted_splits=larger_grid",
        "data.shifted_splits=larger_grid dot_noise",
        "rollout.plan=[]",
        "rollout.plan=clean:6 egas:6",
        "data.test_split=test",
        'data.train_split="true"',
        "data.prompt_suffix=",
        "data.system_prompt=it's (so to say) a prompt",
    ],
)
def test_the_repeating_command_sets_what_the_launch_set(tmp_path, text):
    name, value = parse_setting(text)
    definition = Sweep(question="?", arms={"grpo": {}, "saei": {}}, baseline="grpo", primary_contrast=("saei", "grpo"))
    trial = Trial(trial_id=fake_id("saei", 0), arm="saei", seed=0, config=Config())
    write_plan("fake", definition, [trial], {name: value}, tmp_path)
    words = shlex.split(repeat.command(load.load_sweep(tmp_path)))
    assert words[-2] == "--set"
    again, repeated = parse_setting(words[-1])
    assert (again, repeated, type(repeated)) == (name, value, type(value))


def test_later_seeds_make_a_verdict_exploratory(tmp_path):
    folder = write_sweep(tmp_path, seeds=2)
    path = folder / schema.PLAN_FILE
    plan = json.loads(path.read_text())
    trial = fake_id("SaEI", 2)
    plan["trials"].append({"trial_id": trial, "arm": "SaEI", "seed": 2, "exploratory": True})
    path.write_text(json.dumps(plan))
    size = {"steps": 4, "problems": 2, "samples": 8, "text": ""}
    write_run(folder / trial, effect=0.1, attacked=True, seed=2, **size)
    shown = tables.verdicts(load.load_sweep(tmp_path)).set_index("arm")["verdict"]
    assert shown["SaEI (primary contrast)"] == "two seeds, no verdict (exploratory: at least 1 look)"


def write_step_sizes(results, arms, **changes):
    """A sweep whose primary contrast is not against its baseline; 5 problems x 2 completions, so one right is 0.1."""
    right = {"grpo": (1, 1, 1), "step_0": (2, 2, 3), "step_2": (3, 4, 6), "step_4": (4, 4, 5)}
    folder = write_sweep(results, arms=dict.fromkeys(arms, 0.1), steps=4, problems=5, samples=2, right=right)
    path = folder / schema.PLAN_FILE
    plan = {"baseline": "grpo", "primary_contrast": ["step_2", "step_0"], **changes}
    path.write_text(json.dumps({**json.loads(path.read_text()), **plan}))
    return load.load_sweep(results)


def test_every_arm_is_against_the_baseline_and_the_primary_one_in_its_planned_pair_too(tmp_path):
    data = write_step_sizes(tmp_path, ["grpo", "step_0", "step_2", "step_4"])
    rows = contrasts.compared(data)
    pairs = [("grpo", ""), ("step_0", "grpo"), ("step_2", "step_0"), ("step_2", "grpo"), ("step_4", "grpo")]
    assert list(zip(rows["arm"], rows["against"], strict=True)) == pairs
    assert list(rows.index[rows["primary"]]) == [2]
    # two degrees of freedom: p = 1 - t / sqrt(t^2 + 2)
    # step_0 - grpo: 0.1 0.1 0.2, mean 2/15, t = 4, p = 0.0572
    # step_2 - step_0: 0.1 0.2 0.3, mean 0.2, sd 0.1, t = 2 sqrt 3, p = 0.0742; half width 4.3027 x 0.2 / t = 0.2484
    # step_2 - grpo: 0.2 0.3 0.5, mean 1/3, variance 0.07 / 3, t = 3.780, p = 0.0634
    # step_4 - grpo: 0.3 0.3 0.4, mean 1/3, t = 10, p = 0.00985
    assert rows["difference"].tolist()[1:] == pytest.approx([2 / 15, 0.2, 1 / 3, 1 / 3])
    assert rows["p"].tolist()[1:] == pytest.approx([0.0572, 0.0742, 0.0634, 0.00985], abs=5e-5)
    # Holm over the three that are not primary: the smallest p three times, the next twice, and never falling
    assert rows["p_judged"].tolist()[1:] == pytest.approx([0.1144, 0.0742, 0.1144, 0.0296], abs=1e-4)
    shown = tables.verdicts(data)
    assert list(shown["against"]) == ["–", "grpo", "step_0", "grpo", "grpo"]
    assert list(shown["arm"])[2:4] == ["step_2 (primary contrast)", "step_2"]
    assert list(shown["verdict"]) == ["baseline", verdicts.SAME, verdicts.SAME, verdicts.SAME, verdicts.BETTER]
    assert page.primary_sentence(data).startswith("step_2 minus step_0: +20.0 points; 95 % interval −4.8 to +44.8; ")
    # one row an arm where the arms are told, not the comparisons
    assert list(tables.summary_table(data)["arm"]) == ["grpo", "step_0", "step_2", "step_4"]


def test_no_column_says_against_what_where_it_is_always_the_baseline(results):
    data = load.load_sweep(results, "full")
    assert "against" not in tables.verdicts(data)
    assert page.primary_sentence(data).startswith("SaEI minus GRPO: ")


def test_a_plan_without_the_baseline_still_has_its_planned_pair(tmp_path):
    data = write_step_sizes(tmp_path, ["step_0", "step_2", "step_4"])
    rows = contrasts.compared(data).set_index("arm")
    assert rows.loc["step_2", "difference"] == pytest.approx(0.2)
    assert list(tables.verdicts(data)["verdict"]) == [verdicts.NO_PAIR, verdicts.SAME, verdicts.NO_PAIR]
    sentence = page.primary_sentence(data)
    assert sentence.startswith("step_2 minus step_0: +20.0 points;")
    assert sentence.endswith("Without the baseline grpo in this plan, no arm is compared with it.")


@pytest.mark.parametrize(
    ("arms", "lacking"),
    [(["grpo", "step_2"], "step_0"), (["grpo", "step_0"], "step_2"), (["grpo", "step_4"], "step_2 and step_0")],
)
def test_a_plan_without_the_planned_pair_says_so_and_compares_the_rest(tmp_path, arms, lacking):
    data = write_step_sizes(tmp_path, arms)
    row = contrasts.compared(data).iloc[1]
    assert (row["arm"], row["against"], row["primary"], row["pairs"]) == (arms[1], "grpo", False, 3)
    assert list(tables.verdicts(data)["arm"]) == arms
    assert page.primary_sentence(data) == (
        f"The primary contrast, step_2 minus step_0, is not part of this plan: launched without {lacking}."
    )


def test_a_baseline_that_is_the_reference_and_was_not_launched_is_named_in_sentences(tmp_path):
    data = write_step_sizes(tmp_path, ["step_2", "step_4"], primary_contrast=["step_2", "grpo"])
    assert list(tables.verdicts(data)["verdict"]) == [verdicts.NO_PAIR, verdicts.NO_PAIR]
    assert page.primary_sentence(data) == (
        "The primary contrast, step_2 minus grpo, is not part of this plan: launched without grpo. "
        "Without the baseline grpo in this plan, no arm is compared with it."
    )


# ---- rivals: cost, groups dropped, reconstructions, alarms, attacks

COLLAPSE = {
    "detector": "entropy_collapse",
    "step": 14,
    "sentence": "step 14: entropy has stayed low; look at view.step_size",
    "setting": "view.step_size",
}
EXPLOSION = {**COLLAPSE, "detector": "entropy_explosion", "step": 16}


@pytest.fixture(scope="module")
def rivals(tmp_path_factory):
    """Five arms of 20 steps; dapo drops groups and samples twice as many completions."""
    folder = tmp_path_factory.mktemp("rivals")
    # 12 problems x 8 completions: of 96 right in the three seeds
    right = {
        "GRPO": (48, 48, 48),
        "saei": (50, 52, 57),
        "noisyrollout": (58, 60, 62),
        "dapo": (90, 90, 90),
        "aer": (24, 24, 24),
    }
    write_sweep(
        folder,
        "rivals",
        arms={"GRPO": 0.1, "saei": 0.16, "noisyrollout": 0.13, "dapo": 0.15, "aer": 0.12},
        right=right,
        filters=["dapo"],
        reconstructions={"aer": ["The difficulty weights are ours."]},
        alarms={("saei", 1): [COLLAPSE], ("saei", 2): [COLLAPSE, COLLAPSE], ("aer", 0): [EXPLOSION]},
        attacked=True,
    )
    return folder


@pytest.fixture(scope="module")
def rival_data(rivals):
    return load.load_sweep(rivals)


def test_an_arm_that_drops_groups_gets_no_verdict_by_steps(rival_data):
    assert rival_data.filtering == ["dapo"]
    shown = tables.verdicts(rival_data).set_index("arm")
    assert shown.loc["dapo", "verdict"] == "compared at equal generated tokens: see figure"
    assert list(shown.loc["dapo", ["difference (points)", "95 % interval", "p"]]) == ["–", "–", "–"]
    assert shown.loc["dapo", "accuracy (mean@8)"] == "93.8 %"  # 90 of 96
    # and takes no part in Holm's adjustment: noisyrollout and aer are two, not three. noisyrollout: 10, 12, 14 of 96
    # more, t = 12 sqrt 3 / 2 = 10.39, p = 1 - t / sqrt(t^2 + 2) = 0.0091, aer: always 24 fewer, p = 0
    rows = contrasts.compared(rival_data).set_index("arm")
    assert rows.loc["noisyrollout", "p"] == pytest.approx(0.0091, abs=1e-4)
    assert rows.loc["noisyrollout", "p_judged"] == rows.loc["noisyrollout", "p"]  # 1 x the larger of two
    assert rows.loc["aer", "verdict"] == verdicts.WORSE


def test_a_planned_pair_of_which_one_drops_groups_has_no_verdict_either(tmp_path):
    write_sweep(tmp_path, arms={"grpo": 0.1, "dapo": 0.2}, steps=4, problems=2, filters=["dapo"])
    data = load.load_sweep(tmp_path)
    assert page.primary_sentence(data) == "dapo minus grpo: compared at equal generated tokens: see figure."
    (tmp_path / "other").mkdir()
    write_sweep(tmp_path / "other", arms={"grpo": 0.1, "saei": 0.2}, steps=4, problems=2, filters=["grpo"])
    shown = tables.verdicts(load.load_sweep(tmp_path / "other"))["verdict"]
    assert list(shown) == ["baseline", "compared at equal generated tokens: see figure"]


def test_a_reconstruction_is_labelled_and_explained(rival_data):
    assert arms.reconstructions(rival_data) == {"aer": ["The difficulty weights are ours."]}
    names = ["GRPO", "saei (primary contrast)", "noisyrollout", "dapo", "aer (reconstruction)"]
    assert list(tables.verdicts(rival_data)["arm"]) == names
    assert list(tables.summary_table(rival_data)["arm"])[-1] == "aer (reconstruction)"


def test_costs_are_sums_over_the_steps_of_a_run_and_ratios_are_to_the_baseline(rival_data):
    # 20 steps of 3000 generated, 3000 forward and 4000 backward tokens, 1 s each; saei 6000 and 6000, dapo twice
    shown = tables.cost_table(rival_data).set_index("arm")
    assert list(shown.loc["GRPO"]) == [
        "60 k (1.00×)", "60 k (1.00×)", "80 k (1.00×)", "140 k (1.00×)", "1 s (1.00×)", "20 s (1.00×)",
    ]  # fmt: skip
    assert shown.loc["saei", "forward + backward"] == "240 k (1.71×)"  # 12000 / 7000
    # every fifth step of saei took half a second more, to measure fresh completions
    assert rival_data.table("steps").query("arm == 'saei' and seed == 0")["time_step"].sum() == 22
    assert list(shown.loc["saei", ["time a step", "time in all"]]) == ["1 s (1.00×)", "20 s (1.00×)"]
    assert shown.loc["dapo", "generated tokens"] == "120 k (2.00×)"
    assert shown.loc["dapo", "forward tokens"] == "240 k (4.00×)"


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (999, "999"), (999.6, "1 k"), (61_440, "61.4 k"), (1.234e7, "12.3 M"), (2e9, "2 G")]
)
def test_amounts_have_three_digits_and_a_unit(count, text):
    assert tables.amount(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.314, "0.31 s"), (42, "42 s"), (210, "3.5 min"), (7560, "2.1 h")])
def test_durations_read_as_a_person_says_them(seconds, text):
    assert tables.duration(seconds) == text


def test_an_evaluation_stands_at_the_tokens_generated_before_it(rival_data):
    frame = costs.accuracy_by_tokens(rival_data)
    # evaluations after 0, 5, 10, 15 and 20 steps of 3000 tokens; dapo's steps have 6000
    assert frame[(frame["arm"] == "GRPO") & (frame["seed"] == 0)]["tokens"].tolist() == [0, 15e3, 30e3, 45e3, 60e3]
    assert frame[(frame["arm"] == "dapo") & (frame["seed"] == 0)]["tokens"].tolist() == [0, 30e3, 60e3, 90e3, 120e3]
    tokens, scored = costs.at_equal_tokens(rival_data)
    assert tokens == 60e3
    half_way = frame[(frame["arm"] == "dapo") & (frame["seed"] == 1) & (frame["step"] == 10)]["accuracy"].item()
    ours = scored[(scored["arm"] == "dapo") & (scored["seed"] == 1)]["accuracy"].item()
    assert ours == pytest.approx(half_way)
    figure = comparisons.accuracy_over_tokens(frame)
    lines = {line.get_label(): line.get_xdata()[-1] for line in figure.axes[0].lines}
    assert lines["GRPO"] == 60e3 and lines["dapo (drops groups)"] == 120e3


def drawn_arms(axes):
    return [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]


def test_arms_that_drop_groups_are_left_out_over_steps_and_the_title_says_so(rival_data):
    steps = rival_data.table("steps")
    validation = stats.scores(rival_data.table("eval"), rival_data.validation_split)
    figures = [plots.accuracy_over_steps(validation), plots.attack_gain_over_steps(steps)]
    figures += [draw(steps) for draw in (plots.entropy_over_steps, plots.reward_over_steps, plots.length_over_steps)]
    for figure in figures:
        assert "saei" in drawn_arms(figure.axes[0]) and "dapo" not in drawn_arms(figure.axes[0])
        title = figure.get_suptitle() or figure.axes[0].get_title(loc="left").split("\n")[1]
        assert title == "without dapo (drops groups): see accuracy over generated tokens"
    only = steps[steps["arm"] == "dapo"]
    assert plots.entropy_over_steps(only) == (
        "No entropy (nats per token) to draw without dapo (drops groups): see accuracy over generated tokens."
    )
    ticks = plots.accuracy_by_arm(stats.final_scores(rival_data.table("eval"), "test")).axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks][3] == "dapo (drops groups)"
    panels = [axes.get_title(loc="left") for axes in plots.entropy_by_band(steps).axes]
    assert panels[:5] == ["GRPO", "saei", "noisyrollout", "dapo (trained groups only)", "aer"]


def test_the_entropy_of_an_arm_that_drops_groups_is_that_of_all_it_sampled(rival_data):
    shown = tables.last_steps(rival_data).set_index("arm")["entropy (nats)"].astype(float)
    # a tenth of 20 steps: the last two
    tail = rival_data.table("steps").query("step >= 18").groupby("arm", observed=True)["entropy"].mean()
    assert shown["dapo (entropy: all groups sampled)"] == pytest.approx(tail["dapo"] + SAMPLED_MORE, abs=5e-5)
    assert shown["saei"] == pytest.approx(tail["saei"], abs=5e-5)


def test_what_a_curriculum_spent_is_in_the_totals_and_on_the_token_axis_but_in_no_step(tmp_path):
    spent = {"tokens_generated": 6000, "tokens_forward": 20_000, "seconds": 7.0}
    folder = write_sweep(tmp_path, arms={"GRPO": 0.1, "sent": 0.2}, seeds=2, orders={"sent": spent})
    data = load.load_sweep(tmp_path)
    # 20 steps of 3000 generated, 6000 forward and 6000 backward tokens
    rows = costs.mean_costs(data).set_index("arm")
    assert rows.loc["sent", ["generated", "forward", "backward"]].tolist() == [66e3, 140e3, 120e3]
    assert rows.loc["sent", ["processed", "step_seconds", "seconds"]].tolist() == [260e3, 1.0, 27.0]
    assert rows.loc["GRPO", ["generated", "seconds"]].tolist() == [60e3, 20.0]
    run = costs.accuracy_by_tokens(data).query("arm == 'sent' and seed == 0")
    assert run["tokens"].tolist() == [6e3, 21e3, 36e3, 51e3, 66e3]
    assert len(costs.accuracy_by_tokens(data).query("tokens == 0")) == 2  # GRPO's
    kept = load.load_sweep(reference.keep("fake", tmp_path, tmp_path / "kept").parent)
    assert costs.mean_costs(kept).equals(costs.mean_costs(data))
    # older runs kept the order alone
    for seed in range(2):
        (folder / fake_id("sent", seed) / schema.CURRICULUM_FILE).write_text('{"content": [0, 1]}')
    assert costs.mean_costs(load.load_sweep(tmp_path)).set_index("arm").loc["sent", "seconds"] == 20.0


def test_alarms_are_listed_by_arm_seed_and_step_with_their_sentence(rival_data):
    shown = tables.alarm_table(rival_data)
    assert shown[["arm", "seed", "step", "detector"]].values.tolist() == [
        ["saei", 1, 14, "entropy_collapse"],
        ["saei", 2, 14, "entropy_collapse"],
        ["saei", 2, 14, "entropy_collapse"],
        ["aer", 0, 16, "entropy_explosion"],
    ]
    assert shown["sentence"][0] == "entropy has stayed low; look at view.step_size"


def test_the_summary_has_a_row_an_arm_with_what_went_wrong_in_how_many_seeds(rival_data):
    shown = tables.summary_table(rival_data).set_index("arm")
    assert shown.loc["saei", "test, mean@8"] == "55.2 % (52.1 % to 59.4 %)"  # 53, 50 and 57 of 96
    assert shown.loc["saei", "went wrong"] == "entropy_collapse in 2 of 3"
    assert shown.loc["GRPO", "went wrong"] == "nothing"
    assert shown.loc["aer (reconstruction)", "went wrong"] == "diverged in 1 of 3: entropy exploded (step 16)"
    assert list(shown.loc["dapo", ["generated tokens", "forward + backward tokens", "time"]]) == [
        "120 k", "360 k", "20 s",
    ]  # fmt: skip
    # after the last step, 0.2 - 0.1 x (0.4 + 0.1)
    assert shown.loc["GRPO", "entropy (nats)"] == "0.150"


def steps_table(length=20, **columns):
    known = {"loss": 0.1, "grad_norm": 0.5, "skipped_updates": 0, "reward_accuracy": 0.5, "groups_trained": 8.0}
    frame = pd.DataFrame({"step": range(length), **known})
    for name, changes in columns.items():
        for first, value in changes.items():
            frame.loc[first:, name] = value
    return frame


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, ""),
        ({"skipped_updates": {4: 1, 6: 0}}, "2 skipped updates (first in step 4)"),
        ({"loss": {7: math.nan}}, "loss or gradient not finite (step 7)"),
        ({"loss": {7: math.nan, 8: 0.1}, "groups_trained": {7: 0, 8: 8}}, ""),  # no group was left to train on
        ({"loss": {7: math.inf}, "groups_trained": {0: math.nan}}, "loss or gradient not finite (step 7)"),
        ({"reward_accuracy": {10: 0.04}}, "training accuracy fell from 0.50 to 0.04"),
        ({"reward_accuracy": {10: 0.06}}, ""),  # a tenth of 0.5 is 0.05
    ],
)
def test_a_run_diverged_by_its_updates_its_loss_or_its_accuracy(columns, why):
    assert health.why_diverged(steps_table(**columns)) == why


def test_attacked_evaluations_are_read_by_attack_and_level_with_the_same_clean_problems_as_level_0(rival_data):
    frame = attacked.robustness(rival_data)
    assert frame.groupby(["attack", "level"]).size().to_dict() == {
        (attack, level): 15 for attack in ("egas", "gaussian") for level in (0.0, 2.0, 8.0)
    }
    items = rival_data.table("eval").query("arm == 'saei' and seed == 0 and decoding == 'sampled' and split == 'test'")
    first = items[items["problem_id"].isin([f"test-{i:03d}" for i in range(6)])]["accuracy"].mean()
    ours = frame.query("arm == 'saei' and seed == 0 and level == 0 and attack == 'egas'")["accuracy"].item()
    assert ours == pytest.approx(first)
    assert list(tables.robustness_table(rival_data)) == ["attack", "arm", "0 levels", "2 levels", "8 levels"]
    figure = comparisons.accuracy_under_attack(frame)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["egas", "gaussian"]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 2, 8]
    assert set(tables.side_figures(rival_data)["split"]) == {"test", "larger_grid"}


def test_the_page_of_rivals_says_what_may_not_be_compared_and_what_went_wrong(rival_data):
    told = page.render(rival_data, {})
    for text in (
        "aer (reconstruction)",
        "The difficulty weights are ours.",
        "compared at equal generated tokens: see figure",
        "dapo drops groups",
        "Recorded in 15 of 15 runs",
        "entropy has stayed low; look at view.step_size",
        "Under attack after training",
    ):
        assert text in told


@pytest.mark.parametrize(
    ("alarms", "sentence"), [(None, "These runs recorded no alarms."), ({}, "No detector fired in 9 runs.")]
)
def test_no_alarm_and_no_record_of_alarms_are_told_apart(tmp_path, alarms, sentence):
    write_sweep(tmp_path, steps=4, problems=2, alarms=alarms)
    data = load.load_sweep(tmp_path)
    assert sentence in page.render(data, {})
    wrong = {"no alarms recorded"} if alarms is None else {"nothing"}
    assert set(tables.summary_table(data)["went wrong"]) == wrong


def test_columns_that_an_older_run_did_not_write_are_unknown_and_its_keys_zero(tmp_path):
    folder = write_sweep(tmp_path, steps=4, problems=2)
    for trial in (fake_id("SaEI", seed) for seed in range(3)):
        for table, column in (("steps", "groups_trained"), ("steps", "control_coef"), ("attacks", "image")):
            for part in (folder / trial / table).iterdir():
                pq.write_table(pq.read_table(part).drop_columns(column), part)
    data = load.load_sweep(tmp_path)
    steps = data.table("steps")
    assert steps.query("arm == 'SaEI'")["groups_trained"].isna().all()
    assert steps.query("arm == 'GRPO'")["groups_trained"].tolist() == [8] * 12
    assert data.table("attacks").query("arm == 'SaEI'")["image"].tolist() == [0] * 12
    assert list(tables.summary_table(data)["arm"]) == data.arms


# ---- reference


def test_a_kept_sweep_gives_the_same_verdicts_without_what_models_wrote(results, tmp_path):
    folder = reference.keep("full", results, tmp_path)
    original, kept = load.load_sweep(results, "full"), load.load_sweep(tmp_path, "full")
    pd.testing.assert_frame_equal(tables.verdicts(kept), tables.verdicts(original))
    assert not list(folder.glob("*/rollouts")) and not list(folder.glob("*/images"))
    assert all(len(list(table.iterdir())) == 1 for table in folder.glob("*/eval"))
    with pytest.raises(ValueError, match="run the sweep first"):
        reference.keep("nothing", results, tmp_path)


def test_a_trial_of_another_sweep_is_kept_as_a_pointer_to_it(tmp_path):
    first = write_sweep(tmp_path / "results", seeds=1, steps=2, problems=2)
    second = first.parent / "second"
    for name in sorted(path.parent.name for path in first.glob(f"*/{schema.CONFIG_FILE}")):
        (second / name).mkdir(parents=True)
        (second / name / schema.SAME_AS_FILE).write_text(f"../../{first.name}/{name}\n")
    plan = json.loads((first / schema.PLAN_FILE).read_text())
    (second / schema.PLAN_FILE).write_text(json.dumps({**plan, "name": "second"}))
    for sweep in (first.name, "second"):
        reference.keep(sweep, first.parent, tmp_path / "kept")
    data = load.load_sweep(tmp_path / "kept", "second")
    assert list(data.trials["state"].unique()) == [schema.FINISHED] and data.borrowed_note == ""


def test_an_arm_with_the_baselines_scores_on_every_seed_is_called_that(tmp_path):
    right = {"grpo": [40, 42, 44], "step_zero": [40, 42, 44]}
    write_sweep(tmp_path, arms=dict.fromkeys(right, 0.5), steps=4, right=right)
    row = contrasts.compared(load.load_sweep(tmp_path)).set_index("arm").loc["step_zero"]
    assert row["verdict"] == verdicts.IDENTICAL and math.isnan(row["p_judged"]) and row["difference"] == 0
