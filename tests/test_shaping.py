"""Advantage shaping against the vectors of VPPO and numbers worked out by hand."""

import math

import pytest
import torch

from saei.shaping import RECONSTRUCTIONS, SHAPINGS, ShapingEvidence


def evidence(nll, group=None, dependency=None):
    return ShapingEvidence(
        mean_nll=torch.tensor(nll, dtype=torch.float64),
        group=torch.zeros(len(nll), dtype=torch.long) if group is None else torch.tensor(group),
        dependency=None if dependency is None else [torch.tensor(one) for one in dependency],
    )


ADVANTAGES = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)


def test_no_shaping_leaves_the_advantages():
    assert torch.equal(SHAPINGS["none"](ADVANTAGES, evidence([1.0, 2.0, 3.0]), 0.1), ADVANTAGES)


def test_vppo_weighs_by_mean_dependency():
    # token means .2 .4 .05; min-max (.15, .35, 0) / .35 = .428571 1 0, mean .476190; .9 + .1 * n / mean = .99 1.11 .90
    dependency = [[0.1, 0.3], [0.4], [0.0, 0.05, 0.1]]
    shaped = SHAPINGS["vppo"](ADVANTAGES, evidence([0.0] * 3, dependency=dependency), 0.1)
    expected = ADVANTAGES * torch.tensor([0.99, 1.11, 0.90], dtype=torch.float64)
    torch.testing.assert_close(shaped, expected, atol=1e-6, rtol=0)


def test_vppo_weights_have_mean_one_and_start_at_one_minus_strength():
    dependency = torch.rand((7, 3), generator=torch.Generator().manual_seed(0)).tolist()
    ones = torch.ones(7, dtype=torch.float64)
    weights = SHAPINGS["vppo"](ones, evidence([0.0] * 7, dependency=dependency), 0.3)
    assert float(weights.mean()) == pytest.approx(1.0)
    assert float(weights.min()) == pytest.approx(0.7)


def test_vppo_with_equal_dependencies_changes_nothing():
    dependency = [[0.2, 0.2], [0.2], [0.2]]
    assert torch.equal(SHAPINGS["vppo"](ADVANTAGES, evidence([0.0] * 3, dependency=dependency), 0.1), ADVANTAGES)


def test_vppo_refuses_a_strength_that_could_turn_an_advantage_around():
    # at -.5, of 7 rollouts one depends on its image: its weight would be 1.5 - .5 * 7 = -2
    with pytest.raises(ValueError, match="shaping_strength must be >= 0"):
        SHAPINGS["vppo"](ADVANTAGES, evidence([0.0] * 3, dependency=[[0.1], [0.2], [0.3]]), -0.5)


def test_ecvgpo_moves_positive_advantages_by_the_surprise_within_the_group():
    # nll 1 2 3: mean 2, unbiased std 1, u = -1 0 1; tanh 1 = .761594
    # A = 1 -> 1 - .5 * .761594 = .619203; A = 2 -> 2 * (1 + .5 * .761594) = 2.761594
    shaped = SHAPINGS["ecvgpo"](ADVANTAGES, evidence([1.0, 2.0, 3.0]), 0.5)
    expected = torch.tensor([0.619203, -1.0, 2.761594], dtype=torch.float64)
    torch.testing.assert_close(shaped, expected, atol=2e-6, rtol=0)


def test_ecvgpo_below_zero_favours_likely_answers():
    shaped = SHAPINGS["ecvgpo"](ADVANTAGES, evidence([1.0, 2.0, 3.0]), -0.5)
    assert float(shaped[0]) > 1.0 and float(shaped[2]) < 2.0 and float(shaped[1]) == -1.0


def test_ecvgpo_standardises_each_group_by_itself():
    # both groups have u = -+ 1/sqrt(2), however far apart their nll
    shaped = SHAPINGS["ecvgpo"](
        torch.ones(4, dtype=torch.float64), evidence([1.0, 10.0, 2.0, 30.0], group=[5, 2, 5, 2]), 0.5
    )
    low, high = (1 + sign * 0.5 * math.tanh(1 / math.sqrt(2)) for sign in (-1, 1))
    torch.testing.assert_close(shaped, torch.tensor([low, low, high, high], dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("nll", [[0.1, 0.1, 0.1], [0.7]])
def test_ecvgpo_without_a_difference_in_the_group_changes_nothing(nll):
    # the mean of three times .1 is not .1 in floating point
    advantages = torch.ones(len(nll), dtype=torch.float64)
    assert torch.equal(SHAPINGS["ecvgpo"](advantages, evidence(nll), 0.5), advantages)


# noise_prior makes its own from rewards and noise
@pytest.mark.parametrize("name", sorted(SHAPINGS.keys() - {"noise_prior"}))
def test_zero_advantages_stay_zero(name):
    given = evidence([1.0, 2.0, 3.0], dependency=[[0.1], [0.2], [0.3]])
    assert torch.equal(SHAPINGS[name](torch.zeros(3, dtype=torch.float64), given, 0.2), torch.zeros(3).double())


def test_reconstructions_are_named():
    assert set(RECONSTRUCTIONS) == {"ecvgpo"}


def test_noisy_grpo_fuses_rewards_and_noise_as_published():
    # methods.md 13.2: rewards (1,0,1,0), noise (0,.3,.6,.9): P = .01/(1/3 + .01) = .029126, K = P/(.1 + P) = .225564
    shaped = SHAPINGS["noise_prior"](
        torch.zeros(4, dtype=torch.float64),
        ShapingEvidence(
            mean_nll=torch.zeros(4, dtype=torch.float64),
            group=torch.zeros(4, dtype=torch.int64),
            rewards=torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64),
            noise=torch.tensor([0.0, 0.3, 0.6, 0.9], dtype=torch.float64),
        ),
        0.1,
    )
    torch.testing.assert_close(
        shaped, torch.tensor([1.0383, -0.6493, 0.6493, -1.0383], dtype=torch.float64), atol=2e-4, rtol=0
    )
