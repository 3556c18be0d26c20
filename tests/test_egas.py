"""EgAS on linear toys: worked numbers, PGD's update against torchattacks, budgets, invariances, the ledger."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from saei.config import SelectConfig, ViewConfig
from saei.types import to_bytes, to_unit
from saei.views import VIEWS, ViewContext, check_budget
from saei.views.climb import image_gradients
from saei.views.egas import climb_entropy, egas
from saei.views.objective import problem_objectives, sequence_mean, token_mean
from tests.views_toy import entropy_of, make_context, random_images, random_policy

ALL = SelectConfig(rule="all")
TEXTS = [(0, 1, 2, 3, 4), (5, 6, 7), (8, 2, 0, 6)]


def random_context(problems: int = 3, *, pixels_seed: int = 0, **settings) -> tuple[ViewContext, nn.ModuleList]:
    policy = random_policy(48)
    context = make_context(
        policy.token_entropy, random_images(problems, seed=pixels_seed), [TEXTS] * problems, **settings
    )
    return context, policy.heads


def signed_levels(context: ViewContext, images) -> list[torch.Tensor]:
    return [m[0][0].int() - c[0].int() for c, m in zip(context.images, images, strict=True)]


# ---- worked numbers (methods.md 13.2) -------------------------------------------------------------------------------
WEIGHTS = torch.tensor([[[4.0, 0], [0, 2], [-1, 1]], [[1, 3], [2, -2], [0, 0]], [[8, 0], [0, 8], [1, 1]]])
WORKED = torch.tensor([0.5, 0.25])


def worked_context(**settings) -> ViewContext:
    # 8-bit levels cannot say .5 and .25: the toy reads pixel levels 128 and 64 with an offset that makes them so
    offset = WORKED - torch.tensor([128.0, 64.0]) / 255

    def token_entropy(images, completions, kept):
        result = []
        for i, group in enumerate(images):
            entropy = entropy_of(WEIGHTS @ (group[0][0, 0] + offset))
            result.append([entropy if kept is None else entropy[kept[i][0]]])
        return result

    image = torch.full((3, 1, 2), 200, dtype=torch.uint8)
    image[0, 0] = torch.tensor([128, 64], dtype=torch.uint8)
    return make_context(token_entropy, [(image,)], [[(0, 1, 2)]], **settings)


@pytest.mark.parametrize(
    ("select", "expected"), [(SelectConfig(), (-1.4403, 0.5036)), (ALL, (-1.2304, 0.4188))], ids=["middle", "all"]
)
def test_the_gradient_of_the_worked_example(select, expected):
    context = worked_context(select=select)
    images = [[to_unit(image) for image in group] for group in context.images]
    _, kept, _ = climb_entropy(context, images)

    def objective(leaves):
        return problem_objectives(context, context.token_entropy(leaves, context.completions, kept), kept)

    ((gradient,),) = image_gradients(objective, images)
    assert gradient[0, 0].tolist() == pytest.approx(expected, abs=5e-5)
    assert not gradient[1:].any()


@pytest.mark.parametrize(
    ("select", "direction", "before", "after", "levels"),
    [
        (SelectConfig(), "ascend", 0.714506, 0.729724, [-2, 2]),
        (SelectConfig(), "descend", 0.714506, 0.699238, [2, -2]),
        (ALL, "ascend", 0.727529, 0.740505, [-2, 2]),
    ],
)
def test_one_step_of_the_worked_example_is_on_the_ledger(select, direction, before, after, levels):
    context = worked_context(select=select, view=ViewConfig(direction=direction))
    result = egas(context)
    (row,) = result.ledger
    assert (result.images[0][0][0].int() - context.images[0][0].int())[0, 0].tolist() == levels
    assert row.entropy_before == pytest.approx(before, abs=1e-6)
    assert row.entropy_after == pytest.approx(after, abs=1e-6)
    assert row.tokens_kept == (1 if select.rule == "band" else 3) and row.tokens_total == 3
    # two of six channels have a gradient and moved two levels: L2 = sqrt(2 * 2^2) / 255
    assert (row.touched_share, row.zero_gradient_share, row.clipped_share) == pytest.approx((2 / 6, 4 / 6, 0))
    assert row.linf == pytest.approx(2 / 255) and row.l2 == pytest.approx(math.sqrt(8) / 255)
    assert row.moved and row.view == "egas"


def test_the_two_objectives_weigh_completions_differently():
    # kept tokens (1, 2, 3) and (4): means 2 and 4 -> 3; pooled 10 / 4 = 2.5; one without kept tokens: no part
    entropy = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0]), torch.tensor([])]
    assert sequence_mean(entropy).item() == 3.0
    assert token_mean(entropy).item() == 2.5


# ---- the update rule, against an independent implementation ---------------------------------------------------------
class EntropyAsClassifier(nn.Module):
    """Two logits whose cross-entropy with label 0 is the objective h: log(1 + exp(-z)) = h for z = -log(exp(h) - 1)."""

    def __init__(self, heads: nn.ModuleList) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = []
        for image in images:
            entropy = [torch.stack([entropy_of(self.heads[t](image.flatten())) for t in text]).mean() for text in TEXTS]
            rows.append(torch.stack([-torch.stack(entropy).mean().expm1().log(), torch.zeros(())]))
        return torch.stack(rows)


@pytest.mark.parametrize(("steps", "step", "epsilon"), [(1, 2, 2), (3, 2, 3), (3, 1, 8), (2, 8, 8)])
def test_the_iterates_are_those_of_torchattacks_pgd(steps, step, epsilon):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is in the test extra")
    view = ViewConfig(step_size=float(step), iterations=steps, epsilon=float(epsilon))
    policy = random_policy(48)
    # the whole range, borders included, so that ball and clip both act
    images = random_images(4, low=0, high=256)
    images[0][0][:, :2] = 0
    images[1][0][:, :2] = 255
    context = make_context(policy.token_entropy, images, [TEXTS] * 4, view=view, select=ALL)
    attack = torchattacks.PGD(
        EntropyAsClassifier(policy.heads), eps=epsilon / 255, alpha=step / 255, steps=steps, random_start=False
    )
    clean = torch.stack([to_unit(group[0]) for group in images])
    theirs = attack(clean, torch.zeros(4, dtype=torch.long))
    climbs, _, _ = climb_entropy(context, [[image] for image in clean])
    ours = torch.stack([state.images[0] for state in climbs])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    for mine, other in zip(egas(context).images, theirs, strict=True):
        assert torch.equal(mine[0][0], to_bytes(other))


# ---- what an attack must do -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", ["sequence_mean", "token_mean"])
@pytest.mark.parametrize("rule", ["band", "all", "top", "bottom", "random"])
def test_ascending_raises_and_descending_lowers_the_kept_entropy_of_every_problem(objective, rule):
    select = SelectConfig(rule=rule)
    for direction, sign in (("ascend", 1), ("descend", -1)):
        context, _ = random_context(8, select=select, view=ViewConfig(direction=direction, objective=objective))
        for row in egas(context).ledger:
            assert sign * (row.entropy_after - row.entropy_before) > 0, (direction, row)


def test_no_parameter_gets_a_gradient():
    context, heads = random_context(view=ViewConfig(iterations=2, epsilon=4.0))
    result = egas(context)
    assert all(row.moved for row in result.ledger)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in heads.parameters())
    assert not any(image.requires_grad for image in result.images[0][0])


@pytest.mark.parametrize("levels", [1, 2, 3, 8])
def test_away_from_the_borders_every_channel_moves_exactly_the_step(levels):
    context, _ = random_context(view=ViewConfig(step_size=float(levels)))
    result = egas(context)
    for delta in signed_levels(context, result.images):
        assert delta.abs().unique().tolist() == [levels]
    for row in result.ledger:
        assert row.linf == levels / 255
        assert row.l2 == pytest.approx(levels * math.sqrt(48) / 255)
        assert (row.touched_share, row.clipped_share, row.zero_gradient_share) == (1, 0, 0)


@pytest.mark.parametrize("direction", ["ascend", "descend"])
@pytest.mark.parametrize(("step", "count", "epsilon"), [(2.0, 3, 3.0), (2.0, 4, 8.0), (1.0, 5, 2.5), (40.0, 1, None)])
def test_the_moved_image_stays_in_the_ball_and_in_range(step, count, epsilon, direction):
    view = ViewConfig(step_size=step, iterations=count, epsilon=epsilon, direction=direction)
    policy = random_policy(48)
    context = make_context(policy.token_entropy, random_images(4, low=0, high=256), [TEXTS] * 4, view=view)
    allowed = step * count if epsilon is None else min(epsilon, step * count)
    result = egas(context)
    for clean, (moved,), row in zip(context.images, result.images, result.ledger, strict=True):
        check_budget(clean, moved, allowed)
        assert 0 < (moved[0].int() - clean[0].int()).abs().max() <= allowed
        assert moved[0].dtype == torch.uint8 and row.linf <= allowed / 255 and row.moved


def test_steps_cut_by_the_border_or_the_ball_are_counted():
    policy = random_policy(48)
    black = [(torch.zeros(3, 4, 4, dtype=torch.uint8),)]
    context = make_context(policy.token_entropy, black, [TEXTS])
    (row,), ((image,),) = egas(context).ledger, egas(context).images
    # a step below 0 is cut whole, one above stays: the two shares are complements
    assert row.touched_share == int((image[0] > 0).sum()) / 48
    assert row.clipped_share == pytest.approx(1 - row.touched_share) and 0.2 < row.clipped_share < 0.8
    # step 2 in a ball of 2, two iterations: where both point the same way the second is cut; none in a ball of 4
    shares = {}
    for epsilon in (2.0, 4.0):
        inner = random_context(1, view=ViewConfig(step_size=2.0, iterations=2, epsilon=epsilon))[0]
        shares[epsilon] = egas(inner).ledger[0].clipped_share
    assert shares[4] == 0 and 0.4 < shares[2] <= 0.5


@pytest.mark.parametrize("view", [ViewConfig(step_size=0.0), ViewConfig(iterations=0)])
@pytest.mark.parametrize("name", ["egas", "random_sign"])
def test_step_0_or_no_iteration_returns_the_images_bit_for_bit_without_a_backward_pass(view, name):
    policy = random_policy(48)
    images = random_images(3, low=0, high=256)
    result = VIEWS[name].make(make_context(policy.token_entropy, images, [TEXTS] * 3, view=view))
    assert all(torch.equal(moved[0][0], clean[0]) for moved, clean in zip(result.images, images, strict=True))
    assert policy.grad_calls == 0
    for row in result.ledger:
        assert not row.moved and row.linf == row.l2 == row.touched_share == 0
        assert row.entropy_after == row.entropy_before


def test_all_256_levels_survive_the_way_to_unit_range_and_back():
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 1, 1)
    assert torch.equal(to_bytes(to_unit(levels)), levels)
    for shift in (-3, -2, 2, 3):
        inner = levels[..., 3:-3]
        assert torch.equal(to_bytes(to_unit(inner) + shift / 255).int(), inner.int() + shift)


# ---- what must not matter -------------------------------------------------------------------------------------------
def test_a_problem_does_not_depend_on_its_batch_mates():
    view, select = ViewConfig(iterations=2, epsilon=3.0), SelectConfig(rule="random")
    policy = random_policy(48)
    images = random_images(4)
    names = ["a", "b", "c", "d"]
    together = egas(make_context(policy.token_entropy, images, [TEXTS] * 4, view=view, select=select, names=names))
    for i in (0, 2):
        alone = egas(
            make_context(policy.token_entropy, [images[i]], [TEXTS], view=view, select=select, names=[names[i]])
        )
        assert torch.equal(alone.images[0][0][0], together.images[i][0][0])
        assert alone.ledger[0] == together.ledger[i]


def test_the_scale_of_the_entropy_and_duplicated_completions_do_not_matter():
    policy = random_policy(48)
    images = random_images(4)
    plain = egas(make_context(policy.token_entropy, images, [TEXTS] * 4))
    twice = egas(make_context(policy.token_entropy, images, [[*TEXTS, *TEXTS]] * 4))
    policy.scale = 7.0
    scaled = egas(make_context(policy.token_entropy, images, [TEXTS] * 4))
    for one, two, three in zip(plain.images, twice.images, scaled.images, strict=True):
        assert torch.equal(one[0][0], two[0][0]) and torch.equal(one[0][0], three[0][0])


def test_token_mean_and_sequence_mean_move_some_pixel_differently():
    images = [
        egas(random_context(4, select=ALL, view=ViewConfig(objective=objective))[0]).images
        for objective in ("sequence_mean", "token_mean")
    ]
    assert any(not torch.equal(a[0][0], b[0][0]) for a, b in zip(*images, strict=True))


def test_tokens_that_were_not_kept_do_not_steer_the_attack():
    # by hand: the gradient of the kept tokens alone, on the clean image
    context, heads = random_context(1)
    (((moved,),),) = egas(context).images
    pixels = to_unit(context.images[0][0]).requires_grad_()
    means = []
    for text in TEXTS:
        entropy = torch.stack([entropy_of(heads[token](pixels.flatten())) for token in text])
        third = len(text) // 3
        means.append(entropy[entropy.detach().argsort()[third : len(text) - third]].mean())
    (gradient,) = torch.autograd.grad(torch.stack(means).mean(), pixels)
    assert torch.equal(moved.int() - context.images[0][0].int(), 2 * gradient.sign().int())


# ---- when to choose the tokens --------------------------------------------------------------------------------------
def test_refreshing_the_choice_each_iteration_changes_what_later_steps_climb():
    views = ViewConfig(step_size=16.0, iterations=3, epsilon=48.0)
    runs = {}
    for refresh in ("once", "each_iteration"):
        policy = random_policy(48, spread=8.0)
        select = SelectConfig(refresh=refresh)
        context = make_context(policy.token_entropy, random_images(6), [TEXTS] * 6, view=views, select=select)
        runs[refresh] = egas(context), policy
    once, each = runs["once"][0], runs["each_iteration"][0]
    assert any(not torch.equal(a[0][0], b[0][0]) for a, b in zip(once.images, each.images, strict=True))
    # the ledger compares the tokens chosen on the clean image, whichever way
    assert [row.entropy_before for row in once.ledger] == [row.entropy_before for row in each.ledger]
    # the pass that climbs also chooses; the one without gradient is the ledger's
    assert (runs["once"][1].plain_calls, runs["each_iteration"][1].plain_calls) == (1, 1)
    assert runs["once"][1].grad_calls == runs["each_iteration"][1].grad_calls == 3


def test_at_one_iteration_refresh_has_no_effect():
    images = [
        egas(random_context(select=SelectConfig(refresh=refresh))[0]).images for refresh in ("once", "each_iteration")
    ]
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(*images, strict=True))


# ---- problems without a usable gradient -----------------------------------------------------------------------------
def damaged_context(damage: float) -> tuple[ViewContext, ViewContext]:
    """Three problems, the gradient of the middle one's entropies times `damage`; and the same without damage."""
    policy = random_policy(48)

    def token_entropy(images, completions, kept):
        entropy = policy.token_entropy(images, completions, kept)
        if torch.is_grad_enabled():
            for tokens in entropy[1]:
                tokens.register_hook(lambda gradient: gradient * damage)
        elif kept is not None:  # the ledger's forward, whose last digits may differ from the first one's
            entropy[1] = [tokens * (1 + 1e-6) for tokens in entropy[1]]
        return entropy

    images = random_images(3)
    view = ViewConfig(iterations=2, epsilon=4.0)
    return tuple(make_context(f, images, [TEXTS] * 3, view=view) for f in (token_entropy, policy.token_entropy))


@pytest.mark.parametrize("damage", [0.0, math.nan, math.inf])
def test_a_zero_or_non_finite_gradient_leaves_that_problem_clean_and_counted_and_the_others_alone(damage):
    damaged, intact = damaged_context(damage)
    result, reference = egas(damaged), egas(intact)
    assert torch.equal(result.images[1][0][0], damaged.images[1][0])
    row = result.ledger[1]
    assert not row.moved and row.linf == 0 and row.entropy_after == row.entropy_before
    assert row.zero_gradient_share == 1 if damage == 0 else math.isnan(row.zero_gradient_share)
    for i in (0, 2):
        assert torch.equal(result.images[i][0][0], reference.images[i][0][0])
        assert result.ledger[i] == reference.ledger[i] and result.ledger[i].moved


def test_entropies_that_do_not_depend_on_the_image_leave_it_clean():
    constant = lambda images, completions, kept: [  # noqa: E731
        [torch.ones(len(text) if kept is None else int(kept[i][j].sum())) for j, text in enumerate(texts)]
        for i, texts in enumerate(completions)
    ]
    context = make_context(constant, random_images(2), [TEXTS] * 2)
    result = egas(context)
    assert all(torch.equal(m[0][0], c[0]) for m, c in zip(result.images, context.images, strict=True))
    assert [(row.moved, row.zero_gradient_share) for row in result.ledger] == [(False, 1.0)] * 2


# ---- several images, no completions, the budget check ---------------------------------------------------------------
def test_all_images_of_a_problem_are_moved_and_their_norms_joined():
    # image sizes 3x2x2 and 3x4x3: 12 + 36 channels, all moved by 2 levels
    generator = torch.Generator().manual_seed(0)
    group = tuple(
        torch.randint(20, 230, (3, *size), generator=generator, dtype=torch.uint8) for size in ((2, 2), (4, 3))
    )
    context = make_context(random_policy(48).token_entropy, [group], [TEXTS])
    result = egas(context)
    assert all(
        (m.int() - c.int()).abs().unique().tolist() == [2] for m, c in zip(result.images[0][0], group, strict=True)
    )
    assert result.ledger[0].l2 == pytest.approx(2 * math.sqrt(48) / 255)
    assert result.ledger[0].linf == 2 / 255


def test_group_scope_with_a_completion_that_keeps_no_token_still_moves_the_image():
    select = SelectConfig(scope="group", drop_low=Fraction(9, 10), drop_high=Fraction(0))
    context, _ = random_context(select=select)
    for row in egas(context).ledger:
        # 12 tokens, floor(10.8) = 10 dropped
        assert row.moved and row.tokens_kept == 2 and row.tokens_total == 12


@pytest.mark.parametrize("name", ["egas", "random_sign"])
def test_an_attack_without_earlier_completions_is_refused(name):
    context = make_context(random_policy(48).token_entropy, random_images(1), [[]])
    with pytest.raises(ValueError, match=r"p0 has no earlier completion .* must start with clean"):
        VIEWS[name].make(context)


def test_the_clean_view_copies_and_writes_no_ledger():
    context, _ = random_context()
    result = VIEWS["clean"].make(context)
    assert [list(entry) for entry in result.images] == [[images] for images in context.images] and not result.ledger


def test_the_budget_check_refuses_one_level_too_many_and_a_changed_size():
    clean = (torch.full((3, 2, 2), 100, dtype=torch.uint8),)
    moved = (clean[0].clone(),)
    moved[0][1, 0, 1] = 98
    check_budget(clean, moved, 2.0)
    with pytest.raises(RuntimeError, match="moved by 2 grey levels, the budget is 1 "):
        check_budget(clean, moved, 1.0)
    # uint8 arithmetic would wrap: 0 -> 255 is 255 levels, not 1
    with pytest.raises(RuntimeError, match="moved by 255"):
        check_budget((torch.zeros(3, 1, 1, dtype=torch.uint8),), (torch.full((3, 1, 1), 255, dtype=torch.uint8),), 8.0)
    with pytest.raises(RuntimeError, match="number or the size"):
        check_budget(clean, (clean[0][:, :1],), 2.0)
