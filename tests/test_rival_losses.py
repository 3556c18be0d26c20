"""The rivals' losses against the toy batch of the methods sheet and literal formulas; what every loss has to keep."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from saei.config import LossConfig
from saei.losses import AGGREGATIONS, LOSSES, PICKS, Denominator, LossInputs, total_loss
from saei.losses.covariance import token_covariance
from saei.seeding import torch_generator
from tests.test_losses import ADVANTAGES, ENTROPY, LOGPROBS, MASK, NAN, OLD, TOY, denominator_of, random_inputs

# What makes each loss do something of its own on a few dozen tokens.
SETTINGS: dict[str, dict[str, Any]] = {
    "gspo": {"clip_low": 0.05, "clip_high": 0.05},
    "kl_cov": {"token_share": 0.2},
    "clip_cov": {"token_share": 0.2, "cov_low": 0.0},
    "sent_v1": {"token_share": 0.2},
    "sent_v2": {"token_share": 0.2},
    "sent_paper": {"token_share": 0.2},
}
WITHOUT_OWN_TERM: dict[str, dict[str, Any]] = {
    name: {"penalty": 0.0} for name in ("kl_cov", "sent_v1", "sent_v2", "sent_paper")
}
WITHOUT_OWN_TERM["papo"] = {"perception_coef": 0.0}


def generator():
    return torch_generator(0, "loss")


def picked(inputs, config) -> Any:
    """The inputs with the picks of this whole batch, where the loss has any."""
    pick = PICKS.get(config.name)
    return inputs if pick is None else replace(inputs, picks=pick(inputs, config, generator()))


def full_inputs(name, seed=0, denominator="all") -> Any:
    """Random inputs with everything a loss may read, a selection of about 2/3 of the tokens, and its picks."""
    inputs, random = random_inputs(seed=seed), torch.Generator().manual_seed(seed + 100)
    mask = inputs.mask
    selected = mask & (torch.rand(mask.shape, generator=random) < 2 / 3)
    inputs = replace(
        inputs,
        entropy=torch.rand(mask.shape, generator=random, dtype=torch.float64).requires_grad_(),
        perturbed_logprobs=inputs.logprobs.detach() + torch.randn(mask.shape, generator=random, dtype=torch.float64),
        entropy_weight=torch.rand(len(mask), generator=random, dtype=torch.float64),
        selected=selected,
        counted=selected if denominator == "selected" else None,
    )
    return picked(inputs, LossConfig(name=name, **SETTINGS.get(name, {})))


def rows_of(inputs, rows):
    """A micro-batch with leaves of its own, cut to its longest completion."""
    longest = int(inputs.mask[rows].sum(dim=1).max())
    names = ("logprobs", "old_logprobs", "mask", "ref_logprobs", "entropy", "selected", "counted", "picks")
    parts: dict[str, Any] = {name: getattr(inputs, name) for name in (*names, "perturbed_logprobs")}
    parts = {name: None if value is None else value[rows, :longest].detach() for name, value in parts.items()}
    parts["logprobs"].requires_grad_()
    return LossInputs(
        advantages=inputs.advantages[rows],
        entropy_weight=None if inputs.entropy_weight is None else inputs.entropy_weight[rows],
        **parts,
    )


def sizes(inputs):
    return replace(denominator_of(inputs), counted=None if inputs.counted is None else int(inputs.counted.sum()))


def toy_loss(**settings):
    config = LossConfig(**settings)
    loss, _ = total_loss(picked(replace(TOY, entropy=ENTROPY), config), config, denominator_of(TOY))
    return loss.item()


# --- the toy batch ----------------------------------------------------------------------------------------------------


def test_covariance_of_the_toy_batch():
    # mean A = 2/8, mean logprob = -6.65/8 = -.83125; first token: .75 * (-.10 + .83125) = .548438
    expected = [0.548438, -0.276562, 0.248438, -0.876562, 0.585938, -0.664062, 0.085938, 0.960938]
    got = token_covariance(TOY, MASK)
    torch.testing.assert_close(got[MASK], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    assert got[~MASK].tolist() == [0.0, 0.0]


def test_covariance_over_some_tokens_takes_both_means_over_them():
    # SENT's L, without the entropies 2.10 and 1.70: mean A = (4 - 2) / 6, mean logprob = -3.05 / 6 = -.508333
    low = MASK & (ENTROPY < 1.5)
    # first token: 2/3 * (-.10 + .508333) = .272222; last: -4/3 * (-.90 + .508333) = .522222
    expected = [0.272222, -0.461111, 0.005556, 0.305556, -0.277778, 0.522222]
    got = token_covariance(TOY, low)
    torch.testing.assert_close(got[low], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (got[~low] == 0).all()
    # the first token of each row: mean A = 0, mean logprob = -.2: 1 * .1 and -1 * -.1
    first = torch.zeros_like(MASK)
    first[:, 0] = True
    torch.testing.assert_close(token_covariance(TOY, first), 0.1 * first.double())


def test_kl_cov_on_the_toy_batch():
    # unclipped -.294864; the largest covariance is row 2's third token, |logprob - old| = .1: + .1 / 8
    assert toy_loss(name="kl_cov", token_share=0.002, penalty=1.0) == pytest.approx(-0.282364, abs=1e-6)
    assert toy_loss(name="kl_cov", token_share=0.002, penalty=0.0) == pytest.approx(-0.294864, abs=1e-6)


def test_clip_cov_on_the_toy_batch():
    # eligible: 1.105171 and 1 of row 1, .904837 of row 2; 4 may be taken, so all are: (-2.358916 + 1.200334) / 8
    settings = {"name": "clip_cov", "token_share": 0.5, "clip_low": 1.0, "clip_high": 1.0}
    assert toy_loss(**settings, cov_low=0.5, cov_high=5.0) == pytest.approx(-0.144823, abs=1e-6)


def test_sent_v2_on_the_toy_batch():
    # L leaves out H = 2.10 and 1.70; its largest covariance is row 2's second token (|d| .1), its smallest row 1's
    # second (.2): (-2.358916 + 2 * .1 + .5 * .2) / 8
    assert toy_loss(name="sent_v2", token_share=0.0002) == pytest.approx(-0.257364, abs=1e-6)


def test_sent_v1_on_the_toy_batch():
    # ratios of L: row 1 sums to 3.923902, row 2 to 2.010008; |d| to .5: (-3.923902 + 2.010008 + .5) / 6
    assert toy_loss(name="sent_v1", token_share=0.0002) == pytest.approx(-0.235649, abs=1e-6)


def test_sent_as_its_paper_reads_on_the_toy_batch():
    # all of L weighs 1 (|d| sum .5), the largest covariance 1 more (|d| .1): (-2.358916 + .6) / 8
    assert toy_loss(name="sent_paper", token_share=0.0002) == pytest.approx(-0.219864, abs=1e-6)


def test_gspo_on_the_toy_batch():
    # mean log-ratios (.1 - .2 + 0 + .3 + 0) / 5 = .04 and (.1 - .1 - .1) / 3: s = 1.040811 and .967216
    settings = {"name": "gspo", "aggregation": "sequence_mean"}
    assert toy_loss(**settings) == pytest.approx((-1.040811 + 0.967216) / 2, abs=1e-6)
    # the recipe's clip: row 1 is held at 1.0004; row 2, of A < 0, at .9997
    recipe = toy_loss(**settings, clip_low=3e-4, clip_high=4e-4)
    assert recipe == pytest.approx((-1.0004 + 0.9997) / 2, abs=1e-9)


def test_cispo_on_the_toy_batch():
    # weights of row 1 clipped to 1.105171 .818731 1 1.28 1, times logprobs -.10 -1.20 -.50 -2.00 -.05 = -4.202994;
    # of row 2 1.105171 .904837 .904837, times -.30 -.90 -1.60 = -2.593644: (4.202994 - 2.593644) / 8
    assert toy_loss(name="cispo", clip_high=0.28) == pytest.approx(0.201169, abs=1e-6)


def test_papo_on_the_toy_batch():
    # d = .3 on row 1 (k3 .049859), -.3 on row 2 (.040818), and one token held: e^4 - 5 = 49.6 counts as 10
    perturbed = LOGPROBS + torch.tensor([[0.3], [-0.3]], dtype=torch.float64)
    perturbed[0, 0] = LOGPROBS[0, 0] + 4
    config = LossConfig(name="papo", perception_coef=0.02)
    loss, _ = total_loss(replace(TOY, perturbed_logprobs=perturbed), config, denominator_of(TOY))
    assert loss.item() == pytest.approx(-0.276132 - 0.02 * (4 * 0.049859 + 3 * 0.040818 + 10) / 8, abs=1e-6)


# --- what each loss does to the gradient ------------------------------------------------------------------------------


def gradient_of(inputs, config):
    loss, _ = total_loss(inputs, config, sizes(inputs))
    (gradient,) = torch.autograd.grad(loss, inputs.logprobs)
    return gradient


def test_gspo_has_the_gradient_of_the_sequence_level_formula():
    config = LossConfig(name="gspo", aggregation="sequence_mean", clip_low=0.05, clip_high=0.05)
    inputs = random_inputs(seed=5, with_reference=False)
    mask, advantages = inputs.mask, inputs.advantages
    total = torch.where(mask, inputs.logprobs - inputs.old_logprobs, 0.0).sum(dim=1)
    ratio = (total / mask.sum(dim=1)).exp()
    literal = -torch.minimum(ratio * advantages, ratio.clamp(0.95, 1.05) * advantages).mean()
    (expected,) = torch.autograd.grad(literal, inputs.logprobs)
    torch.testing.assert_close(gradient_of(inputs, config), expected, rtol=1e-12, atol=1e-14)
    silent = (expected.abs().sum(dim=1) == 0).sum()
    assert 0 < silent < len(mask)  # some completions are clipped, and as a whole


def test_gspo_teaches_only_the_selected_tokens():
    config = LossConfig(name="gspo", clip_low=1.0, clip_high=9.0)
    inputs = random_inputs(seed=5, with_reference=False)
    selected = inputs.mask & (torch.arange(inputs.mask.shape[1]) % 2 == 0)
    gradient = gradient_of(replace(inputs, selected=selected), config)
    assert (gradient[~selected] == 0).all() and (gradient[selected] != 0).all()


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    logprobs = LOGPROBS.clone().requires_grad_()
    # the weight times -A, over 8 tokens; token 4 of row 1 is clipped to 1.2 and still learns
    gradient = gradient_of(replace(TOY, logprobs=logprobs), LossConfig(name="cispo"))
    weights = [[-1.105171, -0.818731, -1.0, -1.2, -1.0], [1.105171, 0.904837, 0.904837, 0.0, 0.0]]
    torch.testing.assert_close(gradient, torch.tensor(weights, dtype=torch.float64) / 8, atol=1e-6, rtol=0)


def test_kl_cov_is_plain_policy_gradient_in_a_first_update():
    logprobs = OLD.clone().requires_grad_()
    config = LossConfig(name="kl_cov", token_share=1.0, penalty=5.0)
    inputs = picked(replace(TOY, logprobs=logprobs), config)
    expected = torch.where(MASK, -ADVANTAGES[:, None] / 8, 0.0)  # ratio 1
    torch.testing.assert_close(gradient_of(inputs, config), expected, rtol=0, atol=1e-15)


def test_one_token_is_always_picked_however_small_the_share():
    picks = PICKS["kl_cov"](TOY, LossConfig(name="kl_cov", token_share=1e-12), generator())
    assert picks.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]  # covariance .960938


def test_the_kl_cov_penalty_pulls_back_the_tokens_it_picks():
    logprobs = LOGPROBS.clone().requires_grad_()
    config = LossConfig(name="kl_cov", token_share=0.25, penalty=2.0)
    inputs = picked(replace(TOY, logprobs=logprobs), config)
    plain = gradient_of(replace(inputs, picks=torch.zeros_like(inputs.picks)), config)
    # 2 of 8 tokens: covariances .960938 (moved by -.1) and .585938 (not moved: no gradient)
    assert inputs.picks.tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0]]
    expected = torch.zeros_like(LOGPROBS)
    expected[1, 2] = -2 / 8
    torch.testing.assert_close(gradient_of(inputs, config) - plain, expected)


def test_clip_cov_takes_the_gradient_of_picked_tokens_and_of_no_others():
    config = LossConfig(name="clip_cov", token_share=0.2, cov_low=0.0, clip_low=1.0, clip_high=9.0)
    inputs = picked(random_inputs(seed=6, with_reference=False), config)
    gradient = gradient_of(inputs, config)
    assert (inputs.picks == 1).sum() == int(0.2 * int(inputs.mask.sum()))
    assert (gradient[inputs.picks == 1] == 0).all()
    assert (gradient[inputs.mask & (inputs.picks == 0)] != 0).all()


def test_clip_cov_does_not_pick_what_is_clipped_already():
    # covariances of row 1 above .2: tokens 1, 3 and 5; with clip_high .1 the first (ratio 1.105171) is clipped
    settings: dict[str, Any] = {"name": "clip_cov", "token_share": 1.0, "cov_low": 0.2}
    picks = PICKS["clip_cov"](TOY, LossConfig(**settings, clip_high=0.2), generator())
    assert picks.tolist() == [[1, 0, 1, 0, 1], [0, 0, 1, 0, 0]]
    picks = PICKS["clip_cov"](TOY, LossConfig(**settings, clip_high=0.1), generator())
    assert picks.tolist() == [[0, 0, 1, 0, 1], [0, 0, 1, 0, 0]]
    picks = PICKS["clip_cov"](TOY, LossConfig(**settings, cov_high=0.3), generator())
    assert picks.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


def test_clip_cov_draws_from_its_generator():
    config = LossConfig(name="clip_cov", token_share=0.1, cov_low=-9.0, cov_high=9.0)
    inputs = random_inputs(seed=7)
    first, again = (PICKS["clip_cov"](inputs, config, torch_generator(0, "loss", 3)) for _ in range(2))
    other = PICKS["clip_cov"](inputs, config, torch_generator(0, "loss", 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_clip_cov_without_an_eligible_token_is_grpo():
    config = LossConfig(name="clip_cov", cov_low=50.0, cov_high=60.0)
    inputs = picked(TOY, config)
    assert inputs.picks is not None and inputs.picks.sum() == 0
    ours, _ = total_loss(inputs, config, denominator_of(TOY))
    assert ours.item() == total_loss(TOY, LossConfig(), denominator_of(TOY))[0].item()


def test_papo_under_the_same_image_is_grpo_and_so_is_a_weight_of_zero():
    inputs = random_inputs(seed=8, with_reference=False)
    grpo = gradient_of(inputs, LossConfig())
    same_image = replace(inputs, perturbed_logprobs=inputs.logprobs.detach())
    torch.testing.assert_close(gradient_of(same_image, LossConfig(name="papo")), grpo, rtol=0, atol=1e-15)
    other_image = replace(inputs, perturbed_logprobs=inputs.logprobs.detach() - 1)
    without = LossConfig(name="papo", perception_coef=0.0)
    torch.testing.assert_close(gradient_of(other_image, without), grpo, rtol=0, atol=0)
    assert not torch.allclose(gradient_of(other_image, LossConfig(name="papo", perception_coef=0.5)), grpo)


def test_papo_rewards_moving_away_from_the_masked_image():
    # d = -1: the divergence grows with logprobs at the rate 1 - e^-1 = .632121, so the loss falls by .02 of it / 8
    logprobs = LOGPROBS.clone().requires_grad_()
    inputs = replace(TOY, logprobs=logprobs, perturbed_logprobs=LOGPROBS - 1)
    moved = gradient_of(inputs, LossConfig(name="papo")) - gradient_of(inputs, LossConfig())
    torch.testing.assert_close(moved, torch.where(MASK, -0.02 * 0.632121 / 8, 0.0).double(), atol=1e-8, rtol=0)


def test_sent_v1_teaches_nothing_to_high_entropy_tokens():
    logprobs = LOGPROBS.clone().requires_grad_()
    config = LossConfig(name="sent_v1")
    inputs = picked(replace(TOY, logprobs=logprobs, entropy=ENTROPY), config)
    gradient = gradient_of(inputs, config)
    assert gradient[0, 3] == 0 and gradient[1, 2] == 0  # H = 2.10 and 1.70
    assert (gradient != 0).sum() == 6


@pytest.mark.parametrize("denominator", ["selected", "all"])
def test_sent_v1_is_the_mean_over_its_tokens_however_the_batch_is_split(denominator):
    config = LossConfig(name="sent_v1")
    inputs = full_inputs("sent_v1", seed=9, denominator=denominator)
    inputs = replace(inputs, ref_logprobs=None, entropy_weight=None)
    low = inputs.picks > 0
    difference = (inputs.logprobs - inputs.old_logprobs)[low]
    advantages = inputs.advantages[:, None].expand_as(low)[low]
    mean = (-advantages * difference.exp() + difference.abs()).mean()
    assert int(low.sum()) == int(0.8 * int(inputs.selected.sum()))
    share = inputs.selected.sum() / inputs.divided_by.sum()  # divided by all: as much smaller as for any loss
    whole = sizes(inputs)
    parts = [total_loss(rows_of(inputs, rows), config, whole)[0] for rows in (slice(0, 5), slice(5, 12))]
    torch.testing.assert_close(torch.stack(parts).sum(), mean * share)


def test_four_fifths_in_whole_numbers_are_the_official_rounding():
    assert all(count * 4 // 5 == int(0.8 * count) for count in range(20_000))


def test_the_ends_of_sents_covariance_may_meet():
    # L is one token: the largest and the smallest, where the official code writes the smallest's weight last
    config = LossConfig(name="sent_v2")
    one = torch.zeros_like(MASK)
    one[0, 1] = True
    inputs = replace(TOY, entropy=ENTROPY, selected=one)
    picks = PICKS["sent_v2"](inputs, config, generator())
    loss, _ = total_loss(replace(inputs, picks=picks), config, denominator_of(TOY))
    assert loss.item() == pytest.approx((-0.818731 + 0.5 * 0.2) / 8, abs=1e-6)


# --- what all losses keep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denominator", ["selected", "all"])
@pytest.mark.parametrize(
    ("name", "aggregation"),
    # sent_v1 is a mean over tokens, and the settings refuse it any other
    [(name, way) for name in LOSSES for way in AGGREGATIONS if name != "sent_v1" or way == "token_mean"],
)
def test_micro_batches_add_up_to_the_whole(name, aggregation, denominator):
    settings: dict[str, Any] = {"aggregation": aggregation, "kl_coef": 0.2, "nll_coef": 0.1, **SETTINGS.get(name, {})}
    config = LossConfig(name=name, **settings)
    whole = full_inputs(name, denominator=denominator)
    size = sizes(whole)
    loss, sums = total_loss(whole, config, size)
    (gradient,) = torch.autograd.grad(loss, whole.logprobs)
    losses, gradients, part_sums = [], [], []
    for rows in (slice(0, 1), slice(1, 7), slice(7, 12)):
        part = rows_of(whole, rows)
        part_loss, of_part = total_loss(part, config, size)
        (part_gradient,) = torch.autograd.grad(part_loss, part.logprobs)
        losses.append(part_loss)
        gradients.append(torch.nn.functional.pad(part_gradient, (0, whole.mask.shape[1] - part.mask.shape[1])))
        part_sums.append(of_part)
    torch.testing.assert_close(torch.stack(losses).sum(), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-12, atol=1e-12)
    for key, values in sums.items():
        torch.testing.assert_close(torch.cat([part[key] for part in part_sums]), values)
    assert {"clip_low", "clip_high", "importance_ratio", "kl"} == set(sums)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_is_never_read(name):
    settings: dict[str, Any] = {"kl_coef": 0.2, "nll_coef": 0.1, **SETTINGS.get(name, {})}
    config = LossConfig(name=name, **settings)
    clean = full_inputs(name, seed=3)
    fields = ("logprobs", "old_logprobs", "ref_logprobs", "entropy", "perturbed_logprobs")
    dirty = {field: torch.where(clean.mask, getattr(clean, field).detach(), NAN) for field in fields}
    dirty["logprobs"].requires_grad_()
    holes = picked(replace(clean, picks=None, **dirty), config)
    if clean.picks is not None:
        assert torch.equal(holes.picks, clean.picks)
    loss, sums = total_loss(holes, config, sizes(holes))
    expected, _ = total_loss(clean, config, sizes(clean))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-14)
    (gradient,) = torch.autograd.grad(loss, holes.logprobs)
    assert (gradient[~clean.mask] == 0).all() and torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
    assert all(torch.isfinite(values).all() for values in sums.values())


@pytest.mark.parametrize("name", LOSSES)
def test_advantages_of_zero_teach_nothing(name):
    settings = SETTINGS.get(name, {}) | WITHOUT_OWN_TERM.get(name, {})
    inputs = full_inputs(name, seed=1)
    config = LossConfig(name=name, **settings)
    silent = picked(replace(inputs, advantages=0 * inputs.advantages, entropy_weight=None, ref_logprobs=None), config)
    assert (gradient_of(silent, config) == 0).all()
    assert gradient_of(inputs, config).abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_tokens_that_are_not_selected_get_no_gradient(name):
    config = LossConfig(name=name, **SETTINGS.get(name, {}))
    inputs = replace(full_inputs(name, seed=2), ref_logprobs=None, entropy_weight=None)
    gradient = gradient_of(inputs, config)
    assert (gradient[~inputs.selected] == 0).all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_logits_of_ten_thousand_give_finite_losses_and_gradients(name):
    config = LossConfig(name=name, kl_coef=0.1, nll_coef=0.1, **SETTINGS.get(name, {}))
    logits = 1e4 * torch.tensor([[[1.0, -1.0, 0.0]] * 3, [[-1.0, 1.0, 0.0]] * 3])
    logits.requires_grad_()
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    logprobs = log_p[..., 0]  # 0 in row 1, -20000 in row 2
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach().flip(0),
        ref_logprobs=logprobs.detach().flip(0),
        perturbed_logprobs=logprobs.detach().flip(0),
        entropy=entropy,
        entropy_weight=torch.tensor([0.1, 0.1]),
        advantages=torch.tensor([-1.0, 1.0]),
        mask=torch.ones(2, 3, dtype=torch.bool),
    )
    inputs = picked(inputs, config)
    loss, sums = total_loss(inputs, config, Denominator(tokens=6, sequences=2, constant_length=3))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()
    assert all(torch.isfinite(values).all() for values in sums.values())


@pytest.mark.parametrize("name", PICKS)
def test_picks_are_selected_tokens_and_carry_no_gradient(name):
    inputs = full_inputs(name, seed=4)
    assert inputs.picks.dtype == torch.int64 and not inputs.picks.requires_grad
    assert (inputs.picks[~inputs.selected] == 0).all()
    assert 0 < (inputs.picks != 0).sum() < inputs.selected.sum()


@pytest.mark.parametrize("name", PICKS)
def test_a_batch_without_a_selected_token_picks_none(name):
    config = LossConfig(name=name, **SETTINGS[name])
    picks = PICKS[name](replace(TOY, entropy=ENTROPY, selected=torch.zeros_like(MASK)), config, generator())
    assert picks.sum() == 0
    loss, _ = total_loss(
        replace(TOY, picks=picks, selected=torch.zeros_like(MASK), counted=torch.zeros_like(MASK)),
        config,
        Denominator(tokens=8, sequences=2, constant_length=5, counted=0),
    )
    assert loss.item() == 0.0
