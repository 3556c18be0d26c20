import numpy as np
import pytest

from saei.order import problem_indices
from saei.seeding import stream, torch_generator, uniforms


def test_the_noise_of_a_completion_depends_on_its_key_alone():
    first = uniforms(0, "sampling", 3, "p7", 2, 40)
    assert np.array_equal(first, uniforms(0, "sampling", 3, "p7", 2, 40))
    # a longer draw starts with the shorter one: the position is the counter
    assert np.array_equal(first, uniforms(0, "sampling", 3, "p7", 2, 100)[:40])
    for other in [(1, "sampling", 3, "p7", 2), (0, "fresh", 3, "p7", 2), (0, "sampling", 4, "p7", 2),
                  (0, "sampling", 3, "p8", 2), (0, "sampling", 3, "p7", 3)]:  # fmt: skip
        assert not np.array_equal(first, uniforms(*other, 40))


def test_uniforms_lie_in_the_half_open_interval_and_are_uniform():
    draws = np.concatenate([uniforms(0, "sampling", step, "p", 0, 1000) for step in range(100)])
    assert draws.min() >= 0 and draws.max() < 1
    # mean 1/2 with standard error 1 / sqrt(12 * 100000) = 0.0009
    assert abs(draws.mean() - 0.5) < 0.004


def test_an_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match="purpose 'samplign'"):
        stream(0, "samplign")


def test_torch_generators_of_one_key_agree():
    draws = [torch_generator(0, "attack", 1, "p").initial_seed() for _ in range(2)]
    assert draws[0] == draws[1] != torch_generator(0, "attack", 2, "p").initial_seed()


def test_an_epoch_is_a_permutation_and_every_problem_comes_once():
    # 318 problems, 8 a step: step 39 takes the last 6 of the first epoch and the first 2 of the second
    indices = [i for step in range(40) for i in problem_indices(0, step, 8, 318)]
    assert sorted(indices[:318]) == list(range(318))


@pytest.mark.parametrize("size", [8, 9, 13, 15, 16, 31])
def test_no_problem_stands_twice_in_a_step_even_where_epochs_meet(size):
    counts = np.zeros(size, dtype=int)
    for step in range(40):
        indices = problem_indices(0, step, 8, size)
        assert len(set(indices)) == 8
        np.add.at(counts, indices, 1)
    assert counts.max() - counts.min() <= 1


def test_a_split_smaller_than_a_step_is_refused():
    with pytest.raises(ValueError, match="has 5 problems"):
        problem_indices(0, 0, 8, 5)
