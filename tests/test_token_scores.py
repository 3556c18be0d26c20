"""VEPO's scores against the vectors of the official code (methods.md 13.2), VPPO's dependency by hand."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from saei.config import PolicySelectConfig
from saei.select import select_tokens
from saei.token_scores import SCORES, degenerate, jensen_shannon, kullback_leibler, scaled
from saei.types import PairScores, TokenScores

P = torch.tensor([[2, 0, 0], [0, 0, 0], [3, 1, 0], [1, 1, -2]], dtype=torch.float64).log_softmax(-1)
Q = torch.tensor([[0, 2, 0], [0, 0, 0.5], [2.5, 1, 0], [0, 0, 0]], dtype=torch.float64).log_softmax(-1)


def entropy_of(log_p: torch.Tensor) -> torch.Tensor:
    return -(log_p.exp() * log_p).sum(-1)


def scores_of(log_p: torch.Tensor) -> TokenScores:
    return TokenScores(logprobs=log_p[:, 0], entropy=entropy_of(log_p), entropy_t1=entropy_of(log_p))


def pair_of(log_p: torch.Tensor, log_q: torch.Tensor) -> PairScores:
    return PairScores(
        logprobs=log_q[:, 0],
        entropy=entropy_of(log_q),
        jsd=jensen_shannon(log_p, log_q),
        kl=kullback_leibler(log_p, log_q),
    )


def close(values: torch.Tensor, expected: list[float], tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(values, torch.tensor(expected, dtype=values.dtype), atol=tolerance, rtol=0)


def test_the_toys_divergences_and_entropies_are_the_published_vectors():
    close(jensen_shannon(P, Q), [0.292899, 0.007386, 0.004826, 0.094183])
    close(entropy_of(P), [0.665573, 1.098612, 0.524267, 0.790603])
    close(entropy_of(Q), [0.665573, 1.068445, 0.680022, 1.098612])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vepo", [0.246030, 0.036490, 0.0, 0.463721]),
        ("vepo_a", [1.0, 1.0, 0.505684, 1.0]),
        ("vepo_c", [0.246030, 0.006230, 0.0, 0.463721]),
        ("vepo_no_coupling", [1.0, 0.036490, 0.190529, 1.0]),
        ("vepo_f", [0.172221, 0.035605, 0.0, 0.239806]),
        ("vepo_g", [0.0, 0.000871, 0.0, 0.143842]),
        # h by hand: H - .524267 = .141306, .574345, 0, .266336, over .574345
        ("vepo_no_vision", [0.246030, 1.0, 0.0, 0.463721]),
        # B by hand: the rise of entropy is 0, 0, .155755, .308009, so g = 0, 0, .505684, 1; j = 1, .0088866, 0,
        # .310189. Token 3: (1 - 1 * 1) * .505684 = 0; token 4: 1 - .689811 * (1 - .463721) = .630069
        ("vepo_b", [0.0, 0.0, 0.0, 0.630069]),
    ],
)
def test_every_score_of_the_toy_is_the_published_vector(name, expected):
    close(SCORES[name](scores_of(P), pair_of(P, Q), 0.7), expected)


def test_score_h_takes_the_divergence_from_p_to_q():
    # KL(P||Q) of token 1: P = (e^2, 1, 1)/(e^2 + 2), log-ratio (2, -2, 0): 2 (e^2 - 1)/(e^2 + 2) = 1.360958
    # token 2, P uniform: log(2 + e^.5) - .5/3 - log 3 = .029098
    # token 3, normalisers log(e^3 + e + 1) = 3.169846 and log(e^2.5 + e + 1) = 2.766368: .5 e^(3 - 3.169846) - .403478
    # token 4, Q uniform: log 3 - H(P) = .308009
    kl = [1.360958, 0.029098, 0.018419, 0.308009]
    close(kullback_leibler(P, Q), kl)
    # D with k in place of j: h as above, d = 0, .030167, .155755, .308009, over .308009
    k = [(value - 0.018419) / (1.360958 - 0.018419) for value in kl]
    h, d = [0.246030, 1.0, 0.0, 0.463721], [0.0, 0.097942, 0.505684, 1.0]
    expected = [(1 - (1 - k[i]) ** 0.7 * (1 - d[i]) ** 0.3) * h[i] for i in range(4)]
    close(SCORES["vepo_h"](scores_of(P), pair_of(P, Q), 0.7), expected, 2e-6)


def test_the_top_half_by_vepo_is_tokens_1_and_4_and_by_entropy_2_and_4():
    top = PolicySelectConfig(rule="top", score="vepo", share=Fraction(1, 2))
    kept = {
        name: select_tokens([SCORES[name](scores_of(P), pair_of(P, Q), 0.7)], top)[0].tolist()
        for name in ("vepo", "entropy")
    }
    assert kept == {"vepo": [True, False, False, True], "entropy": [False, True, False, True]}


def test_identical_images_make_every_score_of_vision_zero_and_are_detected():
    # methods.md 13.3 property 8
    pair = pair_of(P, P)
    assert degenerate(pair)
    assert not degenerate(pair_of(P, Q))
    assert not degenerate(replace(pair, jsd=pair.jsd + torch.tensor([0.0, 0.0, 0.0, 1e-3])))
    for name in ("vepo", "vepo_no_coupling", "vepo_b", "vepo_c", "vepo_f", "vepo_g", "vepo_h", "dependency"):
        close(SCORES[name](scores_of(P), pair, 0.7), [0.0] * 4, 1e-7)


def test_identical_images_are_detected_in_float32_over_a_large_vocabulary():
    logits = 4 * torch.randn(50, 20000, generator=torch.Generator().manual_seed(0))
    log_p = logits.log_softmax(-1)
    assert degenerate(pair_of(log_p, log_p))
    assert not degenerate(pair_of(log_p, (logits + 0.05 * torch.randn_like(logits)).log_softmax(-1)))


def test_dependency_is_k3_of_the_log_prob_difference_within_0_and_10():
    # d = .3: .049859; d = -.3: .040818; d = 2: 4.389056 (methods.md 1.4); d = 5: e^5 - 6 = 142 -> 10; d = 900 -> 10
    difference = torch.tensor([0.3, -0.3, 2.0, 5.0, 900.0, -900.0], dtype=torch.float64)
    zeros = torch.zeros_like(difference)
    scores = TokenScores(logprobs=zeros - 1, entropy=zeros, entropy_t1=zeros)
    pair = PairScores(logprobs=difference - 1, entropy=zeros, jsd=zeros, kl=zeros)
    close(SCORES["dependency"](scores, pair, 0.7), [0.049859, 0.040818, 4.389056, 10.0, 10.0, 10.0])


def test_divergences_stay_finite_at_logits_of_ten_thousand():
    log_p = torch.tensor([[1e4, 0.0, -1e4]]).log_softmax(-1)
    log_q = torch.tensor([[-1e4, 0.0, 1e4]]).log_softmax(-1)
    # disjoint: JSD = log 2; KL = 1 * (0 - (-2e4))
    close(jensen_shannon(log_p, log_q), [0.693147])
    close(kullback_leibler(log_p, log_q), [2e4])


def test_scaling_survives_equal_values_and_no_values():
    assert scaled(torch.full((3,), 0.7)).tolist() == [0.0, 0.0, 0.0]
    assert scaled(torch.zeros(0)).tolist() == []
    assert scaled(torch.tensor([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]


def test_a_score_of_vision_without_another_image_is_refused():
    for name in SCORES.keys() - {"entropy", "vepo_no_vision"}:
        with pytest.raises(ValueError, match=r"compares with another image, got none: set score\.view"):
            SCORES[name](scores_of(P), None, 0.7)
