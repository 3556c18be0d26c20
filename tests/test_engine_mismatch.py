"""The mismatch figures and the truncated weights, by hand."""

import math

import pytest
import torch

from saei.config import LossConfig
from saei.engines.mismatch import COLUMNS, mismatch_facts, mismatch_summary, token_truncated
from saei.losses import Denominator, LossInputs, total_loss
from saei.schema import STEPS
from saei.types import SampledCompletion

LN2 = math.log(2)


def completion(trainer, engine) -> SampledCompletion:
    return SampledCompletion(
        index=0,
        token_ids=tuple(range(len(trainer))),
        sampler_logprobs=torch.tensor(trainer),
        sampler_entropy=torch.zeros(len(trainer)),
        removed_mass=torch.zeros(len(trainer)),
        finished=True,
        engine_logprobs=None if engine is None else torch.tensor(engine),
    )


def test_weights_are_the_ratio_of_trainer_to_engine_up_to_the_cap():
    # ratios 1/2, 1, 2 and 4; the last is cut to the cap, an unknown one counts as 1
    one = completion([-1 - LN2, -1.0, -1.0, -1.0, -1.0], [-1.0, -1.0, -1 - LN2, -1 - 2 * LN2, math.nan])
    torch.testing.assert_close(token_truncated(one, 2.0), torch.tensor([0.5, 1.0, 2.0, 2.0, 1.0]))
    torch.testing.assert_close(token_truncated(one, 3.0), torch.tensor([0.5, 1.0, 2.0, 3.0, 1.0]))


def test_the_figures_of_two_completions_by_hand():
    # d = engine - trainer: ln 2 and -ln 2 in the first (sum 0), ln 4 and unknown in the second (sum ln 4)
    first = completion([-1.0, -1.0], [-1 + LN2, -1 - LN2])
    second = completion([-2.0, -2.0], [-2 + 2 * LN2, math.nan])
    facts = [{"tokens": 2, **mismatch_facts(one, token_truncated(one, 2.0))} for one in (first, second)]
    found = mismatch_summary(facts)
    assert tuple(found) == COLUMNS and set(COLUMNS) <= set(STEPS)
    assert found["engine_gap"] == pytest.approx(4 * LN2 / 3)
    assert found["engine_gap_max"] == pytest.approx(2 * LN2)
    assert found["engine_kl"] == pytest.approx(2 * LN2 / 3)
    # exp(-d) - 1 + d: 1/2 - 1 + ln 2, 2 - 1 - ln 2, 1/4 - 1 + 2 ln 2
    assert found["engine_kl_k3"] == pytest.approx((0.5 - 0.75 + 2 * LN2) / 3, abs=1e-6)
    assert found["engine_sequence_gap"] == pytest.approx((0 + 2 * LN2) / 2, abs=1e-6)
    assert found["engine_unknown_share"] == 1 / 4
    assert found["engine_weight"] == pytest.approx((0.5 + 2 + 0.25 + 1) / 4)
    assert found["engine_capped_share"] == 0


def test_a_weight_at_the_cap_is_counted():
    one = completion([-1.0, -1.0], [-1 - 2 * LN2, -1.0])
    found = mismatch_summary([{"tokens": 2, **mismatch_facts(one, token_truncated(one, 2.0))}])
    assert (found["engine_capped_share"], found["engine_weight"]) == (0.5, 1.5)


def test_without_an_engine_there_are_no_figures():
    one = completion([-1.0], None)
    assert mismatch_facts(one) == {}
    assert all(math.isnan(value) for value in mismatch_summary([{"tokens": 1}]).values())
    without = mismatch_summary([{"tokens": 1, **mismatch_facts(completion([-1.0], [-1.0]))}])
    assert math.isnan(without["engine_weight"]) and without["engine_gap"] == 0


def test_a_correction_multiplies_each_tokens_policy_loss_and_nothing_else():
    logprobs = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        ref_logprobs=logprobs.detach() - 1,
        advantages=torch.tensor([2.0]),
        mask=torch.tensor([[True, True, True]]),
        engine_weights=torch.tensor([[0.5, 1.0, 2.0]]),
    )
    config = LossConfig(kl_coef=0.1, engine_correction="token_truncated", nll_coef=0.01)
    loss, _ = total_loss(inputs, config, Denominator(tokens=3, sequences=1, constant_length=3))
    # on-policy: -A w / 3 summed; k3 of a difference of -1 is 1/e - 1 + 1; mean nll 3.5 / 3
    assert loss.item() == pytest.approx(-2 * 3.5 / 3 + 0.1 * math.exp(-1) + 0.01 * 3.5 / 3)
    loss.backward()
    # d/dlogp: -A w / 3, + 0.1 (1 - e^-1) / 3 (k3 at ref - logp = -1), - 0.01 / 3
    same = 0.1 * (1 - math.exp(-1)) / 3 - 0.01 / 3
    expected = torch.tensor([[-1.0, -2.0, -4.0]]) / 3 + same
    torch.testing.assert_close(logprobs.grad, expected)
