"""Attention back-ends against the plain forward pass and against the dense mask."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from saei.attention import block_mask, implementation, packed_mask, refuse_unknown
from saei.blocks import attend, blocks_of
from saei.config import DataConfig, ModelConfig
from saei.packing import PackedBatch, Piece, attention_mask, pack
from saei.policy import Policy, load_policy
from saei.sampler import sample
from saei.scoring import score_requests
from saei.types import Prompt, SampleRequest, ScoreRequest
from tests.oracle import plain, scored, worst_difference
from tests.sampler_models import prompts, qwen2_5_vl, qwen3_vl
from tests.test_packing import requests_of

MAKERS = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}


def batch_of(*groups: tuple[int, ...]) -> PackedBatch:
    """Pieces of (length of the prefix, lengths of its completions)."""
    requests = [
        ScoreRequest(
            prompt=Prompt(problem_id="p", token_ids=(7,) * prefix, images=()),
            images=(),
            completions=tuple((1,) * length for length in lengths),
        )
        for prefix, *lengths in groups
    ]
    return pack([Piece(request=request, request_index=0, members=()) for request in requests])


BATCH = batch_of((2, 2, 1), (1, 1, 3, 1))


def scores_of(policy, requests):
    with torch.no_grad():
        return score_requests(policy, requests, temperature=1.0, pack_tokens=4096, entropy_grad=False)


@pytest.mark.parametrize("name", ["saei_eager", "sdpa", "eager"])  # the last two: models that others loaded
@pytest.mark.parametrize("family", MAKERS)
def test_packed_scores_of_other_back_ends_equal_the_plain_forward_of_sdpa(family, name):
    policy = scored(MAKERS[family](torch.float64))
    requests = requests_of(policy)
    expected = plain(policy, requests)
    policy.model.set_attn_implementation(name)
    ours = scores_of(policy, requests)
    assert policy.packed_forwards == 1
    assert worst_difference(expected, ours) < 1e-5  # softmax in float32


def test_eager_samples_the_tokens_that_sdpa_samples():
    drawn = []
    for name in ("sdpa", "saei_sdpa", "saei_eager"):
        policy = qwen2_5_vl(torch.float64)
        policy.model.set_attn_implementation(name)
        requests = [SampleRequest(prompt=p, images=p.images, indices=(0, 1)) for p in prompts(policy)]
        rows = sample(
            policy, requests, temperature=1.0, top_p=1.0, max_new_tokens=12, batch_rows=8,
            noise=lambda problem, index, length: torch.rand(
                length, dtype=torch.float64, generator=torch.Generator().manual_seed(index)
            ).numpy(),
        )  # fmt: skip
        drawn.append([one.token_ids for group in rows for one in group])
    assert drawn[0] == drawn[1] == drawn[2] and len({*drawn[0]}) > 4


def test_the_block_mask_lets_look_where_the_dense_mask_does():
    mask, tokens = block_mask(BATCH.groups(), BATCH.segments()), len(BATCH.token_ids)
    query, key = torch.meshgrid(torch.arange(tokens), torch.arange(tokens), indexing="ij")
    nothing = torch.zeros_like(query)
    assert torch.equal(mask.mask_mod(nothing, nothing, query, key), attention_mask(BATCH)[0, 0])


def test_blocks_between_two_completions_are_skipped():
    # prefix of one block, then four completions of one block each: a completion looks at the prefix and itself
    batch = batch_of((128, 128, 128, 128, 128))
    assert block_mask(batch.groups(), batch.segments()).to_dense()[0, 0].tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_attention_by_blocks_equals_attention_under_the_dense_mask_with_its_gradient():
    # prefixes and completions of very different lengths, so that several blocks and their padding are met
    generator = torch.Generator().manual_seed(0)
    batch = batch_of((40, 5, 90, 33), (90, 1, 0, 70), (3, 40))
    tokens = len(batch.token_ids)
    shapes = ((1, 4, tokens, 8), (1, 2, tokens, 8), (1, 2, tokens, 8))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]

    def product(query, key, value, mask):
        return scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=True)

    blocks = blocks_of(batch, "cpu")
    assert len(blocks.blocks) > 4
    ours = attend(*inputs, blocks, product).transpose(1, 2)
    dense = scaled_dot_product_attention(*inputs, attention_mask(batch), enable_gqa=True)
    torch.testing.assert_close(ours, dense, atol=1e-12, rtol=0)
    direction = torch.randn(dense.shape, generator=generator, dtype=torch.float64)
    for own, expected in zip(*(torch.autograd.grad(o, inputs, direction) for o in (ours, dense)), strict=True):
        torch.testing.assert_close(own, expected, atol=1e-12, rtol=0)


def test_the_blocks_of_many_short_completions_are_two_and_hold_no_pair_of_completions():
    # 3 groups of prefix 40 with 12 completions of 5 to 16 tokens: 3 x 40 x 40 pairs of prefix tokens, and
    # 36 x 16 x (40 + 16) of completions, in place of 3 x (40 + 126)^2 = 82,668 under dense masks
    lengths = tuple(range(5, 17))
    first, second = blocks_of(batch_of(*[(40, *lengths)] * 3), "cpu").blocks
    assert (first.queries.shape, first.keys.shape, first.mask) == ((3, 40), (3, 40), None)
    assert (second.queries.shape, second.keys.shape) == ((36, 16), (36, 56))


@pytest.mark.parametrize("family", MAKERS)
def test_packed_scores_of_flex_equal_the_plain_forward_of_sdpa(family):
    """Without gradient and uncompiled, which is all that torch offers of flex_attention on a CPU."""
    policy = scored(MAKERS[family](torch.float64))
    requests = requests_of(policy)
    expected = plain(policy, requests)
    policy.model.set_attn_implementation("saei_flex")
    assert type(packed_mask(policy.model, BATCH, "cpu")).__name__ == "BlockMask"
    with torch.compiler.set_stance("force_eager"):
        ours = scores_of(policy, requests)
    assert policy.packed_forwards == 1
    assert worst_difference(expected, ours) < 1e-5  # softmax in float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here, and flex_attention has no gradient on CPU")
def test_packed_gradients_of_flex_equal_those_of_sdpa():
    gradients = []
    for name in ("saei_sdpa", "saei_flex"):
        policy = scored(qwen2_5_vl(torch.float32))
        policy.model.to("cuda").set_attn_implementation(name)
        policy.device = torch.device("cuda")
        rows = score_requests(policy, requests_of(policy), temperature=1.0, pack_tokens=4096, entropy_grad=True)
        sum((one.logprobs + one.entropy).sum() for group in rows for one in group).backward()
        gradients.append({n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("flash_attention_2", "model.attention flash_attention_2 cannot take the mask of packed rows, in which"),
        ("paged", "model.attention must be sdpa, eager or flex, got 'paged'"),
    ],
)
def test_back_ends_that_cannot_be_had_are_refused_with_the_reason(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        ModelConfig(attention=name)


def test_flex_is_refused_on_a_cpu():
    with pytest.raises(ValueError, match=r"model.attention flex needs a GPU, and model.device is cpu: .* sdpa"):
        load_policy(ModelConfig(attention="flex", device="cpu"), DataConfig())
    assert implementation("flex", "cuda:1") == "saei_flex"


def test_a_policy_of_a_model_that_others_loaded_attends_by_blocks():
    policy = load_policy(ModelConfig(), DataConfig())
    text = policy.model.config.get_text_config()
    for stock, ours in (("sdpa", "saei_sdpa"), ("eager", "saei_eager"), ("flash_attention_2", "flash_attention_2")):
        text._attn_implementation = stock
        again = Policy(policy.model, policy.tokenizer, policy.image_processor, DataConfig())
        assert again.model.config.get_text_config()._attn_implementation == ours
        assert (again.attention_cost > 0) == (ours == stock)  # a dense mask makes long rows dear


def test_a_model_with_windows_that_others_loaded_is_refused_before_it_is_changed():
    model = load_policy(ModelConfig(), DataConfig()).model
    text = model.config.get_text_config()
    text.layer_types, text._attn_implementation = ["sliding_attention", *text.layer_types[1:]], "sdpa"
    with pytest.raises(ValueError, match="has layers of sliding_attention"):
        Policy(model, None, None, DataConfig())
    assert text._attn_implementation == "sdpa"


@pytest.mark.parametrize("name, what", [("softcap", "soft-caps its attention"), ("s_aux", "attends to sinks")])
def test_what_attention_here_leaves_out_is_refused_and_not_left_out_in_silence(name, what):
    with pytest.raises(ValueError, match=f"{what}.*{name}"):
        refuse_unknown({"dropout": 0.0, name: torch.ones(2)})
    refuse_unknown({"dropout": 0.0, name: None})


def test_the_setting_reaches_the_decoder():
    policy = load_policy(ModelConfig(attention="eager", device="cpu"), DataConfig())
    assert policy.model.config.get_text_config()._attn_implementation == "saei_eager"
