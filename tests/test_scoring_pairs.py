"""Scores under two images against the full softmax of the plain forward, one completion in a row."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import saei.scoring
from saei.config import ScoreConfig
from saei.score_views import SCORE_VIEWS
from saei.scoring import score_pairs, score_requests
from saei.token_scores import degenerate
from saei.types import ByteImages, ScoreRequest
from tests.oracle import scored
from tests.sampler_models import FAMILIES, PARAMS, prompts, qwen2_5_vl, stock_inputs

LENGTHS = [(5, 1, 9), (7,), (3, 3, 12, 2), (4, 8)]


def requests_of(policy: Any) -> list[ScoreRequest]:
    generator = torch.Generator().manual_seed(0)
    return [
        ScoreRequest(
            prompt=prompt,
            images=prompt.images,
            completions=tuple(tuple(torch.randint(2, 50, (n,), generator=generator).tolist()) for n in lengths),
        )
        for prompt, lengths in zip(prompts(policy), LENGTHS, strict=True)
    ]


def noised(images: ByteImages, seed: int) -> ByteImages:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 256, image.shape, dtype=torch.uint8, generator=generator) for image in images)


def plain_log_p(policy: Any, request: ScoreRequest, images: ByteImages, member: int, temperature: float):
    """The whole distribution at every token of one completion, by the stock model's own forward."""
    prefix, completion = request.prompt.token_ids, request.completions[member]
    token_ids = torch.tensor([[*prefix, *completion]])
    policy.model.model.rope_deltas = None
    with torch.no_grad():
        logits = policy.model(**stock_inputs(policy, token_ids, images), use_cache=False).logits[
            0, len(prefix) - 1 : -1
        ]
    return torch.log_softmax(logits / temperature, dim=-1)


def expected(policy: Any, request: ScoreRequest, other: ByteImages, member: int, temperature: float) -> dict:
    log_p = plain_log_p(policy, request, request.images, member, temperature)
    log_q = plain_log_p(policy, request, other, member, temperature)
    p, q = log_p.exp(), log_q.exp()
    m = (p + q) / 2
    at = torch.arange(len(p)), torch.tensor(request.completions[member])
    return {
        "logprobs": log_p[at],
        "entropy": -(p * log_p).sum(-1),
        "other logprobs": log_q[at],
        "other entropy": -(q * log_q).sum(-1),
        "jsd": ((p * (log_p - m.log())).sum(-1) + (q * (log_q - m.log())).sum(-1)) / 2,
        "kl": (p * (log_p - log_q)).sum(-1),
    }


def values_of(score, pair) -> dict:
    return {
        "logprobs": score.logprobs,
        "entropy": score.entropy,
        "other logprobs": pair.logprobs,
        "other entropy": pair.entropy,
        "jsd": pair.jsd,
        "kl": pair.kl,
    }


@pytest.mark.parametrize("pack_tokens", [40, 4096])
@pytest.mark.parametrize("each", [False, True], ids=["one other image", "one for each completion"])
@pytest.mark.parametrize("family", PARAMS)
def test_pairs_equal_the_full_softmax_of_two_plain_forwards(family, each, pack_tokens, monkeypatch):
    monkeypatch.setattr(saei.scoring, "CHUNK_VALUES", 64 * 2 * 7)  # seven tokens of 64 logits at a time, twice
    policy = scored(FAMILIES[family]())
    requests = requests_of(policy)
    others = [
        [noised(request.images, 10 * i + draw) for draw in range(len(request.completions) if each else 1)]
        for i, request in enumerate(requests)
    ]
    pairs = score_pairs(policy, requests, others, temperature=0.7, pack_tokens=pack_tokens)
    assert [len(group) for group in pairs] == [len(lengths) for lengths in LENGTHS]
    moved = 0.0
    for request, own, group in zip(requests, others, pairs, strict=True):
        for member, (score, pair) in enumerate(group):
            other = own[member if each else 0]
            for name, value in expected(policy, request, other, member, 0.7).items():
                # RMSNorm computes in float32, whatever the model's type
                torch.testing.assert_close(values_of(score, pair)[name], value, atol=1e-6, rtol=0, msg=name)
            moved = max(moved, float(pair.jsd.max()))
    assert moved > 0.01  # the other images are seen


def test_divergences_equal_the_full_softmax_to_ten_digits_given_the_same_hidden_states(monkeypatch):
    policy = scored(qwen2_5_vl())
    request = requests_of(policy)[0]
    seen = []
    original = saei.scoring._wanted_states

    def recorded(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    monkeypatch.setattr(saei.scoring, "_wanted_states", recorded)
    ((*group,),) = score_pairs(policy, [request], [[noised(request.images, 3)]], temperature=1.0, pack_tokens=4096)
    head = policy.model.get_output_embeddings()
    with torch.no_grad():
        p, q = (head(states).softmax(-1) for states, _, _ in seen)
    m = (p + q) / 2
    jsd = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2
    for name, value in {"jsd": jsd, "kl": (p * (p / q).log()).sum(-1), "entropy": -(q * q.log()).sum(-1)}.items():
        ours = torch.cat([getattr(pair, name) for _, pair in group])
        torch.testing.assert_close(ours, value, atol=1e-10, rtol=0)


def test_the_own_side_of_a_pair_is_what_scoring_gives():
    policy = scored(qwen2_5_vl())
    requests = requests_of(policy)
    pairs = score_pairs(policy, requests, [[r.images] for r in requests], temperature=0.5, pack_tokens=4096)
    with torch.no_grad():
        scores = score_requests(policy, requests, temperature=0.5, pack_tokens=4096, entropy_grad=False)
    for group, alone in zip(pairs, scores, strict=True):
        for (score, pair), single in zip(group, alone, strict=True):
            for name in ("logprobs", "entropy", "entropy_t1"):
                torch.testing.assert_close(getattr(score, name), getattr(single, name), atol=1e-12, rtol=0)
            assert degenerate(pair)  # the same images


def test_kept_tokens_alone_are_compared():
    policy = scored(qwen2_5_vl())
    request = requests_of(policy)[0]
    kept = (torch.tensor([False, True, False, True, True]), torch.tensor([False]), torch.arange(9) % 2 == 0)
    others = [[noised(request.images, seed) for seed in range(3)]]
    (whole,) = score_pairs(policy, [request], others, temperature=1.0, pack_tokens=4096)
    (part,) = score_pairs(policy, [replace(request, kept=kept)], others, temperature=1.0, pack_tokens=4096)
    for (_, all_tokens), (_, some), mask in zip(whole, part, kept, strict=True):
        torch.testing.assert_close(some.jsd, all_tokens.jsd[mask], atol=1e-9, rtol=0)


def test_two_passes_are_counted_and_no_gradient_is_kept():
    policy = scored(qwen2_5_vl())
    request = requests_of(policy)[0]
    tokens = len(request.prompt.token_ids) + 5 + 1 + 9
    ((first, *_),) = score_pairs(policy, [request], [[request.images]], temperature=1.0, pack_tokens=4096)
    assert (policy.packed_forwards, policy.tokens_forward, policy.tokens_backward) == (2, 2 * tokens, 0)
    assert not first[1].jsd.requires_grad
    # an image for each completion: the other pass carries the prompt three times
    policy.tokens_forward = 0
    score_pairs(policy, [request], [[request.images] * 3], temperature=1.0, pack_tokens=4096)
    assert policy.tokens_forward == 2 * tokens + 2 * len(request.prompt.token_ids)


def test_another_number_of_images_is_refused():
    policy = scored(qwen2_5_vl())
    request = requests_of(policy)[0]
    with pytest.raises(ValueError, match="2 other images for 3 completions: give 1, or each"):
        score_pairs(policy, [request], [[request.images] * 2], temperature=1.0, pack_tokens=4096)


# --- the images of score.view


def grey(*sizes: tuple[int, int]) -> ByteImages:
    return tuple(torch.full((3, *size), 200, dtype=torch.uint8) for size in sizes)


def seen(view: str, images: ByteImages, seed: int = 0, **settings) -> ByteImages:
    return SCORE_VIEWS[view](images, ScoreConfig(view=view, **settings), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("view", SCORE_VIEWS)
def test_a_score_view_is_a_function_of_its_generator_and_keeps_sizes(view):
    images = grey((28, 56), (84, 28))
    first, again, other = seen(view, images), seen(view, images), seen(view, images, seed=1)
    assert [(image.shape, image.dtype) for image in first] == [(image.shape, image.dtype) for image in images]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True)) == (view == "no_image")
    assert all((image == 200).all() for image in images)  # the clean ones are left alone


def test_the_settings_of_a_score_view_are_read():
    images = grey((140, 140))
    # 100 blocks of 14 x 14: sd of the share is sqrt(.6 * .4 / 100) = .05
    (masked,) = seen("mask", images, mask_share=0.6)
    assert abs(float((masked == 0).float().mean()) - 0.6) < 0.15
    assert set(masked.unique().tolist()) == {0, 200}
    assert (seen("mask", images, mask_share=0.0)[0] == 200).all()
    assert (seen("no_image", images)[0] == 0).all()
    weak, strong = (float((seen("noise", images, noise_level=k)[0].float() - 200).std()) for k in (100, 500))
    assert strong > 3 * weak
