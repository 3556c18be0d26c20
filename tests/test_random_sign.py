"""The random-sign control: EgAS's mask and sizes, another direction."""

import math
import statistics

import pytest
import torch

from saei.config import ViewConfig
from saei.types import to_unit
from saei.views import VIEWS, check_budget
from saei.views.egas import egas
from saei.views.random_sign import flip_signs, random_sign
from tests.views_toy import make_context, random_images, random_policy

TEXTS = [(0, 1, 2, 3, 4), (5, 6, 7), (8, 2, 0, 6)]


def both(problems: int, *, seed: int = 0, low: int = 16, high: int = 240, **settings):
    policy = random_policy(48)
    images = random_images(problems, low=low, high=high)
    context = make_context(policy.token_entropy, images, [TEXTS] * problems, seed=seed, **settings)
    return context, egas(context), random_sign(context)


@pytest.mark.parametrize("view", [ViewConfig(), ViewConfig(step_size=1.0, iterations=3, epsilon=3.0)])
@pytest.mark.parametrize("border", [False, True])
def test_every_channel_moves_as_far_as_under_egas(view, border):
    context, attack, control = both(6, view=view, low=0 if border else 16, high=256 if border else 240)
    for clean, (moved,), (flipped,) in zip(context.images, attack.images, control.images, strict=True):
        applied, drawn = (image[0].int() - clean[0].int() for image in (moved, flipped))
        assert torch.equal(applied.abs(), drawn.abs()) and not torch.equal(applied, drawn)
        check_budget(clean, flipped, view.step_size * view.iterations)
    for one, other in zip(attack.ledger, control.ledger, strict=True):
        assert (one.linf, one.l2, one.touched_share) == (other.linf, other.l2, other.touched_share)
        assert other.l2_reference == other.l2 and math.isnan(one.l2_reference)
        assert one.entropy_before == other.entropy_before and one.tokens_kept == other.tokens_kept
        assert (other.view, other.moved) == ("random_sign", True)


def test_the_ledger_entropy_is_that_of_the_flipped_image():
    context, attack, control = both(2)
    for i, row in enumerate(control.ledger):
        units = [[to_unit(image) for image in group] for (group,) in control.images]
        with torch.no_grad():
            entropy = context.token_entropy(units, context.completions, None)
            clean = context.token_entropy([[to_unit(g[0])] for g in context.images], context.completions, None)
        kept = []
        for tokens, before in zip(entropy[i], clean[i], strict=True):
            third = len(before) // 3
            kept.append(tokens[before.argsort()[third : len(before) - third]])
        assert row.entropy_after == pytest.approx(torch.cat(kept).mean().item(), abs=1e-6)
        assert row.entropy_after != attack.ledger[i].entropy_after


def test_signs_are_drawn_evenly_and_the_mean_gain_is_near_nothing():
    context, attack, control = both(60)
    gains = [[row.entropy_after - row.entropy_before for row in result.ledger] for result in (attack, control)]
    assert min(gains[0]) > 0
    # mean gain 0; its standard error over 60 problems is sd / sqrt(60), and the attack's gain is several times the sd
    error = statistics.stdev(gains[1]) / 60**0.5
    assert abs(statistics.fmean(gains[1])) < 4 * error < statistics.fmean(gains[0])
    deltas = torch.stack([m[0][0].int() - c[0].int() for m, c in zip(control.images, context.images, strict=True)])
    # 60 * 48 = 2880 fair signs: sd of the share .0093
    assert abs((deltas > 0).double().mean().item() - 0.5) < 4 * 0.0093


def test_the_signs_are_a_function_of_seed_and_problem_and_not_of_the_batch():
    context, _, control = both(3)
    again = random_sign(context)
    other = both(3, seed=1)[2]
    alone = random_sign(
        make_context(context.token_entropy, [context.images[1]], [TEXTS], names=[context.problem_ids[1]])
    )
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(control.images, again.images, strict=True))
    assert not any(torch.equal(a[0][0], b[0][0]) for a, b in zip(control.images, other.images, strict=True))
    assert torch.equal(alone.images[0][0][0], control.images[1][0][0])


def test_channels_that_did_not_move_stay_and_flips_out_of_range_are_held_and_counted():
    # levels 0 and 255 moved inwards by 2 cannot be flipped; 100 did not move; 1 -> 3 would go to -1; 2 -> 4 goes to 0
    clean = torch.tensor([0, 255, 100, 1, 2], dtype=torch.uint8).repeat(3, 40, 1)
    moved = torch.tensor([2, 253, 100, 3, 4], dtype=torch.uint8).repeat(3, 40, 1)
    flipped, held = flip_signs(clean, moved, torch.Generator().manual_seed(0))
    for column in (0, 1, 2, 3):
        assert torch.equal(flipped[..., column], moved[..., column])
    assert flipped[..., 4].unique().tolist() == [0, 4]
    # three columns of 120 channels, half of which were to be flipped: 180, sd sqrt(360) / 2 = 9.5
    assert 140 < held < 220


def test_held_flips_are_part_of_the_clipped_share():
    policy = random_policy(48)
    black = [(torch.zeros(3, 4, 4, dtype=torch.uint8),)]
    context = make_context(policy.token_entropy, black, [TEXTS])
    attack, control = egas(context), random_sign(context)
    # on black every applied change is upwards and no flip is possible: the control is the attack, and says so
    assert torch.equal(attack.images[0][0][0], control.images[0][0][0])
    flips = control.ledger[0].clipped_share - attack.ledger[0].clipped_share
    assert 0.2 * attack.ledger[0].touched_share < flips < 0.8 * attack.ledger[0].touched_share


def test_the_table_holds_the_view():
    assert VIEWS["random_sign"].make is random_sign
