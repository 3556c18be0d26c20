import math

import numpy as np
import pytest

from analysis import stats
from analysis.bootstrap import interquartile_mean, seed_bootstrap
from analysis.checkpoint_pair import greedy_pair, sampled_pair
from analysis.simulation import (
    Rate,
    Variances,
    coverage_of_bootstrap,
    coverage_of_method,
    coverage_of_pair,
    false_winners,
    share_of_verdict,
    shift_for,
    true_difference,
)

# seeds are fixed: these cannot flicker. `python -m analysis.simulation` runs 1,000 to 2,000 sweeps of each.


def test_the_interval_over_five_seeds_holds_the_truth_about_95_times_in_100():
    assert 0.92 <= coverage_of_method(5, 200).share <= 0.98


def test_equal_methods_are_rarely_called_better_and_five_points_are_found():
    assert share_of_verdict(stats.BETTER, 5, 150, 0.0).share <= 0.05
    assert false_winners(8, 5, 60).share <= 0.1  # 5 % nominal, 60 sweeps
    assert share_of_verdict(stats.BETTER, 10, 60, 5.0).share >= 0.8


def test_a_simulation_with_runs_that_differ_twice_as_much_needs_more_seeds_for_two_points():
    calm, wild = Variances(run=0.09), Variances(run=0.25)
    rates = [share_of_verdict(stats.BETTER, 5, 60, 2.0, variances).share for variances in (calm, wild)]
    assert rates[0] > rates[1] + 0.1


def test_the_bootstrap_over_ten_seeds_covers_less_than_it_says():
    assert coverage_of_bootstrap(10, 200)["mean"].share < 0.94


def test_problems_that_share_a_figure_are_one_cluster():
    told, ignored = coverage_of_pair(100, 4)
    assert told.share >= 0.9 > ignored.share


def test_a_shift_in_logits_is_the_points_that_it_says():
    assert 100 * true_difference(Variances(), shift_for(5.0, Variances())) == pytest.approx(5.0, abs=0.01)
    assert true_difference(Variances(), 0.0) == 0.0


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
