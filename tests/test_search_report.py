"""What is told of a search: its ledger read back, the Optuna study made of it, figures, and what luck would do."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from optuna.trial import TrialState

from analysis import contrasts, load, luck, parameters, search, search_figures, search_study, search_tables
from analysis.parameters import Parameter
from analysis.search import Search
from analysis.style import Sentence
from saei import schema
from sweeps.definition import load_sweep
from sweeps.plan import _plain
from sweeps.points import FAILED, PRUNED, Ledger, Point, plain
from sweeps.space import Range
from tests.fake_results import fake_id, write_sweep

ROOT = Path(__file__).resolve().parent.parent
SWEEP = load_sweep("search")
# right validation completions of 24 (3 problems, 8 each) at the last step, by seed; p002 was given up, p003 failed
RIGHT = {"grpo": (12, 12), "saei": (12, 14), "p000": (6, 12), "p001": (18, 12), "p002": (3,), "p003": (), "p004": (9,)}
CHOICES = [
    {"step_size": 1.0, "iterations": 1, "n_view": 6, "kept": 4, "place": 2},
    {"step_size": 4.0, "iterations": 2, "n_view": 6, "kept": 4, "place": 2},
    {"step_size": 16.0, "iterations": 3, "n_view": 2, "kept": 12, "place": 0},
    {"step_size": 8.0, "iterations": 4, "n_view": 2, "kept": 12, "place": 0},
    {"step_size": 2.0, "iterations": 5, "n_view": 2, "kept": 12, "place": 4},
]


def overrides(choice):
    return SWEEP.space.settings(choice)


def write_search(results, *, settings=None, name="search"):
    """A search as its runner leaves it while p004 trains, with its real ledger and the arms of its real plan."""
    settings = settings or {"steps": 8}
    left_out = [(arm, seed) for arm, right in RIGHT.items() for seed in range(2) if seed >= len(right)]
    folder = write_sweep(
        results, name, arms=dict.fromkeys(RIGHT, 0.1), seeds=2, steps=8, problems=3, leave_out=left_out
    )
    for arm, right in RIGHT.items():
        for seed, count in enumerate(right):
            set_validation(folder / fake_id(arm, seed), count)
    points = {f"p{number:03d}": choice for number, choice in enumerate(CHOICES)}
    plan = json.loads((folder / schema.PLAN_FILE).read_text())
    plan["arms"] = [
        {"name": arm, "overrides": _plain(overrides(points[arm])) if arm in points else {}} for arm in RIGHT
    ]
    plan["settings"] = settings
    for trial in plan["trials"]:
        trial |= {"exploratory": trial["arm"] in points, "pruned": trial["arm"] == "p002"}
    (folder / schema.PLAN_FILE).write_text(json.dumps(plan))
    with Ledger(folder, SWEEP, settings).changing() as record:
        for arm, choice in points.items():
            point = Point(arm=arm, choice=choice, overrides=plain(overrides(choice)), sampler="tpe")
            if arm == "p002":
                point.state, point.reason = PRUNED, "worse than the best point on seeds 0"
            if arm == "p003":
                point.state, point.reason = FAILED, "seed 0: <b>no</b> memory"
            record.points.append(point)
    return folder


def set_validation(run, right):
    """Make the first `right` sampled validation completions of the last step right, the others wrong."""
    parts = sorted((run / "eval").iterdir())
    tables = {path: pq.read_table(path).to_pandas() for path in parts}
    last = max(frame.loc[frame["split"] == "validation", "step"].max() for frame in tables.values())
    for path, frame in tables.items():
        chosen = (frame["split"] == "validation") & (frame["decoding"] == schema.SAMPLED) & (frame["step"] == last)
        assert chosen.sum() in (0, 24)
        frame.loc[chosen, "accuracy"] = (np.arange(chosen.sum()) < right).astype(float)
        pq.write_table(pq.read_table(path).from_pandas(frame, schema=pq.read_schema(path)), path)


def made(values, *, states=None, choices=None, found=(), is_search=True):
    """A search by hand: `values` is arm -> accuracy of each seed."""
    scores = pd.DataFrame(
        [(arm, seed, value) for arm, own in values.items() for seed, value in enumerate(own)],
        columns=["arm", "seed", "accuracy"],
    )
    by_arm = scores.groupby("arm", sort=False)["accuracy"]
    points = by_arm.agg(seeds="count", score="mean", low="min", high="max").reset_index()
    points = points.assign(number=range(len(points)), samples=8, why="")
    points["state"] = [(states or {}).get(arm, search.COMPLETE) for arm in points["arm"]]
    chosen = pd.DataFrame({"arm": list(values), **(choices or {})})
    return Search(points=points, scores=scores, choices=chosen, parameters=list(found), is_search=is_search)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    write_search(results)
    return search.read(load.load_sweep(results, "search"))


# ---- reading


def test_the_ledger_and_the_runs_say_how_every_point_stands(found):
    points = found.points.set_index("arm")
    assert list(points.index) == ["p000", "p001", "p002", "p003", "p004", "grpo", "saei"]
    states = ["complete", "complete", "pruned", "failed", "open", "fixed", "fixed"]
    assert list(points["state"]) == states and list(points["seeds"]) == [2, 2, 1, 0, 1, 2, 2]
    # p000: 6 and 12 of 24; p001: 18 and 12; p002: 3
    assert points.loc["p000", ["score", "low", "high"]].tolist() == [0.375, 0.25, 0.5]
    assert points.loc["p001", ["score", "low", "high"]].tolist() == [0.625, 0.5, 0.75]
    assert points.loc["p002", "score"] == 0.125 and math.isnan(points.loc["p003", "score"])
    assert points.loc["p002", "why"] == "worse than the best point on seeds 0"
    assert found.is_search and list(found.complete["arm"]) == ["p001", "p000"]


def test_of_two_launches_in_a_ledger_the_one_of_the_plan_is_shown(tmp_path):
    folder = write_search(tmp_path)
    with Ledger(folder, SWEEP, {"steps": 99}).changing() as record:
        for arm in ("p000", "p001", "p002"):
            own = plain(overrides(CHOICES[0]))
            record.points.append(Point(arm=arm, choice=CHOICES[0], overrides=own, sampler="tpe", state=PRUNED))
    again = search.read(load.load_sweep(tmp_path, "search"))
    assert list(again.points["state"])[:3] == ["complete", "complete", "pruned"]
    assert list(again.choices["step_size"]) == [1.0, 4.0, 16.0, 8.0, 2.0]


def test_a_damaged_ledger_is_named_with_its_cure(tmp_path):
    folder = write_search(tmp_path)
    (folder / search.LEDGER_FILE).write_text('{"searches": [{"key": 5')
    with pytest.raises(ValueError, match=r"points\.json is no ledger of points .*; restore it, or move it away"):
        search.read(load.load_sweep(tmp_path, "search"))


@pytest.mark.parametrize(
    "given",
    [*SWEEP.space.ranges.values(), Range(low=1e-6, high=0.3, log=True), Range(low=1, high=8, log=True, whole=True)],
)
def test_a_range_is_read_back_from_its_words(given):
    (read,), _ = parameters.of_space({"x": str(given)}, [])
    assert (read.low, read.high, read.log, read.whole) == (given.low, given.high, given.log, given.whole)


def test_words_that_are_no_range_are_refused():
    with pytest.raises(ValueError, match="range of x: 'anything' is not of the form"):
        parameters.of_space({"x": "anything"}, [])


def test_the_ledgers_name_is_the_searchs_own():
    from sweeps import points

    assert search.LEDGER_FILE == points.LEDGER_FILE and (search.PRUNED, search.FAILED, search.OPEN) == (
        points.PRUNED, points.FAILED, points.OPEN
    )  # fmt: skip


def test_an_ordinary_sweep_is_read_over_the_settings_in_which_its_arms_differ(tmp_path):
    folder = write_sweep(tmp_path, steps=4)
    settings = {"GRPO": (12, 0, None), "SaEI": (6, 6, 2.0), "random third": (6, 6, 20.0)}
    for arm, (clean, moved, step) in settings.items():
        for seed in range(3):
            path = folder / fake_id(arm, seed) / schema.CONFIG_FILE
            tree = json.loads(path.read_text())
            tree["config"] |= {"rollout": {"n_clean": clean, "n_view": moved}, "view": {"step_size": step}}
            path.write_text(json.dumps(tree))
    found = search.read(load.load_sweep(tmp_path))
    assert not found.is_search and list(found.points["state"]) == ["complete"] * 3
    both, size = found.parameters
    # nothing tells the two counts apart
    assert both.name == "rollout.n_clean, rollout.n_view" and list(found.choices[both.name]) == [12, 6, 6]
    assert (size.name, size.low, size.high, size.log) == ("view.step_size", 2.0, 20.0, True)
    assert set(found.slices().query("parameter == 'view.step_size'")["arm"]) == {"SaEI", "random third"}
    assert "verdict table" in luck.leader(found) and "27" not in luck.leader(found)


# ---- luck


def test_the_expected_maximum_of_a_few_normal_values():
    # 1 / sqrt(pi) and 3 / (2 sqrt(pi))
    assert luck.expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert luck.expected_maximum(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)
    assert luck.expected_maximum(1) == pytest.approx(0.0, abs=1e-9)


def test_luck_by_hand():
    # residuals -0.05, 0.05, 0.05, -0.05 on 1 degree of freedom: variance 0.01, of a mean of 2 seeds 0.005
    by_hand = math.sqrt(0.005) / math.sqrt(math.pi)
    assert luck.luck(made({"a": [0.5, 0.7], "b": [0.6, 0.6]})) == pytest.approx(by_hand)
    # what a seed does to all points alike is no luck of any
    assert luck.luck(made({"a": [0.5, 0.9], "b": [0.4, 0.8]})) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(luck.luck(made({"a": [0.5], "b": [0.4]})))


def test_luck_is_what_the_best_of_equally_good_points_stands_above_them():
    rng = np.random.default_rng(0)
    leads, told = [], []
    for _ in range(100):
        values = 0.5 + rng.normal(0, 0.05, (1, 3)) + rng.normal(0, 0.02, (10, 3))
        leads.append(values.mean(axis=1).max() - values.mean())
        told.append(luck.luck(made({f"p{i}": row.tolist() for i, row in enumerate(values)})))
    # the standard error of the mean lead is 0.0007 of about 0.018
    assert np.mean(told) == pytest.approx(np.mean(leads), rel=0.1)


def test_the_leader_is_told_with_its_luck_and_that_nothing_is_decided(found):
    told = luck.leader(found)
    assert told.startswith("p001 leads 2 complete points with 62.5 % on the validation split.")
    assert "That is 12.5 points above their mean" in told
    # seeds 0.25, 0.5 and 0.75, 0.5 leave residuals of 1/8 each: sqrt(4/64 / 2) / sqrt(pi)
    assert f"{100 * math.sqrt(1 / 32) / math.sqrt(math.pi):.1f} points above it by luck" in told
    assert told.endswith("on the test split, on seeds other than 0, 1.")
    assert "none has all its seeds" in luck.leader(made({"a": [0.5]}, states={"a": search.OPEN}))


# ---- the study


def test_the_study_holds_every_point_with_its_state(found):
    study = search_study.study(found)
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert [trial.state for trial in study.trials] == states
    assert [trial.params for trial in study.trials] == CHOICES
    assert study.best_trial.user_attrs["point"] == "p001" and study.best_value == 0.625
    assert study.trials[2].value == 0.125 and study.trials[2].intermediate_values == {0: 0.125}
    assert study.trials[0].intermediate_values == {0: 0.25, 1: 0.5}


def planted(points=16, seeds=2):
    """Accuracy falls with the distance of x from 4 on a log scale; y does nothing. The last four were given up."""
    rng = np.random.default_rng(1)
    x, y = 2.0 ** rng.uniform(-1, 5, points), rng.uniform(0, 1, points)
    level = 0.7 - 0.1 * np.abs(np.log2(x / 4))
    values = {f"p{i:03d}": (level[i] + 0.05 * np.arange(seeds)).tolist() for i in range(points)}
    given_up = [f"p{i:03d}" for i in range(points - 4, points)]
    for arm in given_up:
        values[arm] = values[arm][:1]
    found = [Parameter(name="x", low=0.5, high=32, log=True), Parameter(name="y", low=0.0, high=1.0)]
    return made(values, states=dict.fromkeys(given_up, search.PRUNED), choices={"x": x, "y": y}, found=found)


def test_importance_finds_the_parameter_that_matters_and_shuffled_scores_do_not():
    shares = search_study.importances(planted())
    means = shares.groupby("parameter")[["importance", "shuffled"]].mean()
    assert means.loc["x", "importance"] > 0.8 > means.loc["x", "shuffled"]
    # the shares of a forest sum to 1, whatever the scores are
    sums = shares.groupby("forest")[["importance", "shuffled"]].sum()
    assert np.allclose(sums, 1.0)
    pd.testing.assert_frame_equal(shares, search_study.importances(planted()))


def test_pruned_points_count_as_far_as_their_seeds_go():
    search_with_pruned = planted()
    scores = search_study.comparable(search_with_pruned).set_index("arm")["score"]
    assert len(scores) == 16
    # seed 1 scores 0.05 higher everywhere: the one seed of a pruned point is held against the others' same seed
    x = search_with_pruned.choices.set_index("arm")["x"]
    distances = np.log2(x / 4).abs()
    assert np.allclose(scores + 0.1 * distances, (scores + 0.1 * distances).iloc[0])


def test_too_few_points_have_a_sentence_and_no_importances(found):
    told = search_figures.importance(found)
    assert isinstance(told, Sentence)
    assert told.startswith("No importances yet: 3 points complete or pruned") and "over 5 needs 10 at least" in told


# ---- figures and tables


def test_the_figures_of_a_search_show_the_validation_split(found):
    history, slices = search_figures.history(found), search_figures.slices(found)
    assert isinstance(history, Figure) and isinstance(slices, Figure)
    assert history.axes[0].get_ylabel() == "validation accuracy, mean@8"
    best = next(line for line in history.axes[0].lines if line.get_label() == "best complete so far")
    assert list(best.get_ydata()) == [0.375, 0.625, 0.625, 0.625]  # of the points that have scores
    names = [axes.get_xlabel() for axes in slices.axes if axes.get_visible()]
    assert names == ["step_size", "iterations", "n_view", "kept", "place"]
    assert isinstance(search_figures.importance(planted()), Figure)


def test_nothing_yet_has_sentences(tmp_path):
    for data in (load.load_sweep(tmp_path), search_with_nothing(tmp_path)):
        empty = search.read(data)
        for figure in (search_figures.history, search_figures.importance, search_figures.slices, luck.leader):
            assert isinstance(figure(empty), Sentence)
        assert len(search_tables.points_table(empty)) == 1 and len(search_tables.counts(empty)) == 1


def search_with_nothing(tmp_path):
    write_sweep(tmp_path, arms={"GRPO": 0.1}, seeds=1, leave_out=[("GRPO", 0)])
    return load.load_sweep(tmp_path)


def test_names_with_dollars_and_tags_stay_text(tmp_path):
    setting = Parameter(name="$\\frac", low=0, high=1, categories=("$a$", "$b^{"))
    values, choices = {"$x^$": [0.5, 0.6], "<script>": [0.4, 0.5]}, {"$\\frac": ["$a$", "$b^{"]}
    hostile = made(values, choices=choices, found=[setting], is_search=False)
    for name, figure in enumerate((search_figures.history(hostile), search_figures.slices(hostile))):
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{name}.png")


def test_pruned_points_are_in_the_table_of_points_and_in_no_verdict(tmp_path):
    write_search(tmp_path)
    data = load.load_sweep(tmp_path, "search")
    table = search_tables.points_table(search.read(data))
    assert list(table["point"]) == ["p001", "p000", "p002", "p003", "p004", "grpo", "saei"]
    assert list(table["validation, mean@8"])[:3] == ["62.5 % (50.0 % to 75.0 %)", "37.5 % (25.0 % to 50.0 %)", "12.5 %"]
    assert list(table["step_size"]) == ["4", "1", "16", "8", "2", "–", "–"]
    assert table.set_index("point").loc["p002", "why"] == "worse than the best point on seeds 0"
    assert "p002" not in set(contrasts.compared(data)["arm"])


def test_the_figures_of_a_search_load_no_torch():
    code = "import sys, analysis.search_figures, analysis.search_tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
