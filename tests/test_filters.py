"""Which groups are trained on, what fills their places, and the penalty on long completions."""

import pytest

from saei.filters import GROUP_FILTERS
from saei.overlong import overlong_penalty
from saei.refill import refill_indices


@pytest.mark.parametrize(
    ("accuracies", "rewards", "passing"),
    [
        ((1, 1, 1), (1.0, 1.0, 1.0), {"none"}),
        ((0, 0, 0), (0.0, 0.0, 0.0), {"none"}),
        ((0, 0, 0), (0.1, 0.0, 0.1), {"none", "mixed_reward"}),  # format only: DAPO drops it
        ((1, 1, 1), (1.0, 0.9, 1.0), {"none", "mixed_reward"}),
        ((1, 0, 0), (1.0, 0.1, 0.1), {"none", "mixed_accuracy", "mixed_reward"}),
        ((1, 0), (0.5, 0.5), {"none", "mixed_accuracy"}),  # a penalty ate the difference: no advantage, yet mixed
    ],
)
def test_a_group_passes_the_filters_that_it_should(accuracies, rewards, passing):
    accuracies = [float(value) for value in accuracies]
    assert {name for name, passes in GROUP_FILTERS.items() if passes(accuracies, rewards)} == passing


def test_refills_are_new_to_the_step_and_stand_once():
    used = {0, 3, 5}
    for batch in (1, 2, 3):
        extra = refill_indices(0, 4, batch, per_step=4, size=20, used=used)
        assert len(set(extra)) == 4 and not used & set(extra) and set(extra) <= set(range(20))
        used |= set(extra)


def test_refills_are_a_function_of_their_arguments():
    first = refill_indices(0, 4, 1, 4, 1000, [7, 1])
    assert first == refill_indices(0, 4, 1, 4, 1000, {1, 7})
    others = [refill_indices(1, 4, 1, 4, 1000, [7, 1]), refill_indices(0, 5, 1, 4, 1000, [7, 1]),
              refill_indices(0, 4, 2, 4, 1000, [7, 1])]  # fmt: skip
    assert all(first != other for other in others)


def test_a_used_problem_gives_its_place_to_the_next_and_moves_no_other():
    first = refill_indices(0, 4, 1, 4, 1000, [])
    assert refill_indices(0, 4, 1, 4, 1000, [first[1]])[:3] == [first[0], first[2], first[3]]


def test_an_exhausted_split_gives_what_it_has():
    assert sorted(refill_indices(0, 0, 1, 4, 5, [0, 1, 2])) == [3, 4]
    assert refill_indices(0, 0, 2, 4, 5, range(5)) == []


@pytest.mark.parametrize(
    ("tokens", "expected"),
    # DAPO's 20480 and 4096: nothing up to 16384, then linear; 18432 is half way
    [(1, 0.0), (16384, 0.0), (17408, 0.25), (18432, 0.5), (20480, 1.0)],
)
def test_the_overlong_penalty_grows_over_the_buffer(tokens, expected):
    assert overlong_penalty(tokens, max_new_tokens=20480, buffer=4096, penalty=1.0) == expected


def test_the_overlong_penalty_scales_and_is_off_without_a_buffer():
    assert overlong_penalty(63, max_new_tokens=64, buffer=8, penalty=0.4) == pytest.approx(0.35)  # 7 / 8 of .4
    assert overlong_penalty(64, max_new_tokens=64, buffer=0, penalty=0.4) == 0.0
