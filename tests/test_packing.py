import dataclasses
from typing import Any

import pytest
import torch

import saei.blocks
import saei.head
import saei.scoring
from saei.config import DataConfig, ModelConfig
from saei.data import load_problems
from saei.packing import Piece, attention_mask, pack, restart_positions, rows_for_group, split_requests
from saei.policy import load_policy
from saei.scoring import score_requests
from saei.types import Prompt, ScoreRequest, to_unit
from tests.oracle import plain, plain_scores, scored, worst_difference
from tests.sampler_models import FAMILIES, prompts, qwen2_5_vl

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}  # RMSNorm computes in float32, whatever the model's type


def requests_of(policy: Any) -> list[ScoreRequest]:
    """Prompts of four kinds, each with completions of different length; the last has no image."""
    generator = torch.Generator().manual_seed(0)
    lengths = [(5, 1, 9), (7,), (3, 3, 12, 2), (4, 8)]
    return [
        ScoreRequest(
            prompt=prompt,
            images=prompt.images,
            completions=tuple(tuple(torch.randint(2, 50, (n,), generator=generator).tolist()) for n in of_prompt),
        )
        for prompt, of_prompt in zip(prompts(policy), lengths, strict=True)
    ]


def score(policy: Any, requests: list[ScoreRequest], pack_tokens: int = 4096, **options: Any):
    settings = {"temperature": 1.0, "entropy_grad": False} | options
    return score_requests(policy, requests, pack_tokens=pack_tokens, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_scores_equal_the_plain_forward(family, dtype):
    policy = scored(FAMILIES[family](dtype))
    requests = requests_of(policy)
    expected = plain(policy, requests)
    with torch.no_grad():
        scores = score(policy, requests)
    assert policy.packed_forwards == 1  # all ten completions in one pass, four rows
    assert worst_difference(expected, scores) < TOLERANCE[dtype]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_equal_the_plain_ones_tensor_by_tensor_vision_and_pixels_included(family):
    policy = scored(FAMILIES[family](torch.float64))
    requests = requests_of(policy)
    gradients = []
    for packed in (True, False):
        leaves = [[to_unit(image).double().requires_grad_() for image in request.images] for request in requests]
        seen = [dataclasses.replace(r, images=tuple(own)) for r, own in zip(requests, leaves, strict=True)]
        if packed:
            pairs = [(s.logprobs, s.entropy) for group in score(policy, seen, entropy_grad=True) for s in group]
        else:
            pairs = [pair for request in seen for pair in plain_scores(policy, request)]
        policy.model.zero_grad()
        sum((lp * torch.linspace(1, 2, len(lp))).sum() + h.square().sum() for lp, h in pairs).backward()
        named = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
        named |= {f"pixels {i}.{j}": leaf.grad for i, own in enumerate(leaves) for j, leaf in enumerate(own)}
        gradients.append(named)
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    assert any("vis" in name for name in ours) and any("pixels" in name for name in ours)
    for name, gradient in theirs.items():
        scale = float(gradient.abs().max())
        assert float((ours[name] - gradient).abs().max()) <= 2e-5 * max(scale, 1e-6), name


@pytest.mark.parametrize("pack_tokens", [20, 40, 64, 4096])
def test_the_result_does_not_depend_on_how_groups_are_split(pack_tokens):
    policy = scored(qwen2_5_vl())
    requests = requests_of(policy)
    expected = plain(policy, requests)
    with torch.no_grad():
        scores = score(policy, requests, pack_tokens)
    assert worst_difference(expected, scores) < 1e-6


def test_temperature_divides_the_logits_and_entropy_t1_does_not():
    policy = scored(qwen2_5_vl())
    request = requests_of(policy)[0]
    with torch.no_grad():
        cold = score(policy, [request], temperature=0.5)[0]
        warm = score(policy, [request])[0]
        for (logprobs, entropy), ours, at_1 in zip(plain_scores(policy, request, 0.5), cold, warm, strict=True):
            torch.testing.assert_close(ours.logprobs, logprobs, atol=1e-6, rtol=0)
            torch.testing.assert_close(ours.entropy, entropy, atol=1e-6, rtol=0)
            torch.testing.assert_close(ours.entropy_t1, at_1.entropy, atol=1e-9, rtol=0)


def test_kept_tokens_alone_are_scored_and_none_may_be_kept():
    policy = scored(qwen2_5_vl())
    request = requests_of(policy)[0]
    kept = (torch.tensor([False, True, False, True, True]), torch.tensor([False]), torch.arange(9) % 2 == 0)
    with torch.no_grad():
        whole = score(policy, [request])[0]
        part = score(policy, [dataclasses.replace(request, kept=kept)])[0]
    for all_tokens, some, mask in zip(whole, part, kept, strict=True):
        torch.testing.assert_close(some.entropy, all_tokens.entropy[mask], atol=1e-9, rtol=0)


def test_tiles_and_chunks_of_the_head_change_nothing_and_keep_the_gradient(monkeypatch):
    policy = scored(qwen2_5_vl())
    requests = requests_of(policy)
    weight = policy.model.get_output_embeddings().weight

    def gradient() -> torch.Tensor:
        policy.model.zero_grad()
        torch.cat(
            [s.logprobs + s.entropy for g in score(policy, requests, entropy_grad=True) for s in g]
        ).sum().backward()
        return weight.grad.clone()

    kept = gradient()
    monkeypatch.setattr(saei.head, "KEPT_VALUES", 0)
    monkeypatch.setattr(saei.head, "TILES", {"cpu": (7, 20)})
    tiled = gradient()
    monkeypatch.setattr(saei.head, "is_plain", lambda head, states: False)
    at_once = gradient()
    monkeypatch.setattr(saei.head, "CHUNK_VALUES", 64 * 7)  # seven tokens at a time
    chunked = gradient()
    for other in (tiled, kept, chunked):
        torch.testing.assert_close(at_once, other, atol=1e-9, rtol=1e-9)


def test_tokens_are_counted_by_whether_a_gradient_is_kept():
    policy = scored(qwen2_5_vl())
    requests = requests_of(policy)[:1]
    tokens = len(requests[0].prompt.token_ids) + 5 + 1 + 9
    with torch.no_grad():
        score(policy, requests)
    score(policy, requests)
    assert (policy.tokens_forward, policy.tokens_backward) == (tokens, tokens)


def test_a_split_group_encodes_its_image_once():
    policy = scored(qwen2_5_vl())
    encoded = []
    original = policy.model.model.get_image_features

    def counting(pixel_values, *args, **kwargs):
        encoded.append(len(pixel_values))
        return original(pixel_values, *args, **kwargs)

    policy.model.model.get_image_features = counting
    policy.attention_cost = 1.0  # attention so dear that every completion gets its own row
    request = requests_of(policy)[0]
    with torch.no_grad():
        score(policy, [request])
    assert encoded == [16]  # 16 x 16 pixels in patches of 4: 4 * 4 patches, not 3 times as many


def test_active_dropout_is_refused():
    policy = scored(qwen2_5_vl())
    policy.model.train()
    policy.model.model.language_model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"dropout of 0.1 is active"):
        score(policy, requests_of(policy))


# Negative controls: each fault must show as more than 50 times the tolerance of the test it would have to fail.


def completions_see_each_other(policy, requests, monkeypatch):
    original = saei.blocks._beside_prefixes

    def neighbours(spans, prefixes):
        own, keys, mask = original(spans, prefixes)
        prefix = keys[:, : keys.shape[1] - own.shape[1]]
        return own, torch.cat([prefix, own.roll(1, dims=0)], dim=1), mask  # beside a prefix stands the neighbour

    monkeypatch.setattr(saei.blocks, "_beside_prefixes", neighbours)
    return requests


def positions_run_on(policy, requests, monkeypatch):
    original = saei.scoring.restart_positions

    def run_on(prefix_positions, batch):
        positions = original(prefix_positions, batch)
        for prefix in batch.prefixes:
            own = [span for span in batch.completions if span.group == prefix.group]
            first = prefix_positions[:, prefix.group, : prefix.length].max() + 1
            start, end = prefix.start + prefix.length, own[-1].start + own[-1].length
            positions[:, 0, start:end] = first + torch.arange(end - start)
        return positions

    monkeypatch.setattr(saei.scoring, "restart_positions", run_on)
    return requests


def another_image(policy, requests, monkeypatch):
    first = requests[0]
    flipped = tuple(255 - image for image in first.images)
    return [dataclasses.replace(first, images=flipped), *requests[1:]]


def no_token_types(policy, requests, monkeypatch):
    original = policy.model.model.get_rope_index

    def without(token_ids, mm_token_type_ids, **options):
        return original(token_ids, mm_token_type_ids=torch.zeros_like(mm_token_type_ids), **options)

    monkeypatch.setattr(policy.model.model, "get_rope_index", without)
    return requests


def a_prefix_sees_the_padding(policy, requests, monkeypatch):
    original = saei.blocks._beside_prefixes

    def leaky(spans, prefixes):
        own, keys, mask = original(spans, prefixes)
        mask = mask.clone()
        mask[..., : keys.shape[1] - own.shape[1]] = True
        return own, keys, mask

    monkeypatch.setattr(saei.blocks, "_beside_prefixes", leaky)
    return requests


FAULTS = [completions_see_each_other, positions_run_on, another_image, no_token_types, a_prefix_sees_the_padding]


@pytest.mark.parametrize(
    ("fault", "family"),
    # positions on one axis are not read from token types
    [(f, name) for f in FAULTS for name in FAMILIES if f is not no_token_types or name.startswith("qwen")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_fault_exceeds_the_tolerance_fifty_times(fault, family, monkeypatch):
    policy = scored(FAMILIES[family]())
    requests = requests_of(policy)
    expected = plain(policy, requests)
    with torch.no_grad():
        scores = score(policy, fault(policy, requests, monkeypatch))
    assert worst_difference(expected, scores) > 50 * TOLERANCE[torch.float64]


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, list[ScoreRequest]]:
    policy = load_policy(ModelConfig(), DataConfig())
    problems = load_problems(DataConfig(), "validation")
    texts = [
        "<think>3, 4, 5</think>\\boxed{12}",
        "<think>no</think>",
        "<think>the first row is 1 2 3: 6</think>\\boxed{6}",
    ]
    completions = tuple(tuple(policy.tokenizer(text)["input_ids"]) for text in texts)
    prompts_of = [policy.encode(problems[i]) for i in (0, 3, 5)]
    return policy, [
        ScoreRequest(prompt=prompt, images=prompt.images, completions=completions[: 1 + i])
        for i, prompt in enumerate(prompts_of)
    ]


def test_packed_scores_of_the_shipped_weights_equal_the_plain_forward(shipped):
    policy, requests = shipped
    before = policy.packed_forwards
    expected = plain(policy, requests)
    with torch.no_grad():
        scores = score(policy, requests)
    assert policy.packed_forwards == before + 1
    assert worst_difference(expected, scores) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_shows_on_the_shipped_weights_too(fault, shipped, monkeypatch):
    policy, requests = shipped
    expected = plain(policy, requests)
    with torch.no_grad():
        scores = score(policy, fault(policy, requests, monkeypatch))
    assert worst_difference(expected, scores) > 50 * TOLERANCE[torch.float32]


def test_rows_of_a_group_follow_the_cost_model():
    # prefix 100, 4 completions of 100: one row costs 500 + c 500^2; four rows 4 * (200 + c 200^2).
    # At c = 0 one row is cheapest; at c = 1/100 one row costs 3000, two 2 * (300 + 900) = 2400,
    # three 3 * (233.3 + 544.4) = 2333, four 4 * (200 + 400) = 2400
    assert rows_for_group(100, [100] * 4, 4096, 0.0) == 1
    assert rows_for_group(100, [100] * 4, 4096, 1 / 100) == 3
    assert rows_for_group(100, [100] * 4, 4096, 1.0) == 4
    # the budget of 350 tokens a row forbids one row of 500
    assert rows_for_group(100, [100] * 4, 350, 0.0) == 2


def test_batches_stay_within_the_budget_and_lose_no_completion():
    policy = scored(qwen2_5_vl())
    requests = requests_of(policy)
    batches = split_requests(requests, 40, 1 / 192)
    assert len(batches) > 1
    for batch in batches:
        assert sum(piece.tokens for piece in batch) <= 40
    members = sorted((piece.request_index, member) for batch in batches for piece in batch for member in piece.members)
    assert members == [(i, m) for i, request in enumerate(requests) for m in range(len(request.completions))]


def test_a_row_stays_within_the_budget_however_unequal_its_completions_are():
    # prefix 10, 202 completion tokens, budget 130: two rows of 10 + 101 would fit, but 60 + 80 | 62 makes a row of 150;
    # so 60 | 80 | 62, rows of 70, 90 and 72 tokens
    def rows(prefix, lengths, pack_tokens):
        prompt = Prompt(problem_id="p", token_ids=(7,) * prefix, images=())
        request = ScoreRequest(prompt=prompt, images=(), completions=tuple((1,) * n for n in lengths))
        return [piece for batch in split_requests([request], pack_tokens, 0.0) for piece in batch]

    assert [piece.tokens for piece in rows(10, [60, 80, 62], 130)] == [70, 90, 72]
    # a lone completion that is too long still gets its row: 10 + 500
    assert [piece.tokens for piece in rows(10, [60, 500], 130)] == [70, 510]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        lengths = torch.randint(0, 200, (12,), generator=generator).tolist()
        pieces = rows(50, lengths, 300)
        assert max(piece.tokens for piece in pieces) <= 300
        assert [member for piece in pieces for member in piece.members] == list(range(12))


def test_a_packed_row_by_hand():
    request = ScoreRequest(
        prompt=Prompt(problem_id="p", token_ids=(7, 8), images=()), images=(), completions=((1, 2), (3,))
    )
    batch = pack([Piece(request=request, request_index=0, members=(0, 1))] * 2)
    assert batch.token_ids.tolist() == [7, 8, 1, 2, 3] * 2
    assert batch.groups().tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert batch.segments().tolist() == [0, 0, 1, 1, 2, 0, 0, 3, 3, 4]
    # token 1 is predicted by 8 (place 1), token 2 by 1 (place 2), token 3 again by 8
    assert batch.predicts.tolist() == [1, 2, 1, 6, 7, 6]
    assert batch.targets.tolist() == [1, 2, 3] * 2
    one = torch.tensor(
        [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 1, 0, 0, 1],
        ]
    )
    assert torch.equal(attention_mask(batch)[0, 0].int(), torch.block_diag(one, one).int())
    # prefix positions (3, 4) and (3, 9): what follows a prefix starts at 5, and at 10
    positions = restart_positions(torch.tensor([[[3, 4], [3, 9]]]), batch)
    assert positions.tolist() == [[[3, 4, 5, 6, 5, 3, 9, 10, 11, 10]]]


# --- moved text


def shift_of(policy: Any, prompt: Prompt, *, size: float = 0.3) -> torch.Tensor:
    """Moves the text of a prompt and leaves image placeholders alone."""
    shift = size * torch.randn(
        len(prompt.token_ids), 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    shift[torch.tensor(prompt.token_ids) == policy.image_token_id] = 0
    return shift


def plain_moved_scores(policy: Any, request: ScoreRequest, shift: torch.Tensor) -> list[tuple[Any, Any]]:
    """`plain_scores`, the embedding's output replaced by one that is moved by hand."""
    table = policy.model.get_input_embeddings()
    original = table.forward

    def moved(token_ids):
        embedded = original(token_ids)
        return torch.cat([embedded[:, : len(shift)] + shift, embedded[:, len(shift) :]], dim=1)

    table.forward = moved
    try:
        return plain_scores(policy, request)
    finally:
        table.forward = original


@pytest.mark.parametrize("pack_tokens", [40, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_moved_text_equals_the_plain_forward_with_moved_embeddings_value_and_gradient(family, pack_tokens):
    policy = scored(FAMILIES[family](torch.float64))
    requests = requests_of(policy)
    gradients = []
    for packed in (True, False):
        # the second request's text stays as it is
        shifts = [None if i == 1 else shift_of(policy, r.prompt).requires_grad_() for i, r in enumerate(requests)]
        moved = [dataclasses.replace(r, text_shift=shift) for r, shift in zip(requests, shifts, strict=True)]
        if packed:
            groups = [
                [(s.logprobs, s.entropy) for s in g] for g in score(policy, moved, pack_tokens, entropy_grad=True)
            ]
        else:
            groups = [
                plain_scores(policy, r) if shift is None else plain_moved_scores(policy, r, shift)
                for r, shift in zip(requests, shifts, strict=True)
            ]
        values = torch.cat([value for group in groups for pair in group for value in pair])
        gradients.append(
            (values.detach(), torch.autograd.grad(values.square().sum(), [s for s in shifts if s is not None]))
        )
    (ours, our_gradients), (theirs, their_gradients) = gradients
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-5 * float(other.abs().max()), rtol=0)
        assert float(mine.abs().max()) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shift_of_zero_is_no_shift_bit_for_bit_and_a_real_one_is_not(family):
    policy = scored(FAMILIES[family](torch.float32))
    requests = requests_of(policy)
    still = [dataclasses.replace(r, text_shift=torch.zeros(len(r.prompt.token_ids), 32)) for r in requests]
    one = torch.zeros(len(requests[0].prompt.token_ids), 32)
    one[-1, 0] = 1.0
    with torch.no_grad():
        plain_way, zero = score(policy, requests), score(policy, still)
        moved = score(policy, [dataclasses.replace(requests[0], text_shift=one), *requests[1:]])
        after = score(policy, requests)  # nothing is left behind
    for first, second, third, last in zip(plain_way, zero, moved, after, strict=True):
        for a, b, c, d in zip(first, second, third, last, strict=True):
            assert torch.equal(a.logprobs, b.logprobs) and torch.equal(a.entropy, b.entropy)
            assert torch.equal(a.logprobs, d.logprobs)
            assert torch.allclose(a.logprobs, c.logprobs, atol=1e-3) == (first is not plain_way[0])


def test_a_shift_that_does_not_fit_its_prompt_is_refused():
    policy = scored(qwen2_5_vl())
    request = requests_of(policy)[0]
    tokens = len(request.prompt.token_ids)
    for shape in ((tokens - 1, 32), (tokens, 31)):
        with pytest.raises(ValueError, match=rf"text_shift must be {tokens} x 32 .* got {shape[0]} x {shape[1]}"):
            score(policy, [dataclasses.replace(request, text_shift=torch.zeros(shape))])
