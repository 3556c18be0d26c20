"""The order in which trials start on this machine. Figures in comments are worked out by hand."""

from dataclasses import replace

from saei.presets import preset
from sweeps.definition import load_sweep, select_arms
from sweeps.plan import make_trials
from sweeps.source import Listed
from sweeps.turns import in_turn, passes


def demo(tmp_path):
    sweep = load_sweep("tsec_ratio")
    return make_trials("tsec_ratio", sweep, select_arms(sweep, (), demo=True), range(2), {"steps": 60}, tmp_path)


def makespan(trials, workers):
    """When the last of so many workers ends, each trial taking as long as its steps do."""
    ends = [0] * workers
    for trial in trials:
        first = ends.index(min(ends))
        ends[first] += passes(trial.config) // trial.config.rollout.problems_per_step
    return max(ends)


def test_a_step_of_saei_does_two_fifths_more_than_one_of_grpo():
    # 12 completions sampled, scored and trained on, 1 + 1 + 3 each: 60; the attack climbs and measures 6, 3 + 1: 24
    assert passes(preset("grpo")) == 8 * 60 and passes(preset("saei")) == 8 * 84
    two_iterations = replace(preset("saei"), view=replace(preset("saei").view, iterations=2, epsilon=8.0))
    assert passes(two_iterations) == 8 * 102
    assert passes(preset("papo")) > passes(preset("grpo")) == passes(preset("noisyrollout"))


def test_seeds_stay_together_and_the_long_trials_of_a_seed_come_first(tmp_path):
    order = [(trial.arm, trial.seed) for trial in in_turn(demo(tmp_path))]
    assert order == [(arm, seed) for seed in (0, 1) for arm in ("no_tsec", "middle_1_3", "random_third", "grpo")]


def test_the_demos_two_workers_end_together(tmp_path):
    trials = demo(tmp_path)
    # 2 x 60 + 6 x 84 = 624 on two workers
    assert makespan(in_turn(trials), 2) == 312 and makespan(trials, 2) == 336


def test_what_takes_as_long_starts_in_the_order_of_the_definition(tmp_path):
    sweep = load_sweep("tsec_ratio")
    arms = ["no_tsec", "middle_1_3", "high_third"]
    trials = make_trials("tsec_ratio", sweep, arms, range(2), {}, tmp_path)
    assert in_turn(trials) == trials


def test_a_list_is_given_in_turn_and_shown_in_its_own_order(tmp_path):
    trials = demo(tmp_path)
    source = Listed(trials, study=None, turns=in_turn(trials))  # the study is not asked for
    assert source.take(1)[0].arm == "no_tsec" and list(source.trials) == trials
    source.take(8)
    assert source.is_exhausted
