"""From plan and runs to the words of the verdict table, and the tables that stand beside it."""

import json
import shutil

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from analysis import contrasts, coverage, fragments, load, looks, stats, tables, verdicts
from analysis.table import Table, captioned
from analysis.verdicts import Diverged, Looks
from saei import schema
from tests.fake_results import fake_id, write_sweep

EXPLOSION = {"detector": "entropy_explosion", "step": 3, "sentence": "step 3: it exploded", "setting": "optim.lr"}
# 5 problems x 2 completions: one right is 10 points. Always 3 to 5 right more, so better
BETTER = {"grpo": [1, 2, 1], "saei": [5, 5, 6]}


def sweep(results, *, exploded=(), added=(), **options):
    """grpo and saei of BETTER; `exploded` runs diverged, `added` (arm, seed, launch) came after the first launch."""
    sizes = {"steps": 4, "problems": 5, "samples": 2, "right": BETTER, "arms": dict.fromkeys(BETTER, 0.1)}
    folder = write_sweep(results, alarms={key: [EXPLOSION] for key in exploded}, **{**sizes, **options})
    path = folder / schema.PLAN_FILE
    plan = json.loads(path.read_text())
    for arm, seed, launch in added:
        (entry,) = (entry for entry in plan["trials"] if (entry["arm"], entry["seed"]) == (arm, seed))
        entry |= {"exploratory": True} | ({} if launch is None else {"launch": launch})
    path.write_text(json.dumps(plan))
    return load.load_sweep(results)


def words(data):
    return dict(zip(tables.verdicts(data)["arm"], tables.verdicts(data)["verdict"], strict=True))


@pytest.mark.parametrize(
    ("exploded", "expected"),
    [
        ([], ["baseline", "better"]),
        ([("saei", 0)], ["baseline", "better (diverged in 1 of 3)"]),
        ([("saei", 0), ("saei", 2)], ["baseline", "diverged in 2 of 3"]),
        ([("grpo", 1)], ["baseline (diverged in 1 of 3)", "better"]),
        ([("grpo", 1), ("grpo", 2)], ["baseline; diverged in 2 of 3", "grpo diverged in 2 of 3"]),
    ],
)
def test_an_arm_of_which_half_diverged_has_that_for_a_verdict_and_fewer_are_counted_beside(
    tmp_path, exploded, expected
):
    data = sweep(tmp_path, exploded=exploded)
    assert list(words(data).values()) == expected
    # 4 3 5 of 10 more: the diverged runs stay in the mean
    assert contrasts.compared(data)["difference"][1] == pytest.approx(0.4)


def test_half_is_enough_and_nothing_begun_is_no_divergence():
    assert Diverged(count=1, begun=2).decides and not Diverged(count=1, begun=3).decides
    assert not Diverged().decides


@pytest.mark.parametrize(
    ("added", "beside"),
    [
        ([("saei", 2, 1)], "exploratory: 1 look"),
        ([("saei", 1, 1), ("saei", 2, 2)], "exploratory: 2 looks"),
        # one launch that adds a seed to both arms is one look
        ([("saei", 2, 1), ("grpo", 2, 1)], "exploratory: 1 look"),
        ([("grpo", 1, 1), ("saei", 2, 3)], "exploratory: 2 looks"),
        ([("saei", 1, None), ("saei", 2, None)], "exploratory: at least 1 look"),
    ],
)
def test_launches_that_added_to_a_pair_are_counted_as_looks(tmp_path, added, beside):
    assert words(sweep(tmp_path, added=added))["saei (primary contrast)"] == f"better ({beside})"


def test_seeds_added_to_other_arms_are_no_look_at_this_pair(tmp_path):
    arms = {"grpo": 0.1, "saei": 0.1, "other": 0.1}
    data = sweep(tmp_path, arms=arms, added=[("other", 2, 1)], right={**BETTER, "other": [1, 2, 1]})
    assert looks.looks(data, "saei", "grpo") == Looks()
    assert words(data)["other"] == f"{verdicts.IDENTICAL} (exploratory: 1 look)"


def test_a_seed_that_failed_is_told_for_it_has_no_score(tmp_path):
    data = sweep(tmp_path, unfinished={("saei", 2): schema.FAILED})
    assert words(data)["saei (primary contrast)"] == "two seeds, no verdict (1 failed seed without a score)"


def test_plans_with_other_settings_are_told():
    plan = {"earlier_plans": [{}, {}]}
    assert "other settings (2 earlier plans" in looks.other_settings(load.SweepData(plan=plan, trials=None))  # type: ignore
    assert looks.other_settings(load.SweepData(plan={}, trials=None)) == ""  # type: ignore


def test_the_sentence_of_a_row_says_what_it_would_take(tmp_path):
    right = {"grpo": [1, 1, 1], "saei": [2, 3, 4]}  # 0.1 0.2 0.3: sd 0.1, p 0.0742
    row = next(row for row in contrasts.compared(sweep(tmp_path, right=right)).itertuples() if row.primary)
    # 80 % power: 3.26 sd at 3 seeds (TTestPower); an effect of 2 sd is found with 5 seeds
    mde = 100 * 0.1 * TTestPower().solve_power(nobs=3, alpha=0.05, power=0.8)
    needed = int(np.ceil(TTestPower().solve_power(effect_size=2.0, alpha=0.05, power=0.8)))
    assert tables.verdict_sentence(row) == (
        "saei minus grpo: +20.0 points; 95 % interval −4.8 to +44.8; not distinguishable; "
        f"3 seeds find {mde:.1f} points with 80 % power; a difference of the size seen would take about {needed} seeds."
    )


@pytest.mark.parametrize("effect", [0.05, 0.4, 1.0, 2.0, 9.0])
def test_the_seeds_needed_are_statsmodels(effect):
    oracle = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert stats.seeds_needed(effect, 1.0) == max(3, np.ceil(oracle))
    assert stats.seeds_needed(-effect, 1.0) == stats.seeds_needed(effect, 1.0)


def test_scores_that_differ_by_the_order_of_a_sum_do_not_differ():
    assert 0.1 + 0.2 - 0.3 > 0
    assert stats.p_value([0.1 + 0.2 - 0.3, 0.0, 1e-17, 5e-17]) == 1.0
    assert stats.p_value([0.01, 0.01, 0.01]) == 0.0


@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_holm_is_statsmodels(count):
    p = np.random.default_rng(count).random(count) ** 3
    assert stats.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert stats.holm([]) == []


def test_a_checkpoint_pair_has_a_row_a_seed_and_says_that_it_is_no_verdict(tmp_path):
    sizes = {"arms": {"grpo": 0.1, "saei": 0.3}, "seeds": 2, "steps": 2, "problems": 24, "samples": 4}
    write_sweep(tmp_path, leave_out=[("saei", 1)], **sizes)
    frame = tables.checkpoint_pairs(load.load_sweep(tmp_path))
    assert list(frame["seed"]) == [0] and list(frame["problems"]) == [24] and list(frame["figures"]) == [24]
    page = Table(frame).to_html()
    for text in ("saei minus grpo, seed by seed", "These two checkpoints, not the methods", "never feeds a verdict"):
        assert text in page
    assert "−" in frame["95 % interval"][0] or "+" in frame["95 % interval"][0]


def test_no_pair_of_checkpoints_is_a_sentence(tmp_path):
    assert list(tables.checkpoint_pairs(load.load_sweep(tmp_path))) == ["checkpoints"]
    write_sweep(tmp_path, leave_out=[("SaEI", seed) for seed in range(3)])
    frame = tables.checkpoint_pairs(load.load_sweep(tmp_path))
    assert frame["checkpoints"][0].startswith("none yet")


def test_an_arm_is_no_pair_with_itself(tmp_path):
    folder = write_sweep(tmp_path, seeds=1, steps=2, problems=2)
    plan = json.loads((folder / schema.PLAN_FILE).read_text())
    (folder / schema.PLAN_FILE).write_text(
        json.dumps({**plan, "primary_contrast": ["GRPO", "GRPO"], "baseline": "GRPO"})
    )
    data = load.load_sweep(tmp_path)
    # the pair of the plan is skipped, and that of the baseline taken
    assert "SaEI minus GRPO" in Table(tables.checkpoint_pairs(data)).to_html()


def test_from_ten_seeds_on_the_bootstraps_stand_beside_with_their_simulated_coverage(tmp_path):
    right = {"grpo": [10] * 10, "saei": [14, 15, 13, 16, 14, 15, 12, 17, 14, 0]}
    data = sweep(tmp_path, right=right, seeds=10, problems=5, samples=4)
    (row,) = tables.robust_table(data).to_dict("records")
    # mean of 4 5 3 6 4 5 2 7 4 -10 is 3 of 20; without two at either end 4 5 3 4 5 4 is 25 / 6 of 20
    assert (row["mean (points)"], row["IQM (points)"]) == ("+15.0", "+20.8")
    for column, check in (
        ("t interval", coverage.METHOD),
        ("bootstrap of the mean", coverage.MEAN_BOOTSTRAP),
        ("bootstrap of the IQM", coverage.IQM_BOOTSTRAP),
    ):
        share = coverage.rates(check, "measured")[10].share
        assert row[column].endswith(f"(covers {100 * share:.1f} %)")
    few = tables.robust_table(sweep(tmp_path / "few"))
    assert few.iloc[0, 0] == "from 10 paired seeds on; the most so far: 3"


def test_a_caption_is_shown_and_escaped_and_reaches_the_page(tmp_path):
    data = sweep(tmp_path)
    assert "The methods. Unit: the training seed" in str(fragments.table(tables.verdicts(data)))
    shown = Table(tables.verdicts(data)).to_html()
    assert "<caption>The methods. Unit: the training seed" in shown
    assert "The methods. Unit: the training seed" in fragments.clean(shown)
    hostile = Table(captioned(tables.verdicts(data), "<script>")).to_html()
    assert "<script>" not in hostile and "&lt;script&gt;" in hostile
    assert "Estimates, without verdicts" in Table(tables.side_figures(data)).to_html()


def test_a_tenth_of_the_steps_is_never_more_than_a_tenth(tmp_path):
    write_sweep(tmp_path, arms={"GRPO": 0.1}, seeds=1, steps=25, problems=2)
    data = load.load_sweep(tmp_path)
    steps = data.table("steps").set_index("step")["entropy"]
    assert tables.last_steps(data)["entropy (nats)"][0] == f"{steps.loc[[23, 24]].mean():.4g}"  # 2 of 25


def test_arms_that_a_search_gave_up_have_no_row(tmp_path):
    folder = write_sweep(tmp_path, arms=dict.fromkeys(("a", "b", "c"), 0.1), seeds=3, steps=2, problems=2)
    path = folder / schema.PLAN_FILE
    plan = json.loads(path.read_text())
    for entry in plan["trials"]:
        entry["pruned"] = entry["trial_id"] == fake_id("c", 1)
    path.write_text(json.dumps(plan))
    data = load.load_sweep(tmp_path)
    assert contrasts.pairs(data) == [("a", ""), ("b", "a")]
    assert list(tables.summary_table(data)["arm"]) == ["a", "b"]


def test_what_a_row_of_the_family_would_take_reckons_with_the_size_of_the_family(tmp_path):
    right = {"a": [1, 1, 1], "b": [2, 3, 4], "c": [2, 3, 4], "d": [0, 3, 4]}
    data = sweep(tmp_path, arms=dict.fromkeys(right, 0.1), right=right)
    rows = contrasts.compared(data).set_index("arm")
    # b and c are both 0.1 0.2 0.3: b is the primary contrast at 5 %, c one of two at 2.5 %
    for arm, alpha in (("b", 0.05), ("c", 0.025)):
        oracle = TTestPower()
        # of the upper tail alone: in the lower one, which is empty here, statsmodels' power is NaN
        found = oracle.power(rows.loc[arm, "mde"] / 0.1, 3, alpha / 2, alternative="larger")
        assert found == pytest.approx(0.8, abs=1e-4)
        needed = np.ceil(oracle.solve_power(effect_size=2.0, alpha=alpha, power=0.8))
        assert rows.loc[arm, "seeds_needed"] == needed
    # p = 0.0742 and 1 - t / sqrt(t^2 + 2) with t = 1.1094 for -0.1 0.2 0.3: the smaller one twice
    assert rows.loc["b", "p_judged"] == pytest.approx(0.0742, abs=5e-5)
    assert rows.loc["c", "p_judged"] == pytest.approx(2 * 0.0742, abs=1e-4)
    assert rows.loc["d", "p_judged"] == pytest.approx(0.3828, abs=5e-4)


def test_a_verdict_before_all_planned_seeds_have_finished_says_so_and_reckons_with_every_planned_arm(tmp_path):
    # b and c: 0.4 0.5 0.4 more on three of four seeds, d has nothing yet
    right = {name: [1, 1, 1, 1] for name in "abcd"} | {"b": [5, 6, 5, 1], "c": [5, 6, 5, 1]}
    late = [("b", 3), ("c", 3), *(("d", seed) for seed in range(4))]
    data = sweep(tmp_path, arms=dict.fromkeys(right, 0.1), right=right, seeds=4, leave_out=late)
    rows = contrasts.compared(data).set_index("arm")
    assert rows.loc["b", "words"] == "better (so far, 3 of 4 seeds)"
    # 0.4 0.5 0.4: p = 1 - t / sqrt(t^2 + 2) with t = 13, 0.00586; c is one of two in the family, with d
    assert rows.loc["b", "p_judged"] == pytest.approx(0.00586, abs=1e-5)
    assert rows.loc["c", "p_judged"] == pytest.approx(2 * 0.00586, abs=2e-5)
    assert rows.loc["d", "words"] == verdicts.NO_PAIR and np.isnan(rows.loc["d", "p_judged"])


def test_arms_with_the_same_scores_are_named_as_one_finding(tmp_path):
    folder = write_sweep(tmp_path, arms={"grpo": 0.1, "saei": 0.3, "step_zero": 0.1}, seeds=3, steps=2, problems=4)
    for seed in range(3):
        twin = folder / fake_id("step_zero", seed) / "eval"
        shutil.rmtree(twin)
        shutil.copytree(folder / fake_id("grpo", seed) / "eval", twin)
    told = contrasts.same_scores(load.load_sweep(tmp_path))
    assert told == "Same scores on every seed, which counts as one finding: grpo and step_zero."
