import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, bootstrap

from analysis import coverage, load, simulation, stats, verdicts
from analysis.bootstrap import interquartile_mean, seed_bootstrap
from analysis.checkpoint_pair import greedy_pair, sampled_pair
from analysis.coverage import Rate
from analysis.made_up import made_up_scores, shift_for, true_difference
from analysis.simulation import CHECKS, rate
from analysis.variances import HARSH, MEASURED, VARIANCES, difference_sd, measured
from tests.fake_results import write_sweep

ROOT = Path(__file__).resolve().parent.parent

# seeds are fixed: these cannot flicker. `python -m analysis.simulation` draws 1,000 to 2,000 sweeps of each.
BY_NAME = {check.name: check for check in CHECKS}


def test_the_committed_rates_are_those_that_the_code_gives():
    """Each is simulated again, with other random numbers, 100 times: the two agree within binomial error."""
    rows = coverage.document()["rows"]
    assert len(rows) == len(VARIANCES) * sum(len(check.seeds) for check in CHECKS)
    for row in rows:
        check = BY_NAME[row["check"]]
        assert (row["points"], row["tries"]) == (check.points, check.tries)
        again = rate(check, VARIANCES[row["variances"]], row["seeds"], 100, stream=1)
        assert binomtest(again.hits, again.tries, row["hits"] / row["tries"]).pvalue > 0.0005, (row, again)


def test_the_committed_rates_name_the_variances_in_the_code():
    found = coverage.document()["variances"]
    assert found.keys() == VARIANCES.keys()
    for name, v in VARIANCES.items():
        assert found[name]["run"] == v.run and found[name]["problems"] == v.problems
        assert found[name]["difference_sd_points"] == pytest.approx(100 * difference_sd(v), abs=1e-3)


@pytest.mark.parametrize("name", VARIANCES)
def test_the_committed_rates_are_what_we_promise(name):
    for seeds, found in coverage.rates(coverage.METHOD, name).items():
        assert 0.93 <= found.share <= 0.97 and found.tries >= 2000, seeds
    for seeds, found in coverage.rates(coverage.NULL, name).items():
        assert found.share <= 0.05 and found.tries >= 1000, seeds
    for seeds, found in coverage.rates(coverage.NULL_OF_EIGHT, name).items():
        # 2.5 % of the primary contrast and 2.5 % of the family: at most 5 % in truth, so not above it beyond chance
        assert binomtest(found.hits, found.tries, 0.05, "greater").pvalue > 0.01, seeds
    assert coverage.rates(coverage.PLANTED, name)[10].share >= 0.8
    # what we warn of
    assert coverage.rates(coverage.PEEKED, name)[10].share > coverage.rates(coverage.NULL, name)[10].share + 0.01
    assert coverage.rates(coverage.MEAN_BOOTSTRAP, name)[3].share < 0.8
    assert coverage.rates(coverage.ITEMS_ALONE, name)[1].share < coverage.rates(coverage.ITEMS, name)[1].share - 0.05


def test_the_shortcut_of_the_simulation_gives_the_words_of_the_verdict_table():
    generator = np.random.default_rng(0)
    names = ["baseline", *(f"arm {number}" for number in range(8))]
    words = set()
    for _ in range(8):
        scores = made_up_scores(generator, HARSH, 8, 5, shift_for(6.0, HARSH))
        rows = [
            {"arm": name, "seed": seed, "accuracy": value, "item_set": 0}
            for name, values in zip(names, scores, strict=True)
            for seed, value in enumerate(values)
        ]
        table = stats.compare_arms(pd.DataFrame(rows), arms=names, baseline="baseline", primary="arm 0")
        assert table["verdict"][1] == simulation.judged((scores[1] - scores[0]).tolist())
        words |= set(table["verdict"])
    assert words == {"baseline", verdicts.BETTER, verdicts.SAME}


def test_the_simulation_writes_its_settings_its_variances_and_every_rate(tmp_path, monkeypatch, capsys):
    few = tuple(check for check in CHECKS if check.name in (coverage.NULL, coverage.ITEMS))
    few = tuple(simulation.Check(name=check.name, hit=check.hit, seeds=check.seeds, tries=20) for check in few)
    monkeypatch.setattr(simulation, "CHECKS", few)
    path = tmp_path / "coverage.json"
    assert simulation.main(["--out", str(path)]) == 0
    found = json.loads(path.read_text())
    assert found["command"] == coverage.document()["command"]
    assert found["settings"] == coverage.document()["settings"]
    assert [row["seeds"] for row in found["rows"]] == [3, 5, 10, 1] * 2
    assert "sd of a per-seed difference: 1.57 points" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_a_simulation_with_runs_that_differ_more_needs_more_seeds_for_two_points():
    def found(v, seeds):
        check = simulation.Check(name="two points", hit=simulation.called_better, seeds=(seeds,), points=2.0)
        return rate(check, v, seeds, 100).share

    assert found(MEASURED, 5) > found(HARSH, 5) + 0.1
    assert found(HARSH, 20) > found(HARSH, 5) + 0.1


def test_what_is_quoted_for_other_numbers_of_seeds_is_never_above_what_was_simulated():
    at, found = coverage.nearest(coverage.IQM_BOOTSTRAP, 14)
    assert at == 10 and found == coverage.rates(coverage.IQM_BOOTSTRAP, "measured")[10]
    assert coverage.coverage_text(coverage.METHOD, 12).endswith(" % at 10 seeds")
    assert coverage.coverage_text(coverage.METHOD, 10).endswith(" %")
    with pytest.raises(ValueError, match="from 3 seeds on, not for 2"):
        coverage.nearest(coverage.METHOD, 2)


def test_a_made_up_difference_has_the_standard_deviation_that_is_stated():
    for v in (MEASURED, HARSH):
        baseline, arm = made_up_scores(np.random.default_rng(3), v, 1, 3000)
        # the sampling error of a standard deviation of 3,000 values is 1.3 %
        assert (arm - baseline).std() == pytest.approx(difference_sd(v), rel=0.05)


def test_a_shift_in_logits_is_the_points_that_it_says():
    for v in (MEASURED, HARSH):
        assert 100 * true_difference(v, shift_for(5.0, v)) == pytest.approx(5.0, abs=1e-6)
        assert true_difference(v, 0.0) == 0.0
    baseline, arm = made_up_scores(np.random.default_rng(4), MEASURED, 1, 3000, shift_for(5.0, MEASURED))
    # one draw of 128 problems: their gains differ, so a tenth of a logit's points is near enough
    assert 100 * (arm - baseline).mean() == pytest.approx(5.0, abs=0.5)


def test_the_variances_of_a_made_up_sweep_are_found_again(tmp_path):
    """Fake runs draw every completion with one probability, the same for all problems: no spread but the drawing."""
    arms = {f"arm {number}": 0.2 for number in range(6)}
    write_sweep(tmp_path, arms=arms, seeds=4, steps=2, problems=60, samples=8)
    found = measured(load.load_sweep(tmp_path))
    assert found.mean == pytest.approx(math.log(0.6 / 0.4), abs=0.1) and found.problem < 0.35
    assert (found.problems, found.completions) == (60, 8)
    # sqrt(2 p (1 - p) / 480) = 3.2 points, of few runs
    assert difference_sd(found) == pytest.approx(0.0316, rel=0.3)


def test_nothing_can_be_measured_without_two_pairs(tmp_path):
    write_sweep(tmp_path, seeds=1, steps=2, problems=3)
    with pytest.raises(ValueError, match="no arm with two finished seeds"):
        measured(load.load_sweep(tmp_path))


def test_the_measured_variances_are_those_of_the_kept_sweep():
    found = measured(load.load_sweep(ROOT / "results/reference", "methods"))
    for name in ("mean", "problem", "seed", "run", "problems", "completions"):
        assert getattr(MEASURED, name) == pytest.approx(getattr(found, name), abs=6e-4), name


def test_a_rate_prints_its_exact_interval():
    # 1 - .025^(1/10) = .308
    assert " ".join(str(Rate(hits=0, tries=10)).split()) == "0.0 % (0.0 to 30.8; 10 sweeps)"


def test_mcnemar_counts_only_the_problems_on_which_they_differ():
    first = [True] * 5 + [True] * 6 + [False] * 1 + [False] * 8
    second = [True] * 5 + [False] * 6 + [True] * 1 + [False] * 8
    pair = greedy_pair(first, second)
    assert (pair.gained, pair.lost, pair.problems) == (6, 1, 20)
    assert pair.difference == pytest.approx(5 / 20)
    assert pair.p == pytest.approx(2 * (1 + 7) / 2**7)  # exact binomial: 2 P(X <= 1), X ~ B(7, 1/2) = 0.125


def test_with_one_problem_a_figure_the_clustered_interval_is_the_t_interval():
    values = np.array([0.1, 0.3, -0.2, 0.4, 0.0, 0.25, -0.05, 0.15, 0.35, -0.1, 0.2, 0.05])
    pair = sampled_pair((0.5 + values).tolist(), [0.5] * 12, range(12))
    known = stats.t_interval(values.tolist())
    assert (pair.difference, pair.low, pair.high) == pytest.approx((known.mean, known.low, known.high), rel=1e-6)


def test_problems_doubled_on_their_figures_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(0.05, 0.2, 40)
    single = sampled_pair((0.5 + values).tolist(), [0.5] * 40, range(40))
    doubled = sampled_pair((0.5 + np.repeat(values, 2)).tolist(), [0.5] * 80, np.repeat(range(40), 2).tolist())
    assert doubled.high - doubled.low == pytest.approx(single.high - single.low, rel=0.02)
    assert doubled.clusters == 40 and doubled.problems == 80


def test_few_figures_have_no_interval_and_equal_checkpoints_have_a_zero_one():
    assert math.isnan(sampled_pair([1.0] * 9, [0.5] * 9, range(9)).low)
    same = sampled_pair([0.5] * 12, [0.5] * 12, range(12))
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="the same problems, at least one: got 2 and 1"):
        greedy_pair([True, False], [True])


def test_the_interquartile_mean_ignores_a_run_that_diverged():
    # 12 values, 3 off each end: mean of 4..9 = 6.5, however bad the worst
    values = [-1000.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert interquartile_mean(values) == pytest.approx(6.5)


def test_the_bootstrap_is_refused_under_ten_seeds_and_repeats_itself():
    with pytest.raises(ValueError, match="at least 10 seeds, got 9"):
        seed_bootstrap([0.0] * 9)
    values = [0.1, 0.2, 0.15, 0.3, 0.25, 0.05, 0.1, 0.2, 0.22, 0.18]
    assert seed_bootstrap(values) == seed_bootstrap(values)
    assert seed_bootstrap(values).low < interquartile_mean(values) < seed_bootstrap(values).high


def test_the_bootstrap_interval_is_scipys():
    values = np.random.default_rng(6).normal(0.2, 0.08, 10).tolist()
    oracle = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(5))
    ours = seed_bootstrap(values, np.mean, resamples=20_000)
    # two bootstraps of 20,000 resamples: the ends agree to a few hundredths of the standard error of about 0.025
    assert (ours.low, ours.high) == pytest.approx(tuple(oracle.confidence_interval), abs=0.001)


def test_the_clustered_error_is_the_sandwich_by_hand():
    # figures a: +0.4 +0.2, b: -0.2, and ten of their own at 0: sums 0.6 and -0.2, mean 0.4 / 13
    differences = [0.4, 0.2, -0.2] + [0.0] * 10
    figures = ["a", "a", "b", *range(10)]
    pair = sampled_pair((0.5 + np.array(differences)).tolist(), [0.5] * 13, figures)
    mean = 0.4 / 13
    sums = [0.6 - 2 * mean, -0.2 - mean, *[-mean] * 10]
    # G / (G - 1) x the sum of squared cluster sums / n^2, t with 11 degrees of freedom
    error = math.sqrt(12 / 11 * sum(value**2 for value in sums)) / 13
    assert pair.clusters == 12 and pair.difference == pytest.approx(mean)
    assert (pair.high - pair.low) / 2 == pytest.approx(2.200985 * error, rel=1e-5)
