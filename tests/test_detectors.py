"""Each detector on a series that makes it fire at a known step, and on a near miss."""

import math

import pytest

from saei.alarms import Alarm, episodes
from saei.detectors import DETECTORS, detect

HEALTHY = {
    "entropy": 0.20,
    "grad_norm": 0.5,
    "loss": -0.01,
    "reward": 0.6,
    "reward_accuracy": 0.5,
    "zero_signal_share": 0.4,
    "completion_length": 25.0,
    "truncated_share": 0.0,
    "skipped_updates": 0,
    "control_coef": 0.0,
    "attack_linf": math.nan,
    "attack_unmatched_share": math.nan,
}


def run(length=40, **series):
    """Rows of `steps`: healthy, but for columns given as {from this step on: value}."""
    rows = [{"step": step, **HEALTHY} for step in range(length)]
    for name, changes in series.items():
        for first, value in changes.items():
            for row in rows[first:]:
                row[name] = value
    return rows


def moved_views(length=40, clean=None, moved=None):
    """Rows of `views`: a clean and a moved one, each {column: {from this step on: value}}."""
    rows = []
    for view, series in (("clean", clean or {}), ("egas", moved or {})):
        for step in range(length):
            row = {"step": step, "view": view, "completions": 48, "reward_accuracy": 0.5, "entropy_sampled_image": 0.2}
            for name, changes in series.items():
                row[name] = [value for first, value in changes.items() if first <= step][-1]
            rows.append(row)
    return rows


FIRING = {
    # 0.3 x 0.20 = 0.06; ten steps below it are complete at step 20 + 9
    "entropy_collapse": ({"entropy": {20: 0.059}}, {"entropy": {20: 0.061}}, 29, "control.coef"),
    # the limit is the higher of 3 x 0.20 and 0.20 + 0.3
    "entropy_explosion": ({"entropy": {20: 0.61}}, {"entropy": {20: 0.59}}, 29, "optim.lr"),
    # 20 x 0.5 = 10, above the median of the steps before
    "loss_spike": ({"grad_norm": {20: 10.1, 21: 0.5}}, {"grad_norm": {20: 9.9, 21: 0.5}}, 20, "optim.lr"),
    # means of ten: 0.4 + 0.6 k / 10 reaches 0.8 with k = 7 silent steps, and stays under it with six and a rest of 0.4
    "zero_signal": ({"zero_signal_share": {20: 1.0}}, {"zero_signal_share": {20: 1.0, 26: 0.4}}, 26, "filter.rule"),
    # the mean of ten reaches 2 x 25 when all ten are 50 long
    "length_runaway": (
        {"completion_length": {20: 50.0}},
        {"completion_length": {20: 49.0}},
        29,
        "reward.overlong_buffer",
    ),
    # format from 0 to 1 at weight 0.1; the mean of ten is 0.03 up with 3 of the ten at + 0.102
    "format_only": (
        {"reward": {0: 0.45, 20: 0.552}},
        {"reward": {0: 0.45, 20: 0.552}, "reward_accuracy": {20: 0.6}},
        22,
        "reward.format_weight",
    ),
    "skipped_updates": ({"skipped_updates": {7: 1, 8: 0}}, {"skipped_updates": {7: 0}}, 7, "optim.lr"),
    "unmatched_control": (
        {"attack_unmatched_share": {3: 0.125}},
        {"attack_unmatched_share": {3: 0.0}},
        3,
        "view.step_size",
    ),
    "score_degenerate": ({"score_degenerate_share": {0: 0.5}}, {"score_degenerate_share": {0: 0.0}}, 0, "score.view"),
}


@pytest.mark.parametrize("name", FIRING)
def test_a_detector_fires_at_the_step_where_its_sign_is_complete_and_not_on_a_near_miss(name):
    ill, near, step, setting = FIRING[name]
    (alarm,) = detect(run(**ill), [], [])
    assert (alarm.detector, alarm.step, alarm.setting) == (name, step, setting)
    assert f"step {step}: " in alarm.sentence and setting in alarm.sentence
    assert detect(run(**near), [], []) == []


def test_every_detector_has_a_series_that_makes_it_fire():
    assert DETECTORS.keys() == FIRING.keys() | {"attack_too_strong"}


def test_a_loss_far_beyond_what_was_usual_is_a_spike_even_with_a_calm_gradient():
    # usual 0.01, but under 0.5 nothing is a spike
    (alarm,) = detect(run(loss={15: -0.6, 16: -0.01}), [], [])
    assert alarm == Alarm(
        detector="loss_spike",
        step=15,
        sentence="step 15: a spike, loss 0.6 (usual 0.01); look at optim.lr",
        setting="optim.lr",
    )
    assert detect(run(loss={15: -0.4, 16: -0.01}), [], []) == []


def test_cut_completions_are_a_runaway_before_the_mean_length_shows_it():
    # 0.3 above the start: 3 of 10 steps at 1.0
    (alarm,) = detect(run(truncated_share={20: 1.0}), [], [])
    assert (alarm.detector, alarm.step) == ("length_runaway", 22)


def test_collapse_in_spite_of_an_attack_points_at_the_attack():
    (alarm,) = detect(run(entropy={20: 0.01}), moved_views(), [])
    assert (alarm.detector, alarm.step, alarm.setting) == ("entropy_collapse", 29, "view.step_size")
    assert "mean 0.01 of 0.2 nats" in alarm.sentence


def test_an_explosion_under_an_entropy_control_points_at_the_control():
    (alarm,) = detect(run(entropy={20: 2.0}, control_coef={0: 0.01}), moved_views(), [])
    assert (alarm.detector, alarm.setting) == ("entropy_explosion", "control.coef")


def test_a_dip_that_recovers_is_no_collapse():
    assert detect(run(entropy={20: 0.01, 29: 0.2}), [], []) == []


FALLEN = {"reward_accuracy": {0: 0.5, 20: 0.19}}
RISEN = {"entropy_sampled_image": {0: 0.2, 20: 0.4}}


def test_clean_accuracy_that_falls_while_moved_entropy_rises_means_too_strong_an_attack():
    # means of ten, k steps after 19: accuracy 0.5 - 0.031 k is 0.15 lower at k = 5; entropy 0.2 + 0.02 k is past 0.22
    (alarm,) = detect(run(attack_linf={0: 4 / 255}), moved_views(clean=FALLEN, moved=RISEN), [])
    assert (alarm.detector, alarm.step, alarm.setting) == ("attack_too_strong", 24, "view.step_size")
    assert alarm.sentence == (
        "step 24: clean accuracy fell from 0.500 (step 9) to 0.345 while the moved view's entropy rose from 0.2 to "
        "0.3 nats; look at view.step_size, which moves pixels by 4 levels"
    )


@pytest.mark.parametrize(
    ("clean", "moved"),
    [
        (FALLEN, {}),  # accuracy falls, entropy stays
        ({}, RISEN),  # what the attack is for
        ({"reward_accuracy": {0: 0.5, 20: 0.36}}, RISEN),  # 0.14 is within what ten steps vary by
        (FALLEN, {"entropy_sampled_image": {0: 0.2, 20: 0.21}}),
    ],
)
def test_either_sign_alone_is_not_too_strong_an_attack(clean, moved):
    assert detect(run(), moved_views(clean=clean, moved=moved), []) == []


def evaluations(*accuracies, decoding="sampled"):
    return [
        {"step": 10 * i, "split": "validation", "decoding": decoding, "accuracy": accuracy}
        for i, accuracy in enumerate(accuracies)
    ]


def test_falling_clean_evaluations_show_too_strong_an_attack_earlier_than_training_does():
    (alarm,) = detect(run(), moved_views(moved=RISEN), evaluations(0.55, 0.6, 0.6, 0.54))
    assert (alarm.detector, alarm.step) == ("attack_too_strong", 29)  # the last step before the evaluation
    assert "accuracy on validation fell from 0.600 (after 10 steps) to 0.540" in alarm.sentence
    assert detect(run(), moved_views(moved=RISEN), evaluations(0.55, 0.6, 0.6, 0.56)) == []
    assert detect(run(), moved_views(moved=RISEN), evaluations(0.6, 0.6, 0.6, 0.5, decoding="greedy")) == []


def test_far_moved_images_that_are_no_longer_answered_show_too_strong_an_attack():
    unread = moved_views(moved={"reward_accuracy": {0: 0.2}})
    (alarm,) = detect(run(attack_linf={0: 8 / 255}), unread, [])
    assert (alarm.detector, alarm.step) == ("attack_too_strong", 9)
    assert "accuracy on moved images is 0.200, on clean ones 0.500" in alarm.sentence
    assert detect(run(attack_linf={0: 7 / 255}), unread, []) == []
    assert detect(run(attack_linf={0: 8 / 255}), moved_views(moved={"reward_accuracy": {0: 0.26}}), []) == []


def test_a_detector_fires_once_an_episode_and_again_after_ten_quiet_rows():
    assert episodes([False, True, True, False, True] + [False] * 9 + [True]) == [1]
    assert episodes([True] + [False] * 10 + [True]) == [0, 11]
    rows = run(60, skipped_updates={5: 1, 10: 0, 30: 2, 31: 0})
    assert [(a.step, a.detector) for a in detect(rows, [], [])] == [(5, "skipped_updates"), (30, "skipped_updates")]


def test_an_alarm_does_not_change_when_later_rows_arrive():
    rows = run(entropy={10: 0.01, 30: 3.0}, grad_norm={22: 50.0, 23: 0.5}, zero_signal_share={12: 1.0})
    views = moved_views(clean=FALLEN, moved=RISEN)
    everything = detect(rows, views, [])
    assert len(everything) == 5
    for length in range(40):
        before = detect(rows[:length], [row for row in views if row["step"] < length], [])
        assert before == [alarm for alarm in everything if alarm.step < length]


def test_a_short_run_however_wild_fires_no_detector_of_means():
    wild = run(9, entropy={0: 0.2, 2: 5.0}, zero_signal_share={0: 1.0}, completion_length={3: 999.0}, reward={5: 9.0})
    assert detect(wild, moved_views(9, clean={"reward_accuracy": {0: 0.9, 4: 0.0}}, moved=RISEN), []) == []
    assert detect([], [], []) == []


def test_missing_columns_and_values_that_are_not_finite_are_left_out():
    assert detect([{"step": step, "entropy": None} for step in range(40)], [], []) == []
    assert detect(run(**{name: {0: math.nan} for name in HEALTHY}), moved_views(), []) == []
    assert detect(run(entropy={20: math.nan}), [], []) == []
    # of the ten last values five are known, and below the limit: with four known ones nothing fires
    rows = run(entropy={20: 0.01})
    for row in rows[20::2]:
        row["entropy"] = math.nan
    assert [alarm.step for alarm in detect(rows, [], [])] == [29]
    for row in rows[21::4]:
        row["entropy"] = math.nan
    assert detect(rows, [], []) == []


def test_rows_may_come_in_any_order():
    rows = run(entropy={20: 0.01})
    assert detect(rows[::-1], [], []) == detect(rows, [], [])
