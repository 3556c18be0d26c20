"""Token entropy and its gradient against the scalars of methods.md 13.2 and against -sum p log p at extreme logits."""

import pytest
import torch
from torch import nn

from saei.head import head_scores

LOGITS = (2.0, 1.0, 0.0, -1.0)


class NotPlain(nn.Linear):
    """Called as a module, whose softmax is made of all logits at once."""


@pytest.fixture(params=[nn.Linear, NotPlain], ids=["tiled", "module"])
def entropy(request):
    """What the scorer computes from logits: its head here is the identity."""

    def compute(logits: torch.Tensor, temperature: float) -> torch.Tensor:
        head = request.param(len(logits), len(logits), bias=False, dtype=logits.dtype)
        torch.nn.init.eye_(head.weight)
        target = torch.zeros(1, dtype=torch.long)
        return head_scores(head, logits[None], target, temperature=temperature, entropy_grad=True)[1][0]

    return compute


@pytest.mark.parametrize(("temperature", "nats"), [(1.0, 0.947537), (0.5, 0.455429)])
def test_the_entropy_of_four_logits(entropy, temperature, nats):
    assert entropy(torch.tensor(LOGITS, dtype=torch.float64), temperature).item() == pytest.approx(nats, abs=5e-7)


def test_its_gradient_is_minus_p_times_log_p_plus_entropy(entropy):
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    entropy(logits, 1.0).backward()
    expected = torch.tensor([-0.3267, 0.1167, 0.1301, 0.0799], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected, atol=5e-5, rtol=0)


def test_extreme_logits_have_entropy_0_or_log_of_the_ties_and_finite_gradients(entropy):
    # one token certain: 0; two tokens tied far above the third: log 2
    for values, nats in (((1e4, -1e4, 0.0), 0.0), ((1e4, 1e4, -1e4), 0.693147)):
        logits = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        value = entropy(logits, 1.0)
        value.backward()
        assert value.item() == pytest.approx(nats, abs=1e-6)
        assert logits.grad is not None and bool(logits.grad.isfinite().all())
