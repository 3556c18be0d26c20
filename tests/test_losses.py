"""The clipped loss and what all losses share: the methods sheet's toy batch, worked out by hand, and TRL's code."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from saei.config import LossConfig
from saei.losses import AGGREGATIONS, KL_ESTIMATORS, Denominator, LossInputs, total_loss

NAN = float("nan")
# Two completions, the second of 3 tokens; importance ratios 1.105171 .818731 1 1.349859 1 and 1.105171 .904837 .904837
LOGPROBS = torch.tensor([[-0.10, -1.20, -0.50, -2.00, -0.05], [-0.30, -0.90, -1.60, -0.20, -0.70]], dtype=torch.float64)
OLD = torch.tensor([[-0.20, -1.00, -0.50, -2.30, -0.05], [-0.40, -0.80, -1.50, -0.40, -0.70]], dtype=torch.float64)
ENTROPY = torch.tensor([[0.05, 1.40, 0.60, 2.10, 0.02], [0.30, 0.90, 1.70, 0.40, 0.80]], dtype=torch.float64)
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
ADVANTAGES = torch.tensor([1.0, -1.0], dtype=torch.float64)
TOY = LossInputs(logprobs=LOGPROBS, old_logprobs=OLD, advantages=ADVANTAGES, mask=MASK)


def toy_loss(constant_length=5, **settings):
    denominator = Denominator(tokens=8, sequences=2, constant_length=constant_length)
    loss, _ = total_loss(TOY, LossConfig(**settings), denominator)
    return round(loss.item(), 6)


def random_inputs(seed=0, rollouts=12, tokens=9, with_reference=True):
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return -2 * torch.rand(rollouts, tokens, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, tokens + 1, (rollouts,), generator=generator)
    logprobs = draw().requires_grad_()
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach() + 0.4 * torch.randn(rollouts, tokens, generator=generator, dtype=torch.float64),
        ref_logprobs=draw() if with_reference else None,
        advantages=torch.randn(rollouts, generator=generator, dtype=torch.float64),
        mask=torch.arange(tokens) < lengths[:, None],
    )


def denominator_of(inputs, constant_length=16):
    tokens, sequences = int(inputs.mask.sum()), len(inputs.mask)
    return Denominator(tokens=tokens, sequences=sequences, constant_length=constant_length)


def test_the_toy_batch_without_clipping():
    # row 1 sums to -5.273761, row 2 to +2.914845: -2.358916 / 8
    assert toy_loss(clip_low=1.0, clip_high=1e9) == -0.294864


def test_the_toy_batch_with_symmetric_clipping():
    # of row 1 only token 4 is clipped, 1.349859 -> 1.2: -5.123902 + 2.914845 = -2.209057 (the sheet: -1.104528 * 2)
    assert toy_loss() == -0.276132  # / 8 tokens
    assert toy_loss(aggregation="sequence_mean") == -0.026583  # (-5.123902 / 5 + 2.914845 / 3) / 2
    assert toy_loss(aggregation="constant_length", constant_length=1) == -1.104528  # / 2: seq-mean-token-sum
    assert toy_loss(aggregation="constant_length") == -0.220906  # / (2 * 5): TRL's dr_grpo
    # verl's Dr. GRPO divides by the length alone: ours times the 2 completions, -2.209057 / 5
    assert toy_loss(aggregation="constant_length", constant_length=5) * 2 == pytest.approx(-0.441811, abs=1.5e-6)


def test_the_toy_batch_with_a_higher_upper_clip():
    # token 4 of row 1 is clipped to 1.28, .08 further: -2.289057
    assert toy_loss(clip_high=0.28) == -0.286132
    assert toy_loss(clip_high=0.28, aggregation="sequence_mean") == -0.034583
    assert toy_loss(clip_high=0.28, aggregation="constant_length", constant_length=1) == -1.144528


def test_a_dual_clip_that_no_ratio_reaches_changes_nothing():
    assert toy_loss(dual_clip=3.0) == -0.276132  # row 2's largest ratio is 1.105171
    assert toy_loss(dual_clip=3.0, aggregation="sequence_mean") == -0.026583


def test_the_dual_clip_bounds_tokens_of_negative_advantage_only():
    # ratio e^2 = 7.389056 in both rows; A = -2: 2 * 7.389056 is cut to 2 * 3; A = 1: the upper clip acts, -1.2
    logprobs = torch.tensor([[-1.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=torch.full((2, 1), -3.0, dtype=torch.float64),
        advantages=torch.tensor([-2.0, 1.0], dtype=torch.float64),
        mask=torch.ones(2, 1, dtype=torch.bool),
    )
    free, _ = total_loss(inputs, LossConfig(), denominator_of(inputs))
    assert free.item() == pytest.approx((2 * 7.389056 - 1.2) / 2, abs=1e-6)
    held, _ = total_loss(inputs, LossConfig(dual_clip=3.0), denominator_of(inputs))
    assert held.item() == pytest.approx((6 - 1.2) / 2, abs=1e-12)
    held.backward()
    assert logprobs.grad is not None and logprobs.grad.tolist() == [[0.0], [0.0]]


def test_selected_tokens_are_divided_by_their_number_or_by_all():
    # 80/20 keeps the 3 highest entropies: ratios .818731, 1.28 (clipped) at A = 1, .904837 at A = -1; sum -1.193894
    selected = torch.tensor([[False, True, False, True, False], [False, False, True, False, False]])
    config = LossConfig(clip_high=0.28)
    sizes = {"tokens": 8, "sequences": 2, "constant_length": 5}
    of_selected = replace(TOY, selected=selected, counted=selected)
    loss, sums = total_loss(of_selected, config, Denominator(**sizes, counted=3))
    assert loss.item() == pytest.approx(-0.397965, abs=1e-6)
    assert sums["clip_high"].tolist() == [1, 0]
    of_all = replace(TOY, selected=selected)
    assert total_loss(of_all, config, Denominator(**sizes))[0].item() == pytest.approx(-0.149237, abs=1e-6)
    # sequence_mean: rows of 2 and 1 selected tokens of 5 and 3
    config = LossConfig(clip_high=0.28, aggregation="sequence_mean")
    loss, _ = total_loss(of_selected, config, Denominator(**sizes, counted=3))
    assert loss.item() == pytest.approx((-2.098731 / 2 + 0.904837) / 2, abs=1e-6)
    assert total_loss(of_all, config, Denominator(**sizes))[0].item() == pytest.approx(
        (-2.098731 / 5 + 0.904837 / 3) / 2, abs=1e-6
    )


def test_a_selection_of_everything_is_no_selection():
    inputs = random_inputs(seed=4, with_reference=False)
    everything = replace(inputs, selected=inputs.mask, counted=inputs.mask)
    denominator = denominator_of(inputs)
    plain, _ = total_loss(inputs, LossConfig(), denominator)
    selected, _ = total_loss(everything, LossConfig(), replace(denominator, counted=denominator.tokens))
    assert plain.item() == selected.item()


def test_the_kl_is_over_all_tokens_whatever_the_policy_loss_selects():
    reference = LOGPROBS + 0.3  # k3 .049859 on each of the 8 tokens
    nothing = torch.zeros_like(MASK)
    inputs = replace(TOY, ref_logprobs=reference, selected=nothing, counted=nothing)
    denominator = Denominator(tokens=8, sequences=2, constant_length=5, counted=0)
    loss, _ = total_loss(inputs, LossConfig(kl_coef=0.5), denominator)
    assert loss.item() == pytest.approx(0.5 * 0.049859, abs=1e-6)


def test_the_penalty_on_sampled_tokens_is_their_mean_negative_logprob():
    # -(-.10 -1.20 -.50 -2.00 -.05) - (-.30 -.90 -1.60) = 6.65 over 8 tokens
    loss, _ = total_loss(replace(TOY, advantages=0 * ADVANTAGES), LossConfig(nll_coef=0.04), denominator_of(TOY))
    assert loss.item() == pytest.approx(0.04 * 6.65 / 8, abs=1e-12)


def test_the_entropy_control_weighs_each_rollouts_entropy():
    # row 1: .05 + 1.40 + .60 + 2.10 + .02 = 4.17; row 2: .30 + .90 + 1.70 = 2.90; over 8 tokens
    entropy = torch.where(MASK, ENTROPY, NAN).requires_grad_()
    weight = torch.tensor([1e-3, 2e-3], dtype=torch.float64)
    inputs = replace(TOY, advantages=0 * ADVANTAGES, entropy=entropy, entropy_weight=weight)
    loss, _ = total_loss(inputs, LossConfig(), denominator_of(inputs))
    assert loss.item() == pytest.approx(-(4.17e-3 + 5.8e-3) / 8, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, entropy)
    torch.testing.assert_close(gradient, -torch.where(MASK, weight[:, None] / 8, 0.0))


def test_clipped_tokens_are_those_that_lose_their_gradient():
    logprobs = LOGPROBS.clone().requires_grad_()
    inputs = LossInputs(logprobs=logprobs, old_logprobs=OLD, advantages=ADVANTAGES, mask=MASK)
    # clip_low .05: row 2's .904837 (twice, A < 0) are held at .95; row 1's .818731 keeps its gradient, since A > 0
    loss, sums = total_loss(inputs, LossConfig(clip_low=0.05), denominator_of(inputs))
    loss.backward()
    silent = (logprobs.grad == 0) & MASK
    assert silent.int().tolist() == [[0, 0, 0, 1, 0], [0, 1, 1, 0, 0]]
    assert sums["clip_low"].tolist() == [0, 2]
    assert sums["clip_high"].tolist() == [1, 0]
    # 1.105171 + .818731 + 1 + 1.349859 + 1 and 1.105171 + .904837 + .904837
    torch.testing.assert_close(
        sums["importance_ratio"], torch.tensor([5.273761, 2.914845], dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_kl_estimators_at_known_differences():
    difference = torch.tensor([[0.3, -0.3, 2.0]], dtype=torch.float64)
    expected = {
        "k1": [[-0.3, 0.3, -2.0]],
        "k2": [[0.045, 0.045, 2.0]],
        "k3": [[0.04986, 0.04082, 4.38906]],  # e^.3 - 1.3, e^-.3 - .7, e^2 - 3
    }
    for name, values in expected.items():
        got = KL_ESTIMATORS[name](difference)
        torch.testing.assert_close(got, torch.tensor(values, dtype=torch.float64), atol=5e-6, rtol=0)


def test_kl_is_added_with_its_weight_and_reported_per_rollout():
    reference = torch.where(MASK, LOGPROBS + 0.3, NAN)  # d = .3 on each of the 8 tokens, k3 = .049859
    inputs = LossInputs(logprobs=LOGPROBS, old_logprobs=OLD, ref_logprobs=reference, advantages=ADVANTAGES, mask=MASK)
    loss, sums = total_loss(inputs, LossConfig(kl_coef=0.5), denominator_of(inputs))
    assert loss.item() == pytest.approx(-0.276132 + 0.5 * 0.049859, abs=2e-6)
    torch.testing.assert_close(
        sums["kl"], torch.tensor([5 * 0.049859, 3 * 0.049859], dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_a_kl_without_a_reference_is_refused():
    with pytest.raises(ValueError, match=r"loss\.kl_coef is 0\.1 but no ref_logprobs"):
        total_loss(TOY, LossConfig(kl_coef=0.1), denominator_of(TOY))


def test_padding_is_never_read():
    logprobs = torch.where(MASK, LOGPROBS, NAN).requires_grad_()
    old = torch.where(MASK, OLD, -float("inf"))
    inputs = LossInputs(logprobs=logprobs, old_logprobs=old, advantages=ADVANTAGES, mask=MASK)
    loss, sums = total_loss(inputs, LossConfig(), denominator_of(inputs))
    loss.backward()
    assert round(loss.item(), 6) == -0.276132
    assert logprobs.grad is not None and logprobs.grad[1, 3:].tolist() == [0.0, 0.0]
    assert all(torch.isfinite(values).all() for values in sums.values())


def test_a_log_ratio_beyond_20_is_held_there():
    inputs = LossInputs(
        logprobs=torch.zeros(1, 1),
        old_logprobs=torch.full((1, 1), -1000.0),
        advantages=torch.tensor([-1.0]),  # the lower bound of the clip does not act: the loss is the ratio itself
        mask=torch.ones(1, 1, dtype=torch.bool),
    )
    loss, _ = total_loss(inputs, LossConfig(), denominator_of(inputs))
    assert loss.item() == pytest.approx(485165195.41, rel=1e-6)  # e^20


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_micro_batches_add_up_to_the_whole(aggregation):
    config = LossConfig(aggregation=aggregation, kl_coef=0.2)
    whole = random_inputs()
    denominator = denominator_of(whole)
    loss, sums = total_loss(whole, config, denominator)
    (gradient,) = torch.autograd.grad(loss, whole.logprobs)
    parts, part_sums, part_gradients = [], defaultdict(list), []
    for rows in (slice(0, 1), slice(1, 7), slice(7, 12)):
        longest = int(whole.mask[rows].sum(dim=1).max())  # another padding, too
        logprobs = whole.logprobs[rows, :longest].detach().requires_grad_()
        assert whole.ref_logprobs is not None
        part = LossInputs(
            logprobs=logprobs,
            old_logprobs=whole.old_logprobs[rows, :longest],
            ref_logprobs=whole.ref_logprobs[rows, :longest],
            advantages=whole.advantages[rows],
            mask=whole.mask[rows, :longest],
        )
        part_loss, metrics = total_loss(part, config, denominator)
        (part_gradient,) = torch.autograd.grad(part_loss, logprobs)
        parts.append(part_loss)
        part_gradients.append(torch.nn.functional.pad(part_gradient, (0, whole.mask.shape[1] - longest)))
        for name, values in metrics.items():
            part_sums[name].append(values)
    torch.testing.assert_close(torch.stack(parts).sum(), loss)
    torch.testing.assert_close(torch.cat(part_gradients), gradient)
    for name, values in sums.items():
        torch.testing.assert_close(torch.cat(part_sums[name]), values)


def test_a_denominator_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Denominator\.tokens must be at least 1, got 0"):
        Denominator(tokens=0, sequences=1, constant_length=1)


def trl_loss(inputs, config, loss_type, constant_length, *, level="token", clip_high=None):
    """TRL's GRPOTrainer._compute_loss itself, given log-probs instead of a model."""
    grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl, the oracle, is not installed")
    trainer = object.__new__(grpo_trainer.GRPOTrainer)
    trainer.__dict__.update(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda values: values, reduce=lambda values, reduction: values
        ),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        current_gradient_accumulation_steps=1,
        beta=config.kl_coef,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high if clip_high is None else clip_high,
        importance_sampling_level=level,
        loss_type=loss_type,
        max_completion_length=constant_length,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (inputs.logprobs, torch.zeros_like(inputs.logprobs), None),
    )
    tokens = torch.zeros(inputs.mask.shape, dtype=torch.long)
    return trainer._compute_loss(
        None,
        {
            "prompt_ids": tokens,
            "prompt_mask": torch.ones_like(tokens),
            "completion_ids": tokens,
            "completion_mask": inputs.mask.long(),
            "advantages": inputs.advantages,
            "old_per_token_logps": inputs.old_logprobs,
            "ref_per_token_logps": inputs.ref_logprobs,
            "num_items_in_batch": inputs.mask.sum(),
        },
    )


@pytest.mark.parametrize(
    ("loss_type", "aggregation"),
    [
        ("grpo", "sequence_mean"),
        ("bnpo", "token_mean"),
        ("dapo", "token_mean"),
        ("dr_grpo", "constant_length"),
    ],
)
@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
def test_loss_and_gradient_equal_those_of_trl(loss_type, aggregation, kl_coef):
    config = LossConfig(aggregation=aggregation, clip_high=0.28, kl_coef=kl_coef)
    inputs = random_inputs(seed=1)
    theirs = trl_loss(inputs, config, loss_type, constant_length=16)
    sums = same_loss_and_gradient(inputs, config, theirs)
    assert sums["clip_low"].sum() > 0 and sums["clip_high"].sum() > 0  # both clips acted, or little would be compared


@pytest.mark.parametrize(
    ("loss_type", "aggregation"),
    [("grpo", "sequence_mean"), ("dapo", "token_mean"), ("dr_grpo", "constant_length")],
)
def test_gspo_equals_trls_sequence_level_ratio(loss_type, aggregation):
    config = LossConfig(name="gspo", aggregation=aggregation, clip_low=0.05, clip_high=0.08, kl_coef=0.3)
    inputs = random_inputs(seed=2)
    theirs = trl_loss(inputs, config, loss_type, constant_length=16, level="sequence")
    sums = same_loss_and_gradient(inputs, config, theirs)
    assert sums["clip_low"].sum() > 0 and sums["clip_high"].sum() > 0


def test_cispo_equals_trls():
    # TRL's epsilon_high bounds the ratio itself, and it has no lower bound
    config = LossConfig(name="cispo", clip_low=1.0, clip_high=0.28)
    inputs = random_inputs(seed=3)
    theirs = trl_loss(inputs, config, "cispo", constant_length=16, clip_high=1.28)
    sums = same_loss_and_gradient(inputs, config, theirs)
    assert sums["clip_high"].sum() > 0


def same_loss_and_gradient(inputs, config, theirs):
    """Both to 1e-12; returns the sums of our loss."""
    ours, sums = total_loss(inputs, config, denominator_of(inputs, constant_length=16))
    (our_gradient,) = torch.autograd.grad(ours, inputs.logprobs)
    (their_gradient,) = torch.autograd.grad(theirs, inputs.logprobs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-12, atol=1e-12)
    assert our_gradient.abs().sum() > 0
    return sums
