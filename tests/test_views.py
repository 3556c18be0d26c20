"""The other views: decays, diffusion noise, blocks, matched noise, aimed and momentum attacks, errors, moved text."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from saei.config import SelectConfig, ViewConfig
from saei.seeding import torch_generator
from saei.types import to_unit
from saei.views import VIEWS, ViewContext, check_budget
from saei.views.climb import climb
from saei.views.diffusion import SIGNAL_SHARES, diffuse, noise
from saei.views.egas import climb_entropy, egas
from saei.views.error import error, targets
from saei.views.gaussian import gaussian, matched_noise
from saei.views.mask import blacken_blocks, mask
from saei.views.objective import choose, kept_entropies, problem_objectives, sequence_mean, token_mean
from saei.views.random_sign import random_sign
from saei.views.schedule import SCHEDULES, strength
from saei.views.text_embedding import text_embedding
from tests.views_toy import entropy_of, make_context, random_images, random_policy

ALL = SelectConfig(rule="all")
TEXTS = [(0, 1, 2, 3, 4), (5, 6, 7), (8, 2, 0, 6)]


def context_of(view: ViewConfig | None = None, *, problems: int = 3, size: int = 4, spread: float = 3.0, **more):
    policy = random_policy(3 * size * size, spread=spread)
    images = more.pop("images", None) or random_images(problems, size=size)
    return make_context(policy.token_entropy, images, [TEXTS] * problems, view=view, **more)


def deltas(context: ViewContext, result) -> list[Tensor]:
    """Signed levels of the first image of each problem."""
    return [entry[0][0].int() - clean[0].int() for clean, entry in zip(context.images, result.images, strict=True)]


def same_images(one, other) -> bool:
    return all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for first, second in zip(left, right, strict=True)
        for a, b in zip(first, second, strict=True)
    )


# ---- schedules (methods.md 6.1) -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("level", "slope", "midpoint", "steps", "table"),
    [
        (500, 30, 40 / 60, 60, {1: 499, 20: 499, 30: 496, 35: 462, 38: 365, 40: 250, 42: 134, 45: 37, 50: 3, 55: 0}),
        (450, 60, 40 / 120, 120, {20: 449, 30: 446, 35: 415, 40: 225, 45: 34, 50: 3, 55: 0, 120: 0}),
    ],
    ids=["geometry3k", "k12"],
)
def test_the_diffusion_steps_of_noisyrollouts_two_recipes(level, slope, midpoint, steps, table):
    view = ViewConfig(schedule="sigmoid", schedule_midpoint=midpoint, schedule_slope=float(slope))
    # t is counted from 1 there, our steps from 0
    assert {t: int(level * strength(view, t - 1, steps)) for t in table} == table


@pytest.mark.parametrize(
    ("schedule", "slope", "expected"),
    [
        ("constant", 30.0, [1.0, 1.0, 1.0, 1.0]),
        ("linear", 30.0, [0.75, 0.5, 0.25, 0.0]),
        # 1 - (t/4)^2
        ("power", 2.0, [15 / 16, 12 / 16, 7 / 16, 0.0]),
        # 1 - exp(-2 (1 - t/4))
        ("exponential", 2.0, [1 - math.exp(-1.5), 1 - math.exp(-1), 1 - math.exp(-0.5), 0.0]),
        # 1 - sigmoid(4 (t/4 - 2/3))
        ("sigmoid", 4.0, [1 / (1 + math.exp(t - 8 / 3)) for t in (1, 2, 3, 4)]),
    ],
)
def test_the_decays_by_hand(schedule, slope, expected):
    view = ViewConfig(schedule=schedule, schedule_slope=slope)
    assert [strength(view, step, 4) for step in range(4)] == pytest.approx(expected, abs=1e-12)


def test_a_steep_decay_does_not_overflow_and_a_step_outside_the_run_is_refused():
    steep = {name: ViewConfig(schedule=name, schedule_slope=1e6) for name in SCHEDULES}
    for view in steep.values():
        assert all(0 <= strength(view, step, 10) <= 1 for step in range(10))
    assert [strength(steep["sigmoid"], step, 3) for step in (0, 2)] == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"step is in \[0, 10\), got 10"):
        strength(ViewConfig(), 10, 10)


# ---- diffusion noise ------------------------------------------------------------------------------------------------
def test_the_noise_table_of_noisyrollout():
    steps = [0, 50, 100, 200, 250, 300, 400, 450, 500, 550, 600]
    signal = [1.000, 0.9993, 0.9983, 0.9939, 0.9891, 0.9810, 0.9449, 0.9107, 0.8630, 0.8028, 0.7342]
    spread = [0.0047, 0.0370, 0.0584, 0.1105, 0.1470, 0.1941, 0.3275, 0.4130, 0.5052, 0.5962, 0.6789]
    assert SIGNAL_SHARES[steps].sqrt().tolist() == pytest.approx(signal, abs=5e-5)
    assert (1 - SIGNAL_SHARES[steps]).sqrt().tolist() == pytest.approx(spread, abs=5e-5)


@pytest.mark.parametrize(("k", "signal", "spread"), [(0, 1.0, 0.0047), (100, 0.9983, 0.0584), (200, 0.9939, 0.1105)])
def test_a_grey_image_keeps_its_level_and_gets_the_tables_spread(k, signal, spread):
    # 150 x 150 x 3 channels of level 128: .0 clipped, standard error of the mean spread * 255 / 260 levels
    image = torch.full((3, 150, 150), 128, dtype=torch.uint8)
    noisy = diffuse(image, k, torch.Generator().manual_seed(0)).double()
    # cutting to 8 bits, as the released code does, would be half a level lower
    assert noisy.mean().item() == pytest.approx(128 * signal, abs=4 * spread * 255 / 260 + 0.01)
    # rounding adds a variance of 1/12 of a level
    assert noisy.std().item() == pytest.approx(math.sqrt((spread * 255) ** 2 + 1 / 12), rel=0.02)


def test_noise_beyond_the_range_is_clamped_and_unknown_steps_are_refused():
    black = diffuse(torch.zeros(3, 40, 40, dtype=torch.uint8), 500, torch.Generator().manual_seed(0))
    # half of the draws are negative: 4800 channels, sd .0072
    assert (black == 0).double().mean().item() == pytest.approx(0.5, abs=0.03) and black.max() > 200
    with pytest.raises(IndexError, match="0-999, got 1000"):
        diffuse(black, 1000, torch.Generator())


def test_noise_level_0_is_off_and_strength_0_leaves_the_residue_of_step_0():
    off = context_of(ViewConfig(noise_level=0), strength=0.0)
    result = noise(off)
    assert same_images(result.images, [[images] for images in off.images])
    assert all(not row.moved and row.l2 == 0 for row in result.ledger)
    decayed = context_of(ViewConfig(noise_level=500), strength=0.0, size=28)
    for delta in deltas(decayed, noise(decayed)):
        # std 1.2 levels
        assert 0 < delta.abs().max() <= 6


def test_the_noise_of_a_problem_is_its_own_and_grows_with_the_strength():
    images = random_images(3, size=14)
    runs = {s: noise(context_of(ViewConfig(), size=14, images=images, strength=s)) for s in (0.2, 0.6, 1.0)}
    for i in range(3):
        assert runs[0.2].ledger[i].l2 < runs[0.6].ledger[i].l2 < runs[1.0].ledger[i].l2
    alone = make_context(lambda *_: [], [images[1]], [TEXTS], view=ViewConfig(), names=["p1"])
    assert torch.equal(noise(alone).images[0][0][0], runs[1.0].images[1][0][0])
    row = runs[1.0].ledger[0]
    assert row.view == "noise" and row.moved and math.isnan(row.entropy_before) and math.isnan(row.entropy_after)
    assert (row.tokens_kept, row.tokens_total) == (0, 0)
    # what the noise pushed out of the range sits at its ends now
    ends = ((noisy := runs[1.0].images[0][0][0]) == 0) | (noisy == 255)
    assert row.clipped_share == pytest.approx(ends.double().mean().item(), abs=0.01) and row.clipped_share > 0.1
    # int(500 * .6) = 300
    assert torch.equal(runs[0.6].images[0][0][0], diffuse(images[0][0], 300, torch_generator(0, "attack", 0, "p0")))


# ---- blocks ---------------------------------------------------------------------------------------------------------
def test_blocks_are_whole_aligned_and_black():
    image = torch.full((3, 70, 45), 9, dtype=torch.uint8)
    masked = blacken_blocks(image, 0.5, torch.Generator().manual_seed(1))
    hidden = 0
    for top in range(0, 70, 14):
        for left in range(0, 45, 14):
            block = masked[:, top : top + 14, left : left + 14]
            assert block.unique().tolist() in ([0], [9])
            hidden += int(block[0, 0, 0] == 0)
    # 5 x 4 blocks, the last column three pixels wide
    assert 3 <= hidden <= 17 and (image == 9).all()


def test_the_share_of_blocks_is_the_probability():
    image = torch.full((3, 14 * 50, 14 * 50), 9, dtype=torch.uint8)
    for share, tolerance in ((0.0, 0.0), (0.6, 0.04), (1.0, 0.0)):
        masked = blacken_blocks(image, share, torch.Generator().manual_seed(0))
        # 2500 blocks: sd of the share .0098
        assert (masked == 0).double().mean().item() == pytest.approx(share, abs=tolerance)


def test_the_mask_view_scales_with_the_strength_and_writes_its_norms():
    images = [(torch.full((3, 28, 28), 10, dtype=torch.uint8),)] * 2
    hidden = mask(context_of(ViewConfig(mask_share=1.0), problems=2, size=28, images=images))
    assert all(not image.any() for entry in hidden.images for image in entry[0])
    # all 3 * 28^2 channels by 10 levels
    assert hidden.ledger[0].l2 == pytest.approx(10 * math.sqrt(3 * 28 * 28) / 255) and hidden.ledger[0].linf == 10 / 255
    untouched = mask(context_of(ViewConfig(mask_share=1.0), problems=2, size=28, images=images, strength=0.0))
    assert not any(row.moved for row in untouched.ledger)


# ---- noise as long as the attack ------------------------------------------------------------------------------------
@pytest.mark.parametrize("low", [16, 0])
@pytest.mark.parametrize("view", [ViewConfig(), ViewConfig(step_size=8.0), ViewConfig(step_size=2.0, norm="l2")])
def test_gaussian_noise_has_the_attacks_l2_within_half_a_percent(view, low):
    images = random_images(3, size=28, low=low, high=256 - low)
    images[0][0][:, :9] = 0  # a third of one image cannot go down
    context = context_of(view, size=28, images=images)
    attack, control = egas(context), gaussian(context)
    for one, other in zip(attack.ledger, control.ledger, strict=True):
        assert other.l2_reference == one.l2 and math.isnan(one.l2_reference)
        assert other.l2 == pytest.approx(one.l2, rel=0.005) and other.moved
        assert (other.view, other.tokens_kept, other.entropy_before) == (
            "gaussian",
            one.tokens_kept,
            one.entropy_before,
        )
    assert not same_images(attack.images, control.images)
    assert control.ledger[0].clipped_share > 0.1


def test_the_noise_is_normal_and_follows_the_problem():
    context = context_of(ViewConfig(step_size=8.0), size=28)
    delta = torch.stack(deltas(context, gaussian(context))).double()
    # away from the borders: 7056 draws, standard deviation that of the attack's size, a normal's kurtosis of 3
    assert delta.mean().item() == pytest.approx(0, abs=4 * 8 / 84)
    assert delta.square().mean().sqrt().item() == pytest.approx(8, rel=0.01)
    assert (delta**4).mean().item() / 8**4 == pytest.approx(3, abs=0.4)
    assert same_images(gaussian(context).images, gaussian(context).images)


def test_a_target_of_nothing_and_a_target_out_of_reach():
    clean = (torch.full((3, 4, 4), 100, dtype=torch.uint8),)
    assert matched_noise(clean, 0.0, torch.Generator())[0] is clean
    # no channel can move by more than 155 levels: all of them clipped, and the row's two norms tell
    images, cut = matched_noise(clean, 1e6, torch.Generator().manual_seed(0))
    assert cut == 1 and set(images[0].unique().tolist()) == {0, 255}


# ---- what the attack may do besides the paper -----------------------------------------------------------------------
class EntropyAsClassifier(nn.Module):
    """Two logits whose cross-entropy with label 0 is the mean of all entropies, see test_egas.py."""

    def __init__(self, heads: nn.ModuleList) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, images: Tensor) -> Tensor:
        rows = []
        for image in images:
            entropy = [torch.stack([entropy_of(self.heads[t](image.flatten())) for t in text]).mean() for text in TEXTS]
            rows.append(torch.stack([-torch.stack(entropy).mean().expm1().log(), torch.zeros(())]))
        return torch.stack(rows)


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_with_momentum_the_iterates_are_those_of_torchattacks_mifgsm(decay):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is in the test extra")
    policy = random_policy(48, spread=8.0)
    images = random_images(4, low=0, high=256)
    view = ViewConfig(step_size=12.0, iterations=5, epsilon=40.0, momentum=decay)
    context = make_context(policy.token_entropy, images, [TEXTS] * 4, view=view, select=ALL)
    clean = torch.stack([to_unit(group[0]) for group in images])
    attack = torchattacks.MIFGSM(EntropyAsClassifier(policy.heads), eps=40 / 255, alpha=12 / 255, steps=5, decay=decay)
    theirs = attack(clean, torch.zeros(4, dtype=torch.long))
    start = [[image] for image in clean]
    ours = torch.stack([state.images[0] for state in climb_entropy(context, start)[0]])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    plain = replace(context, view=replace(view, momentum=0.0))
    without = torch.stack([state.images[0] for state in climb_entropy(plain, start)[0]])
    assert (ours - without).abs().max() > 1 / 255


def test_an_l2_step_is_as_long_as_the_signed_one_and_points_along_the_gradient():
    context = context_of(ViewConfig(norm="l2", step_size=3.0), problems=2, select=ALL)
    start = [[to_unit(image) for image in group] for group in context.images]
    gradient: list[Tensor] = []

    def objective(_, images):
        values = problem_objectives(
            context,
            context.token_entropy(images, context.completions, None),
            [[torch.ones(len(t), dtype=torch.bool) for t in TEXTS]] * 2,
        )
        gradient[:] = [torch.autograd.grad(v, g[0], retain_graph=True)[0] for v, g in zip(values, images, strict=True)]
        return values

    for state, slope in zip(climb(context, start, objective), gradient, strict=True):
        move = state.images[0] - state.start[0]
        assert move.norm().item() == pytest.approx(3 / 255 * math.sqrt(48), rel=1e-5)
        assert nn.functional.cosine_similarity(move.flatten(), slope.flatten(), dim=0).item() == pytest.approx(1)


def test_the_l2_ball_is_that_through_the_corners_of_the_other():
    view = ViewConfig(norm="l2", step_size=8.0, iterations=4, epsilon=10.0)
    context = context_of(view, problems=4, spread=8.0)
    climbs, _, _ = climb_entropy(context, [[to_unit(image) for image in group] for group in context.images])
    lengths = [float((state.images[0] - state.start[0]).norm()) * 255 / math.sqrt(48) for state in climbs]
    assert max(lengths) == pytest.approx(10, rel=1e-5) and min(lengths) <= 10 * (1 + 1e-6)
    assert any(state.cut for state in climbs)


def test_a_step_in_normalised_units_is_half_a_level_and_rounds_to_one_at_best():
    # std .2686 .2613 .2758: 2 normalised units of 1/255 are .54 .52 .55 levels -> 1; 1 unit is .27 -> nothing
    moved = context_of(ViewConfig(pixel_space="normalized"))
    for delta, row in zip(deltas(moved, egas(moved)), egas(moved).ledger, strict=True):
        assert delta.abs().unique().tolist() == [1] and row.linf == 1 / 255
    still = context_of(ViewConfig(pixel_space="normalized", step_size=1.0))
    assert not any(row.moved for row in egas(still).ledger)
    # other processors: std 1/2 makes 4 units 2 levels
    other = context_of(ViewConfig(pixel_space="normalized", step_size=4.0), channel_std=(0.5, 0.5, 0.5))
    assert same_images(egas(other).images, egas(context_of(ViewConfig(step_size=2.0))).images)


def test_an_l2_step_in_normalised_units_follows_the_gradient_there():
    std = (0.5, 0.25, 0.125)
    context = context_of(ViewConfig(norm="l2", step_size=4.0, pixel_space="normalized"), problems=1, channel_std=std)
    images = [[to_unit(image) for image in group] for group in context.images]
    (state,), _, _ = climb_entropy(context, images)
    move = (state.images[0] - state.start[0]) / torch.tensor(std)[:, None, None]
    assert move.norm().item() == pytest.approx(4 / 255 * math.sqrt(48), rel=1e-4)


def test_strength_scales_the_step_and_0_leaves_everything_without_a_backward_pass():
    half = context_of(ViewConfig(step_size=4.0), strength=0.5)
    assert same_images(egas(half).images, egas(context_of(ViewConfig(step_size=2.0))).images)
    for name in ("egas", "random_sign", "gaussian", "error"):
        policy = random_policy(48)
        images = random_images(2)
        context = make_context(
            policy.token_entropy, images, [TEXTS] * 2, strength=0.0, token_logprobs=policy.token_logprobs
        )
        result = VIEWS[name].make(context)
        assert same_images(result.images, [[group] for group in images]) and policy.grad_calls == 0
        assert all(not row.moved and row.entropy_after == row.entropy_before for row in result.ledger)


@pytest.mark.parametrize(
    "view",
    [
        ViewConfig(step_size=4.0, iterations=3, epsilon=8.0, momentum=0.9),
        ViewConfig(step_size=2.0, norm="l2"),
        ViewConfig(step_size=4.0, pixel_space="normalized"),
        ViewConfig(step_size=2.0, adv_per="response"),
    ],
    ids=["momentum", "l2", "normalised", "response"],
)
def test_every_kind_of_step_raises_and_lowers_the_entropy_and_keeps_its_budget(view):
    for direction, sign in (("ascend", 1), ("descend", -1)):
        context = context_of(replace(view, direction=direction), problems=6, count=3)
        result = egas(context)
        assert all(sign * (row.entropy_after - row.entropy_before) > 0 for row in result.ledger)
        allowed = VIEWS["egas"].reach(view, 1.0)
        assert (allowed is None) == (view.norm == "l2")
        for clean, entry in zip(context.images, result.images, strict=True):
            for moved in entry:
                check_budget(clean, moved, allowed)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_scale_of_the_entropy_and_doubled_completions_do_not_matter_to_any_norm(norm):
    policy, images = random_policy(48), random_images(3)
    view = ViewConfig(norm=norm, step_size=3.0, iterations=2, epsilon=9.0, momentum=1.0)
    plain = egas(make_context(policy.token_entropy, images, [TEXTS] * 3, view=view))
    twice = egas(make_context(policy.token_entropy, images, [[*TEXTS, *TEXTS]] * 3, view=view))
    policy.scale = 8.0
    scaled = egas(make_context(policy.token_entropy, images, [TEXTS] * 3, view=view))
    assert same_images(plain.images, twice.images) and same_images(plain.images, scaled.images)


def test_logits_of_ten_thousand_leave_every_number_finite():
    for view in (ViewConfig(), ViewConfig(norm="l2"), ViewConfig(iterations=3, epsilon=4.0, momentum=1.0)):
        context = context_of(view, spread=3e4)
        for row in egas(context).ledger:
            assert math.isfinite(row.zero_gradient_share) and math.isfinite(row.entropy_after) and row.linf <= 6 / 255


def test_a_zero_or_broken_gradient_moves_nothing_under_any_norm():
    for damage in (0.0, math.nan):
        for norm in ("linf", "l2"):
            view = ViewConfig(norm=norm, iterations=2, epsilon=4.0, momentum=0.5)
            policy = random_policy(48)
            policy.scale = damage
            context = make_context(policy.token_entropy, random_images(1), [TEXTS], view=view)
            result = egas(context)
            assert same_images(result.images, [[images] for images in context.images]) and not result.ledger[0].moved
            assert (result.ledger[0].zero_gradient_share == 1) == (damage == 0)


# ---- one image for each completion ----------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [egas, error])
def test_each_response_gets_the_image_that_it_alone_would_aim(make):
    policy, images = random_policy(48), random_images(2)
    shared = {"token_logprobs": policy.token_logprobs}
    view = ViewConfig(adv_per="response")
    result = make(make_context(policy.token_entropy, images, [TEXTS] * 2, view=view, count=5, **shared))
    assert [len(entry) for entry in result.images] == [5, 5]
    for j, text in enumerate(TEXTS):
        alone = make(make_context(policy.token_entropy, images, [[text]] * 2, **shared))
        for i in range(2):
            assert torch.equal(result.images[i][j][0], alone.images[i][0][0])
            assert replace(alone.ledger[i], image=j) in result.ledger
    # five completions, three to aim by: 3 -> 0, 4 -> 1; and a row for each image, not for each completion
    for i in range(2):
        assert torch.equal(result.images[i][3][0], result.images[i][0][0])
        assert torch.equal(result.images[i][4][0], result.images[i][1][0])
        assert not torch.equal(result.images[i][0][0], result.images[i][1][0])
    assert [(row.problem_id, row.image) for row in result.ledger] == [(p, j) for j in range(3) for p in ("p0", "p1")]


def test_controls_of_several_images_draw_anew_for_each_and_match_each():
    context = context_of(ViewConfig(adv_per="response", step_size=6.0), problems=1, size=14, count=2)
    references = [row.l2 for row in egas(context).ledger]
    for make in (random_sign, gaussian):
        result = make(context)
        assert [row.l2_reference for row in result.ledger] == references and len(result.ledger) == 2
        assert [row.l2 for row in result.ledger] == pytest.approx(references, rel=0.005)
        moves = [image[0].int() - context.images[0][0].int() for image in result.images[0]]
        # fresh signs: half of them agree. 588 channels, sd .0206
        agreement = (moves[0].sign() == moves[1].sign()).double().mean().item()
        assert agreement < 0.6
    assert len(egas(replace(context, count=1)).images[0]) == 1


# ---- which tokens, and what they are divided by ---------------------------------------------------------------------
def test_the_denominator_is_the_kept_tokens_or_all_of_them():
    # completions of 4 and 2 tokens, kept (1, 2) and (6): 3/2 and 6 -> 3.75; over all 3/4 and 3 -> 1.875
    kept = [torch.tensor([1.0, 2.0]), torch.tensor([6.0])]
    assert sequence_mean(kept).item() == 3.75 and sequence_mean(kept, [4, 2]).item() == 1.875
    # (1 + 2 + 6) / 3 and / 6
    assert token_mean(kept).item() == 3.0 and token_mean(kept, [4, 2]).item() == 1.5
    context = context_of(problems=1, select=SelectConfig(denominator="all"))
    masks = [[torch.tensor([True, True, False, False]), torch.tensor([True, False])]]
    assert problem_objectives(context, [kept], masks)[0].item() == 1.875


def test_the_denominator_shifts_weight_between_completions():
    # thirds of 5, 3 and 4 tokens keep 3, 1 and 2: over all tokens the second completion weighs 1/3, the first 3/5
    images = [
        egas(context_of(problems=8, select=SelectConfig(denominator=denominator))).images
        for denominator in ("selected", "all")
    ]
    assert not same_images(*images)


def test_other_scores_choose_the_tokens_and_entropies_are_still_climbed():
    asked = []

    def token_scores(images, completions):
        asked.append(images)
        return [[torch.arange(len(text), 0, -1).float() for text in texts] for texts in completions]

    select = SelectConfig(rule="top", score="dependency")
    context = context_of(problems=2, select=select, token_scores=token_scores)
    generators = [torch.Generator()] * 2
    entropy = context.token_entropy([[to_unit(g[0])] for g in context.images], context.completions, None)
    kept = choose(context, entropy, generators)
    # falling scores: the first third of 5, 3 and 4 tokens, by the band's count 3, 1 and 2
    assert [mask.int().tolist() for mask in kept[0]] == [[1, 1, 1, 0, 0], [1, 0, 0], [1, 1, 0, 0]]
    assert asked[0] is context.images
    row = egas(context).ledger[0]
    mean = torch.cat(kept_entropies(entropy, kept)[0]).double().mean().item()
    assert row.entropy_before == pytest.approx(mean) and row.entropy_after > row.entropy_before
    with pytest.raises(ValueError, match=r"select\.score is dependency"):
        egas(replace(context, token_scores=None))


def test_a_problem_whose_tokens_are_all_outside_the_thresholds_stays_clean():
    select = SelectConfig(rule="quantile")
    open_band = context_of(select=select, thresholds=(-1.0, 100.0))
    assert same_images(egas(open_band).images, egas(context_of(select=ALL)).images)
    closed = egas(context_of(select=select, thresholds=(50.0, 100.0)))
    for row in closed.ledger:
        assert not row.moved and row.tokens_kept == 0 and math.isnan(row.entropy_before)
        assert row.zero_gradient_share == 1
    # one problem below the thresholds: the others are attacked as if it were not there
    policy = random_policy(48)

    def token_entropy(images, completions, kept):
        entropy = policy.token_entropy(images, completions, kept)
        entropy[1] = [tokens * 0.001 for tokens in entropy[1]]
        return entropy

    images = random_images(3)
    mixed = egas(make_context(token_entropy, images, [TEXTS] * 3, select=select, thresholds=(0.01, 100.0)))
    assert [row.moved for row in mixed.ledger] == [True, False, True]
    whole = egas(make_context(policy.token_entropy, images, [TEXTS] * 3, select=select, thresholds=(0.01, 100.0)))
    assert torch.equal(mixed.images[2][0][0], whole.images[2][0][0])


# ---- errors ---------------------------------------------------------------------------------------------------------
def test_the_error_attack_lowers_the_log_probability_of_what_was_right():
    policy, images = random_policy(48), random_images(5)
    right = ((True, False, False), (False, True, True), (False,) * 3, (True,) * 3, (False, False, True))
    context = make_context(policy.token_entropy, images, [TEXTS] * 5, right=right, token_logprobs=policy.token_logprobs)
    aims = targets(context)
    assert aims[0] == (TEXTS[0],) and aims[1] == tuple(TEXTS[1:]) and aims[2] == aims[3] == tuple(TEXTS)
    result = error(context)

    def nll(groups) -> list[float]:
        with torch.no_grad():
            found = policy.token_logprobs([[to_unit(g[0])] for g in groups], aims, None)
        return [-torch.stack([tokens.mean() for tokens in group]).mean().item() for group in found]

    before, after = nll(context.images), nll([entry[0] for entry in result.images])
    assert all(b > a for a, b in zip(before, after, strict=True))
    for row in result.ledger:
        # every token of every earlier completion is counted
        assert (row.view, row.tokens_kept, row.tokens_total, row.linf) == ("error", 12, 12, 2 / 255)
    clean = policy.token_entropy([[to_unit(g[0])] for g in images], [TEXTS] * 5, None)
    assert result.ledger[0].entropy_before == pytest.approx(torch.cat(clean[0]).mean().item(), rel=1e-6)


def test_without_grades_the_error_attack_reads_all_completions_and_without_log_probs_it_is_refused():
    policy, images = random_policy(48), random_images(1)
    context = make_context(policy.token_entropy, images, [TEXTS], token_logprobs=policy.token_logprobs)
    assert targets(context) == (tuple(TEXTS),)
    assert same_images(error(context).images, error(replace(context, right=((True, True, True),))).images)
    assert not same_images(error(context).images, error(replace(context, right=((False, True, False),))).images)
    with pytest.raises(ValueError, match="log-probs"):
        error(replace(context, token_logprobs=None))
    with pytest.raises(ValueError, match="no earlier completion"):
        error(replace(context, completions=((),)))


# ---- moved text -----------------------------------------------------------------------------------------------------
WIDTH = 6
QUESTION = torch.tensor([False, True, True, False, True])


def text_context(view: ViewConfig | None = None, *, problems: int = 3, dead: int | None = None, **more) -> ViewContext:
    """Prompts of five tokens; entropies read the sum of embeddings and shifts, but for token number `dead`."""
    policy = random_policy(5 * WIDTH, spread=3.0)
    generator = torch.Generator().manual_seed(5)
    embeddings = torch.randn(problems, 5, WIDTH, generator=generator)
    alive = torch.ones(5, 1)
    if dead is not None:
        alive[dead] = 0

    def text_entropy(shifts, completions, kept):
        moved = [[embeddings[i] if shift is None else embeddings[i] + alive * shift] for i, shift in enumerate(shifts)]
        return policy.token_entropy(moved, completions, kept)

    return make_context(
        lambda images, completions, kept: text_entropy([None] * problems, completions, kept),
        random_images(problems),
        [TEXTS] * problems,
        view=view,
        text_entropy=text_entropy,
        embeddings=lambda i: embeddings[i],
        questions=(QUESTION,) * problems,
        **more,
    )


def radius_of(context: ViewContext, i: int) -> float:
    assert context.embeddings is not None
    return context.view.text_radius * context.strength * float(context.embeddings(i)[QUESTION].norm(dim=1).mean())


@pytest.mark.parametrize("direction", ["ascend", "descend"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_question_embeddings_move_by_the_radius_and_the_image_does_not(iterations, direction):
    view = ViewConfig(iterations=iterations, epsilon=2.0, direction=direction)
    context = text_context(view)
    result = text_embedding(context)
    assert result.text_shifts is not None
    assert same_images(result.images, [[images] for images in context.images])
    for i, (shift, row) in enumerate(zip(result.text_shifts, result.ledger, strict=True)):
        lengths = shift.norm(dim=1)
        assert not lengths[~QUESTION].any()
        assert lengths.max().item() <= radius_of(context, i) * (1 + 1e-6)
        if iterations == 1:
            # one step of the radius for each of three tokens
            assert lengths[QUESTION].tolist() == pytest.approx([radius_of(context, i)] * 3, rel=1e-5)
            assert row.text_l2 == pytest.approx(radius_of(context, i) * math.sqrt(3), rel=1e-5)
        assert (row.entropy_after > row.entropy_before) == (direction == "ascend")
        assert row.moved and (row.linf, row.l2, row.view) == (0, 0, "text_embedding")
        assert row.tokens_kept == 6 and row.tokens_total == 12


def test_further_steps_stay_in_the_ball_and_those_cut_are_counted():
    once, thrice = (text_embedding(text_context(ViewConfig(iterations=n, epsilon=2.0))) for n in (1, 3))
    gains = [[row.entropy_after - row.entropy_before for row in result.ledger] for result in (once, thrice)]
    assert all(b > a for a, b in zip(*gains, strict=True))
    # the first step reaches the sphere, later ones start there and nearly always leave it: at most 2 of 3
    assert once.ledger[0].clipped_share == 0 and 0.2 < thrice.ledger[0].clipped_share <= 2 / 3


@pytest.mark.parametrize("settings", [{"text_radius": 0.0}, {"iterations": 0}])
def test_a_radius_of_0_or_no_iteration_moves_no_text(settings):
    result = text_embedding(text_context(ViewConfig(**settings)))
    assert result.text_shifts == [None] * 3
    assert all(not r.moved and r.text_l2 == 0 and r.entropy_after == r.entropy_before for r in result.ledger)
    assert text_embedding(text_context(strength=0.0)).text_shifts == [None] * 3


def test_a_token_without_a_gradient_stays():
    result = text_embedding(text_context(dead=2))
    assert result.text_shifts is not None
    for shift, row in zip(result.text_shifts, result.ledger, strict=True):
        assert not shift[2].any() and shift[1].any() and row.zero_gradient_share == pytest.approx(1 / 3)
    context = text_context()
    nothing = replace(context, questions=(torch.zeros(5, dtype=torch.bool),) * 3)
    assert text_embedding(nothing).text_shifts == [None] * 3


def test_text_of_a_caller_that_cannot_move_it_is_refused():
    context = text_context()
    with pytest.raises(ValueError, match="pass text_entropy"):
        text_embedding(replace(context, text_entropy=None))
    with pytest.raises(ValueError, match=r"view\.adv_per is response"):
        text_embedding(replace(context, view=ViewConfig(adv_per="response")))


# ---- the table ------------------------------------------------------------------------------------------------------
def test_how_far_each_view_may_move_a_pixel():
    plain = ViewConfig(step_size=3.0)
    reach = {name: view.reach(plain, 0.5) for name, view in VIEWS.items()}
    assert reach == {
        "clean": 0.0,
        "egas": 1.5,
        "random_sign": 1.5,
        "gaussian": None,
        "noise": None,
        "mask": None,
        "text_embedding": 0.0,
        "error": 1.5,
    }
    # min(T * step, ball); half of it in normalised units, where a standard deviation is at most 1/2
    several = ViewConfig(step_size=2.0, iterations=3, epsilon=5.0)
    assert VIEWS["egas"].reach(several, 1.0) == 5.0 and VIEWS["egas"].reach(several, 0.5) == 3.0
    assert VIEWS["egas"].reach(ViewConfig(pixel_space="normalized"), 1.0) == 1.0
    assert VIEWS["egas"].reach(ViewConfig(norm="l2"), 1.0) is None
    assert {name for name, view in VIEWS.items() if not view.attacks} == {"clean", "noise", "mask"}


def test_without_a_bound_the_check_is_of_number_size_and_type():
    clean = (torch.zeros(3, 2, 2, dtype=torch.uint8),)
    check_budget(clean, (torch.full((3, 2, 2), 255, dtype=torch.uint8),), None)
    with pytest.raises(RuntimeError, match="number or the size"):
        check_budget(clean, (*clean, *clean), None)
