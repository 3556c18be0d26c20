from dataclasses import replace

import pytest

from saei.config import Config
from sweeps.causes import READ_ONLY
from sweeps.outcome import Kind, Outcome
from sweeps.retry import POLICIES, Retries, by_cause
from sweeps.trial import Trial

TRIALS = [Trial(trial_id=f"t{n}", arm="grpo", seed=n, config=Config()) for n in range(6)]
DIVIDED = Outcome(kind=Kind.FAILED, sentence="ZeroDivisionError: division by zero", error="ZeroDivisionError: x")
OTHER = replace(DIVIDED, error="KeyError: N")
FINISHED = Outcome(kind=Kind.FINISHED)


def end(retries, *outcomes):
    """One trial after another ends as told."""
    for trial, outcome in zip(TRIALS, outcomes, strict=False):
        retries.again(trial, outcome)
    return retries.stop()


def test_a_failure_is_tried_again_as_often_as_asked():
    retries = Retries(retry_failed=2)
    assert [retries.again(TRIALS[0], DIVIDED) for _ in range(4)] == [True, True, False, False]
    assert retries.again(TRIALS[1], DIVIDED)  # each trial has its own tries
    assert not Retries(retry_failed=0).again(TRIALS[0], DIVIDED)


def test_what_was_stopped_from_outside_is_tried_again_without_counting():
    retries = Retries(retry_failed=1)
    for kind in (Kind.PREEMPTED, Kind.TIMED_OUT, Kind.NODE_FAILED, Kind.INTERRUPTED, Kind.BUSY):
        assert retries.again(TRIALS[0], Outcome(kind=kind))
    assert retries.again(TRIALS[0], DIVIDED) and not retries.again(TRIALS[0], DIVIDED)


@pytest.mark.parametrize("kind", [Kind.FINISHED, Kind.OUT_OF_MEMORY, Kind.DISK_FULL, Kind.CANCELLED])
def test_what_would_end_the_same_or_is_not_wanted_is_not_tried_again(kind):
    assert not Retries(retry_failed=9).again(TRIALS[0], Outcome(kind=kind, error="x"))


def test_bad_settings_are_not_tried_again():
    for error in ("BadInput: model.device is cuda", READ_ONLY):
        assert not Retries(retry_failed=9).again(TRIALS[0], replace(DIVIDED, error=error))


def test_every_kind_has_a_policy():
    assert set(POLICIES) == set(Kind)


def test_the_same_first_error_in_three_trials_stops_the_sweep():
    assert end(Retries(0), DIVIDED, DIVIDED) is None
    stop = end(Retries(0), DIVIDED, replace(DIVIDED, sentence="another wording"), DIVIDED)
    assert stop is not None and stop.kind == Kind.FAILED
    assert stop.sentence.startswith("the first 3 trials failed of the same cause") and "division by" in stop.sentence


def test_different_errors_or_one_success_do_not_stop_it():
    assert end(Retries(0), DIVIDED, OTHER, DIVIDED, DIVIDED, DIVIDED) is None
    assert end(Retries(0), DIVIDED, FINISHED, DIVIDED, DIVIDED, DIVIDED) is None
    # one trial that fails again and again is one trial
    retries = Retries(9)
    for _ in range(5):
        retries.again(TRIALS[0], DIVIDED)
    assert retries.stop() is None


def test_with_retries_the_first_errors_count():
    assert end(Retries(5), DIVIDED, DIVIDED, DIVIDED) is not None


def test_interruptions_and_cancellations_stop_nothing():
    for kind in (Kind.PREEMPTED, Kind.CANCELLED, Kind.BUSY):
        assert end(Retries(0), *[Outcome(kind=kind, error="same")] * 5) is None


def test_running_out_of_memory_stops_with_its_own_words():
    full = Outcome(kind=Kind.OUT_OF_MEMORY, sentence="out of memory: x", cure="lower optim.pack_tokens", error="oom")
    stop = end(Retries(0), full, full, full)
    assert stop is not None and stop.kind == Kind.OUT_OF_MEMORY and stop.cure == "lower optim.pack_tokens"


def test_a_disk_that_became_full_stops_a_sweep_that_had_gone_well():
    full = Outcome(kind=Kind.DISK_FULL, sentence="the disk is full", error="disk full")
    assert end(Retries(0), FINISHED, full, full, FINISHED, full) is None
    stop = end(Retries(0), FINISHED, FINISHED, full, full, full)
    assert stop is not None and "the last 3 trials found the disk full" in stop.sentence


def test_each_distinct_failure_is_told_once_with_its_trials():
    failed = {"t0": OTHER, "t1": DIVIDED, "t3": replace(DIVIDED, sentence="another wording")}
    groups = by_cause(failed, TRIALS)
    assert [(outcome.error, [trial.trial_id for trial in trials]) for outcome, trials in groups] == [
        ("ZeroDivisionError: x", ["t1", "t3"]),
        ("KeyError: N", ["t0"]),
    ]
