"""The sampler against Hugging Face's own `generate` and forward, and against draws worked out by hand."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from saei.decoder import GROWTH
from saei.draw import DrawRule, draw_tokens
from saei.sampler import _fill_from_tail, sample
from saei.seeding import uniforms
from saei.types import Prompt, SampleRequest
from tests import sampler_models

torch.set_num_threads(1)
LONG = GROWTH + 6  # the cache has to grow once


@pytest.fixture(params=sampler_models.PARAMS)
def policy(request):
    return sampler_models.FAMILIES[request.param]()


def requests_for(prompts: list[Prompt], count: int) -> list[SampleRequest]:
    return [SampleRequest(prompt=prompt, images=prompt.images, indices=tuple(range(count))) for prompt in prompts]


def noise(problem_id: str, index: int, length: int) -> np.ndarray:
    return uniforms(7, "sampling", 0, problem_id, index, length)


def draw(policy, requests, *, batch_rows=96, temperature=1.0, top_p=1.0, max_new_tokens=12, noise=noise):
    return sample(
        policy,
        requests,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        batch_rows=batch_rows,
        noise=noise,
    )


def inputs_of(policy, prompt: Prompt, completion: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """What a stock processor would hand to the model for one row."""
    token_ids = torch.tensor([[*prompt.token_ids, *completion]])
    return sampler_models.stock_inputs(policy, token_ids, prompt.images)


def generate(policy, prompt: Prompt, length: int) -> tuple[int, ...]:
    tokens = policy.model.generate(
        **inputs_of(policy, prompt),
        do_sample=False,
        max_new_tokens=length,
        eos_token_id=list(policy.end_token_ids),
        pad_token_id=0,
        suppress_tokens=list(policy.suppressed_token_ids),
    )
    return tuple(tokens[0, len(prompt.token_ids) :].tolist())


def test_greedy_decoding_equals_generate_for_mixed_prompts_and_early_ends(policy):
    prompts = sampler_models.prompts(policy)
    free = [
        generate(replace(policy, end_token_ids=policy.suppressed_token_ids[-1:]), prompt, LONG) for prompt in prompts
    ]
    # end tokens that the rows really say, at different times: the batch is compacted on the way
    policy.end_token_ids = (free[0][2], free[1][5])
    expected = [generate(policy, prompt, LONG) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) >= 2
    policy.model.model.rope_deltas = torch.tensor([[999]])  # what an earlier call left behind must not matter
    got = draw(policy, requests_for(prompts, 1), max_new_tokens=LONG, noise=None)
    assert [group[0].token_ids for group in got] == expected
    for (completion,) in got:
        assert completion.finished == (completion.token_ids[-1] in policy.end_token_ids)


def test_greedy_decoding_equals_generate_across_a_growth_of_the_cache(policy):
    policy.end_token_ids = policy.suppressed_token_ids[-1:]  # never said: every row runs to the end
    prompts = sampler_models.prompts(policy)
    got = draw(policy, requests_for(prompts, 1), max_new_tokens=LONG, noise=None)
    assert [group[0].token_ids for group in got] == [generate(policy, prompt, LONG) for prompt in prompts]
    assert all(len(group[0].token_ids) == LONG and not group[0].finished for group in got)


def test_recorded_scores_are_those_of_the_plain_forward_before_top_p_and_suppression(policy):
    temperature, top_p = 0.8, 0.7
    prompts = sampler_models.prompts(policy)
    got = draw(policy, requests_for(prompts, 3), temperature=temperature, top_p=top_p)
    for prompt, completion in ((p, c) for p, group in zip(prompts, got, strict=True) for c in group):
        with torch.no_grad():
            logits = policy.model(**inputs_of(policy, prompt, completion.token_ids)).logits[0]
        log_p = torch.log_softmax(logits[len(prompt.token_ids) - 1 : -1] / temperature, dim=-1)
        picked = log_p[torch.arange(len(log_p)), list(completion.token_ids)]
        torch.testing.assert_close(completion.sampler_logprobs, picked, atol=1e-6, rtol=0)
        entropy = -(log_p.exp() * log_p).sum(-1)
        torch.testing.assert_close(completion.sampler_entropy, entropy, atol=1e-6, rtol=0)
        kept = log_p.exp()
        kept[:, list(policy.suppressed_token_ids)] = 0
        for row, removed in zip(kept, completion.removed_mass.tolist(), strict=True):
            # the plain definition: walk down from the likeliest token until top_p of what is not suppressed is held
            held = 0.0
            for p in sorted(row.tolist(), reverse=True):
                if held >= top_p * row.sum():
                    break
                held += p
            assert removed == pytest.approx(1 - held, abs=1e-6)


def test_the_batching_does_not_change_a_token(policy):
    requests = requests_for(sampler_models.prompts(policy), 12)
    expected = [[c.token_ids for c in group] for group in draw(policy, requests)]
    for batch_rows in (1, 7):
        got = draw(policy, requests, batch_rows=batch_rows)
        assert [[c.token_ids for c in group] for group in got] == expected
    assert len({tokens for group in expected for tokens in group}) > 40  # of 48: the rows are not copies


def test_a_request_is_sampled_alike_alone_in_another_order_and_under_another_view(policy):
    requests = requests_for(sampler_models.prompts(policy), 4)
    together = draw(policy, requests)
    backwards = draw(policy, requests[::-1])[::-1]
    copies = [replace(request, images=tuple(image.clone() for image in request.images)) for request in requests]
    twice = draw(policy, [*requests, *copies])
    for i, request in enumerate(requests):
        tokens = [c.token_ids for c in together[i]]
        for other in (draw(policy, [request])[0], backwards[i], twice[i], twice[i + len(requests)]):
            assert [c.token_ids for c in other] == tokens


def test_a_row_sees_the_images_of_its_request_and_not_those_of_its_prompt(policy):
    prompt = sampler_models.prompts(policy)[0]
    moved = (255 - prompt.images[0],)
    clean, other = draw(
        policy,
        [SampleRequest(prompt=prompt, images=images, indices=(0, 1)) for images in (prompt.images, moved)],
    )
    (alone,) = draw(policy, requests_for([replace(prompt, images=moved)], 2))
    assert [c.token_ids for c in other] == [c.token_ids for c in alone]
    assert not torch.allclose(clean[0].sampler_entropy[0], other[0].sampler_entropy[0])


def test_completions_continue_a_group_where_an_earlier_call_stopped(policy):
    prompt = sampler_models.prompts(policy)[1]
    (whole,) = draw(policy, requests_for([prompt], 6))
    (rest,) = draw(policy, [SampleRequest(prompt=prompt, images=prompt.images, indices=(4, 5))])
    assert [(c.index, c.token_ids) for c in rest] == [(c.index, c.token_ids) for c in whole[4:]]


def test_each_prompt_is_prefilled_once_and_equal_images_are_encoded_once(policy, monkeypatch):
    patches = []
    encode = policy.model.model.get_image_features

    def counted(pixel_values, *args, **kwargs):
        patches.append(pixel_values.shape[1] if pixel_values.ndim == 5 else len(pixel_values))
        return encode(pixel_values, *args, **kwargs)

    monkeypatch.setattr(policy.model.model, "get_image_features", counted)
    requests = requests_for(sampler_models.prompts(policy), 12)
    draw(policy, [*requests, *requests], batch_rows=7, max_new_tokens=2)
    # patches of 4 x 4 pixels: 16x16 -> 16; 8x24 -> 12; 16x8 and 8x8 -> 8 + 4
    # tiles of 8 x 8, and the whole of it small: 2 * 2 + 1; 1 * 3 + 1; 2 + 1 and a single one
    patched = policy.model.config.model_type.startswith("qwen")
    assert sorted(patches) == ([12, 12, 16] if patched else [4, 4, 5])


def rule(top_p=1.0, temperature=1.0, suppressed=(), vocabulary=4) -> DrawRule:
    marked = torch.zeros(vocabulary, dtype=torch.bool)
    marked[list(suppressed)] = True
    return DrawRule(
        temperature=temperature, top_p=top_p, max_new_tokens=8, suppressed=marked, end=torch.zeros_like(marked)
    )


def tokens_at(weights: list[float], us: list[float], how: DrawRule) -> list[int]:
    logits = torch.tensor(weights, dtype=torch.float64).log().expand(len(us), -1)
    return draw_tokens(logits, torch.tensor(us, dtype=torch.float64), how).tokens.tolist()


def test_the_inverse_cdf_picks_the_stretch_that_holds_the_uniform():
    # CDF of (1/8, 1/2, 1/8, 1/4): 1/8, 5/8, 3/4, 1
    weights = [0.125, 0.5, 0.125, 0.25]
    assert tokens_at(weights, [0.0, 0.124, 0.126, 0.624, 0.626, 0.749, 0.751], rule()) == [0, 0, 1, 1, 2, 2, 3]


def test_no_uniform_leaves_the_table_or_picks_a_token_of_probability_zero():
    largest = 1 - 2.0**-53
    for weights in itertools.product([0.0, 0.3, 1.0], repeat=4):
        if sum(weights) > 0:
            picked = tokens_at(list(weights), [0.0, 1e-300, 0.5, largest], rule())
            assert all(weights[token] > 0 for token in picked), weights
    # all but one token suppressed
    assert tokens_at([0.1, 0.2, 0.3, 0.4], [0.0, 0.5, largest], rule(suppressed=(0, 1, 3))) == [2, 2, 2]


def test_suppression_and_the_nucleus_remove_what_they_say():
    # (.1 .2 .3 .4), token 3 suppressed: left .1 .2 .3 of .6; 70 % of .6 is .42 -> tokens 2 and 1 (.5); removed .1 + .4
    how = rule(top_p=0.7, suppressed=(3,))
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    # CDF of (0, .2, .3, 0) / .5: 0, .4, 1, 1
    assert tokens_at([0.1, 0.2, 0.3, 0.4], [0.0, 0.39, 0.41, 0.999], how) == [1, 1, 2, 2]
    drawn = draw_tokens(logits, torch.tensor([0.1], dtype=torch.float64), how)
    assert drawn.removed_mass.item() == pytest.approx(0.5)
    assert drawn.logprobs.item() == pytest.approx(math.log(0.2))
    assert drawn.entropy.item() == pytest.approx(-sum(p * math.log(p) for p in (0.1, 0.2, 0.3, 0.4)))
    greedy = draw_tokens(logits, None, how)
    assert (greedy.tokens.item(), greedy.removed_mass.item()) == (2, pytest.approx(0.4))


def test_ties_at_the_edge_of_the_nucleus_go_to_the_lower_token():
    # four equal tokens, top_p 0.6: three are needed (0.25 * 2 < 0.6 <= 0.25 * 3)
    assert tokens_at([1.0, 1.0, 1.0, 1.0], [0.0, 0.34, 0.99], rule(top_p=0.6)) == [0, 1, 2]


def test_temperature_divides_the_logits():
    # weights (1, 4) at temperature 2 are (1, 2): the edge is at 1/3, not at 1/5
    how = rule(temperature=2.0, vocabulary=2)
    assert tokens_at([1.0, 4.0], [0.32, 0.34], how) == [0, 1]


def test_rows_of_the_tail_fill_the_slots_of_finished_rows():
    # slots 0..5, finished 1, 2 and 5: 0 and (3, 4 moved into 1, 2) go on
    done = torch.tensor([False, True, True, False, False, True])
    assert _fill_from_tail(done).tolist() == [0, 3, 4]
    # finished 0 only: the last row, 5, takes slot 0
    assert _fill_from_tail(torch.tensor([True] + [False] * 5)).tolist() == [5, 1, 2, 3, 4]


def test_what_cannot_be_sampled_is_refused_with_a_sentence():
    policy = sampler_models.qwen2_5_vl()
    requests = requests_for(sampler_models.prompts(policy)[:1], 1)
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        draw(policy, requests, temperature=0.0)
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got 1.5"):
        draw(policy, requests, top_p=1.5)
    with pytest.raises(ValueError, match=r"noise must give 12 uniforms in \[0, 1\)"):
        draw(policy, requests, noise=lambda *_: np.ones(12))
    policy.model.train()
    assert draw(policy, requests)[0][0].token_ids  # training mode alone changes nothing
    policy.model.model.language_model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match=r"dropout of 0.1 is active, so what was sampled"):
        draw(policy, requests)


def test_weights_that_overflowed_are_told_in_a_sentence_that_names_the_learning_rate():
    policy = sampler_models.qwen2_5_vl()
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"logits are not finite.*optim\.lr"):
        draw(policy, requests_for(sampler_models.prompts(policy), 1))


def test_nothing_requested_gives_nothing_and_no_gradient_is_recorded():
    policy = sampler_models.qwen2_5_vl()
    prompts = sampler_models.prompts(policy)
    empty = SampleRequest(prompt=prompts[0], images=prompts[0].images, indices=())
    got = draw(policy, [empty, *requests_for(prompts[1:2], 2)])
    assert [len(group) for group in got] == [0, 2]
    assert not got[1][0].sampler_logprobs.requires_grad
    assert draw(policy, []) == []


@pytest.fixture(scope="module")
def shipped():
    from saei.config import DataConfig, ModelConfig
    from saei.data import load_problems
    from saei.policy import load_policy

    data = DataConfig()
    policy = load_policy(ModelConfig(dtype="float64", device="cpu"), data)
    problems = load_problems(data, data.validation_split)
    return policy, [policy.encode(problems[i]) for i in range(4)]


def test_the_shipped_model_decodes_greedily_as_generate_does(shipped):
    policy, prompts = shipped
    got = draw(policy, requests_for(prompts, 1), max_new_tokens=40, noise=None)
    assert [group[0].token_ids for group in got] == [generate(policy, prompt, 40) for prompt in prompts]


def test_on_the_shipped_model_the_sampler_and_the_scorer_agree(shipped):
    from saei.types import ScoreRequest

    policy, prompts = shipped
    got = draw(policy, requests_for(prompts, 3), max_new_tokens=40)
    requests = [
        ScoreRequest(prompt=prompt, images=prompt.images, completions=tuple(c.token_ids for c in group))
        for prompt, group in zip(prompts, got, strict=True)
    ]
    with torch.no_grad():
        scores = policy.score(requests, temperature=1.0, pack_tokens=2048)
    for completion, score in zip(itertools.chain(*got), itertools.chain(*scores), strict=True):
        kwargs = {"atol": 1e-5, "rtol": 0, "check_dtype": False}
        torch.testing.assert_close(completion.sampler_logprobs, score.logprobs, **kwargs)
        torch.testing.assert_close(completion.sampler_entropy, score.entropy, **kwargs)


# --- moved text, and what a call costs


def shifted(policy, request: SampleRequest, size: float = 0.5) -> SampleRequest:
    tokens = len(request.prompt.token_ids)
    shift = size * torch.randn(tokens, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(tokens))
    shift[torch.tensor(request.prompt.token_ids) == policy.image_token_id] = 0
    return replace(request, text_shift=shift)


def moved_logits(policy, request: SampleRequest, completion: tuple[int, ...]) -> torch.Tensor:
    """The plain forward, the embedding's output moved by hand on the prompt."""
    table, shift = policy.model.get_input_embeddings(), request.text_shift
    original = table.forward

    def moved(token_ids):
        embedded = original(token_ids)
        return torch.cat([embedded[:, : len(shift)] + shift, embedded[:, len(shift) :]], dim=1)

    table.forward = moved
    try:
        with torch.no_grad():
            return policy.model(**inputs_of(policy, request.prompt, completion)).logits[0, len(shift) - 1 : -1]
    finally:
        table.forward = original


def test_completions_of_moved_text_are_scored_as_the_plain_forward_with_moved_embeddings(policy):
    clean = requests_for(sampler_models.prompts(policy), 2)
    moved = [shifted(policy, request) for request in clean]
    # clean and moved rows of the same prompt in one batch, prompts of different length left-padded together
    got = draw(policy, [*clean, *moved])
    plain = draw(policy, clean)
    for together, alone in zip(got, plain, strict=False):
        assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    for request, group, before in zip(moved, got[len(clean) :], plain, strict=True):
        assert not torch.allclose(group[0].sampler_entropy[0], before[0].sampler_entropy[0], atol=1e-4)
        for completion in group:
            log_p = torch.log_softmax(moved_logits(policy, request, completion.token_ids), dim=-1)
            picked = log_p[torch.arange(len(log_p)), list(completion.token_ids)]
            torch.testing.assert_close(completion.sampler_logprobs, picked, atol=1e-6, rtol=0)
            torch.testing.assert_close(completion.sampler_entropy, -(log_p.exp() * log_p).sum(-1), atol=1e-6, rtol=0)


def test_a_shift_of_zero_samples_as_no_shift_bit_for_bit(policy):
    clean = requests_for(sampler_models.prompts(policy), 3)
    still = [shifted(policy, request, size=0.0) for request in clean]
    for group, other in zip(draw(policy, clean), draw(policy, still), strict=True):
        for a, b in zip(group, other, strict=True):
            assert a.token_ids == b.token_ids
            assert torch.equal(a.sampler_logprobs, b.sampler_logprobs)


def test_a_shift_that_does_not_fit_its_prompt_is_refused(policy):
    (request,) = requests_for(sampler_models.prompts(policy)[:1], 1)
    tokens = len(request.prompt.token_ids)
    with pytest.raises(ValueError, match=rf"text_shift must be {tokens} x 32"):
        draw(policy, [replace(request, text_shift=torch.zeros(tokens + 1, 32))])


def test_forward_tokens_are_prompt_tokens_once_and_one_for_each_row_and_step(policy):
    policy.end_token_ids = policy.suppressed_token_ids[-1:]  # never said: every row runs to the end
    prompts = sampler_models.prompts(policy)
    real = sum(len(prompt.token_ids) for prompt in prompts)
    draw(policy, requests_for(prompts, 3), max_new_tokens=5)
    # 4 prompts once, padding not counted; 12 rows, whose first token comes from the prefill: 4 steps each
    assert policy.tokens_forward == real + 12 * 4
    policy.tokens_forward = 0
    # the same requests twice share their prefill; batches of 7 rows change nothing
    draw(policy, requests_for(prompts, 3) * 2, max_new_tokens=5, batch_rows=7)
    assert policy.tokens_forward == real + 24 * 4


def test_finished_rows_cost_nothing_more(policy):
    prompts = sampler_models.prompts(policy)
    free = [generate(replace(policy, end_token_ids=policy.suppressed_token_ids[-1:]), p, 12) for p in prompts]
    policy.end_token_ids = (free[0][2], free[1][5])
    got = draw(policy, requests_for(prompts, 1), noise=None)
    lengths = [len(group[0].token_ids) for group in got]
    assert len(set(lengths)) > 1
    # a row of n tokens takes n - 1 steps: its last token is drawn and never read
    assert policy.tokens_forward == sum(len(p.token_ids) for p in prompts) + sum(n - 1 for n in lengths)
