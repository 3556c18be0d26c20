"""Advantages against numbers worked out by hand."""

import pytest
import torch

from saei.advantage import ADVANTAGES


def test_group_std_divides_by_the_unbiased_std():
    # mean .5; deviations .5 -.4 -.5 .4; variance .82 / 3 = .273333, std .522813; .5 / .522814 = .956362
    rewards = torch.tensor([[1.0, 0.1, 0.0, 0.9]], dtype=torch.float64)
    expected = torch.tensor([[0.9564, -0.7651, -0.9564, 0.7651]], dtype=torch.float64)
    torch.testing.assert_close(ADVANTAGES["group_std"](rewards, 1e-6), expected, atol=5e-5, rtol=0)


def test_one_success_of_twelve_weighs_eleven_times_a_failure():
    # mean 1/12, variance (1 - 1/12) / 11 = 1/12, std .288675: (11/12) / .288676 = 3.1754, (-1/12) / .288676 = -.2887
    rewards = torch.tensor([[1.0] + [0.0] * 11], dtype=torch.float64)
    expected = torch.tensor([[3.1754] + [-0.2887] * 11], dtype=torch.float64)
    torch.testing.assert_close(ADVANTAGES["group_std"](rewards, 1e-6), expected, atol=5e-5, rtol=0)


def test_group_mean_centres_and_does_not_scale():
    # mean 1/4: the success 3/4, each failure -1/4
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(ADVANTAGES["group_mean"](rewards, 1e-6), torch.tensor([[0.75, -0.25, -0.25, -0.25]]))


def test_leave_one_out_subtracts_the_mean_of_the_others():
    # others of the success: 0; others of a failure: (1 + 0 + 0) / 3
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[1.0, -1 / 3, -1 / 3, -1 / 3]])
    torch.testing.assert_close(ADVANTAGES["leave_one_out"](rewards, 1e-6), expected)


@pytest.mark.parametrize("rule", ADVANTAGES)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_equal_rewards_give_exact_zeros(rule, reward):
    # the mean of three times .1 is not .1 in floating point: divided by 1e-6 that would be an advantage
    rewards = torch.tensor([[reward] * 3, [1.0, 0.0, 1.0]])
    advantages = ADVANTAGES[rule](rewards, 1e-6)
    assert advantages[0].tolist() == [0.0, 0.0, 0.0]
    assert advantages[1].abs().min() > 0.1


@pytest.mark.parametrize("rule", ADVANTAGES)
def test_groups_do_not_see_each_other(rule):
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [ADVANTAGES[rule](rewards[i : i + 1], 1e-6) for i in range(5)]
    torch.testing.assert_close(ADVANTAGES[rule](rewards, 1e-6), torch.cat(rows))
