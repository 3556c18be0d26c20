"""50,000 draws through the real row cache against exact sequence probabilities; broken samplers must be noticed.

Vocabulary 5 with one end token, completions of at most 3 tokens, 12 rows of 3 problems with prompts of different
length. A random one-layer Qwen2.5-VL gives the probabilities: the expected ones from plain forwards of one row.
"""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from saei.decoder import Prefix, RowDecoder, prefill
from saei.draw import DrawRule
from saei.sampler import decode_rows
from saei.seeding import stream
from tests.sampler_models import ToyPolicy

torch.set_num_threads(1)
VOCABULARY, END, LENGTH = 5, 4, 3
PROMPTS = ((0, 1, 2), (3, 1), (2,))
ROWS, BATCHES = 12, 4167  # 50,004 draws
FEWER = 1000  # batches that suffice to notice a broken sampler: 12,000 draws
PROBLEM_OF_ROW = torch.arange(ROWS) // 4
Draws = list[list[tuple[int, ...]]]
"""[batch][row] -> token ids."""


@pytest.fixture(scope="module")
def policy() -> ToyPolicy:
    torch.manual_seed(3)
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False, "initializer_range": 0.5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]},
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": END,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 16}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=90, video_token_id=91)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    return ToyPolicy(model, codec=None, end_token_ids=(END,), suppressed_token_ids=(), image_token_id=90)


def rule(temperature: float = 1.0, top_p: float = 1.0) -> DrawRule:
    end = torch.zeros(VOCABULARY, dtype=torch.bool)
    end[END] = True
    return DrawRule(
        temperature=temperature, top_p=top_p, max_new_tokens=LENGTH, suppressed=torch.zeros_like(end), end=end
    )


def independent_uniforms(batches: int = BATCHES) -> np.ndarray:
    return stream(11, "sampling").random((batches, ROWS, LENGTH))


@torch.no_grad()
def draw(policy: ToyPolicy, how: DrawRule, uniforms: np.ndarray, decoder: Callable = RowDecoder) -> Draws:
    start = prefill(policy, [Prefix(tokens, ()) for tokens in PROMPTS])
    table = torch.from_numpy(uniforms)
    draws: Draws = []
    for batch in range(len(table)):
        state = decoder(policy, start, PROBLEM_OF_ROW)
        rows = decode_rows(state.logits, state.step, table[batch], how)
        lengths = rows.lengths.tolist()
        draws.append([tuple(tokens[:n]) for tokens, n in zip(rows.tokens.tolist(), lengths, strict=True)])
    return draws


@torch.no_grad()
def probabilities(policy: ToyPolicy, problem: int, how: DrawRule) -> dict[tuple[int, ...], float]:
    """Every sequence that can be drawn, by a plain forward of each beginning and numpy."""
    found: dict[tuple[int, ...], float] = {}
    open_ones: dict[tuple[int, ...], float] = {(): 1.0}
    while open_ones:
        beginning, probability = open_ones.popitem()
        token_ids = torch.tensor([[*PROMPTS[problem], *beginning]])
        logits = policy.model(input_ids=token_ids).logits[0, -1].double().numpy() / how.temperature
        p = np.exp(logits - logits.max())
        p /= p.sum()
        if how.top_p < 1:
            order = np.argsort(-p)
            count = int(np.searchsorted(np.cumsum(p[order]), how.top_p)) + 1
            p[order[count:]] = 0
            p /= p.sum()
        for token in range(VOCABULARY):
            sequence = (*beginning, token)
            closed = token == END or len(sequence) == LENGTH
            (found if closed else open_ones)[sequence] = probability * float(p[token])
    return found


def p_value(tables: list[tuple[Counter, dict]]) -> float:
    """Chi-square of all tables together; cells of a table that expect fewer than 10 are merged, smallest first."""
    statistic, freedom = 0.0, 0
    for counts, expected in tables:
        total = sum(counts.values())
        bins: list[tuple[float, float]] = []  # seen, expected
        seen, hoped = 0.0, 0.0
        for key, probability in sorted(expected.items(), key=lambda item: item[1]):
            if probability == 0:
                assert counts[key] == 0, f"{key} cannot be drawn and was, {counts[key]} times"
            seen, hoped = seen + counts[key], hoped + total * probability
            if hoped >= 10:
                bins.append((seen, hoped))
                seen, hoped = 0.0, 0.0
        if hoped > 0:
            bins[-1] = (bins[-1][0] + seen, bins[-1][1] + hoped)
        assert sum(seen for seen, _ in bins) == total, "a sequence outside the table was drawn"
        statistic += sum((seen - hoped) ** 2 / hoped for seen, hoped in bins)
        freedom += len(bins) - 1
    return float(chi2.sf(statistic, freedom))


def sequences_p(policy: ToyPolicy, draws: Draws, how: DrawRule) -> float:
    """Do the sequences of each problem come as often as they should?"""
    counts = [Counter() for _ in PROMPTS]
    for rows in draws:
        for row, tokens in enumerate(rows):
            counts[row // 4][tokens] += 1
    return p_value([(counts[problem], probabilities(policy, problem, how)) for problem in range(len(PROMPTS))])


def pairs_p(policy: ToyPolicy, draws: Draws, how: DrawRule) -> float:
    """Are two rows of a batch independent? (first token, length) of disjoint pairs, within and across problems."""

    def outcome(tokens: tuple[int, ...]) -> tuple[int, int]:
        return tokens[0], len(tokens)

    singles = []
    for problem in range(len(PROMPTS)):
        table: Counter = Counter()
        for tokens, probability in probabilities(policy, problem, how).items():
            table[outcome(tokens)] += probability
        singles.append(table)
    tables = []
    for left, right in ((0, 1), (4, 5), (8, 9), (2, 6), (3, 10), (7, 11)):
        counts = Counter((outcome(rows[left]), outcome(rows[right])) for rows in draws)
        expected = {
            (a, b): singles[left // 4][a] * singles[right // 4][b]
            for a, b in itertools.product(singles[left // 4], singles[right // 4])
        }
        tables.append((counts, expected))
    return p_value(tables)


ALONE = [pytest.param(*values, marks=pytest.mark.slow) for values in ((1.0, 1.0), (0.7, 1.0), (1.0, 0.9))]


@pytest.mark.parametrize("temperature, top_p", [(0.7, 0.9), *ALONE])
def test_every_sequence_comes_as_often_as_it_should(policy, temperature, top_p):
    how = rule(temperature, top_p)
    draws = draw(policy, how, independent_uniforms())
    lengths = Counter(len(tokens) for rows in draws for tokens in rows)
    assert sum(lengths.values()) == ROWS * BATCHES and min(lengths[n] for n in (1, 2, 3)) > 1000  # rows do drop out
    assert sequences_p(policy, draws, how) > 1e-3
    assert pairs_p(policy, draws, how) > 1e-3


@pytest.mark.slow
def test_a_sampler_at_temperature_1_1_is_noticed(policy):
    draws = draw(policy, rule(temperature=1.1), independent_uniforms(FEWER))
    assert sequences_p(policy, draws, rule()) < 1e-6


class NeighbourDecoder(RowDecoder):
    """Reads the cache of the next living row."""

    def step(self, tokens, keep):
        if keep is not None:
            self._compact(keep)
        for tensor in self._tensors():
            tensor[: self._alive] = tensor[: self._alive].roll(1, dims=0)
        self._shared.seat(self._prefix[: self._alive])
        return super().step(tokens, None)


@pytest.mark.slow
def test_a_sampler_that_reads_a_neighbours_cache_row_is_noticed(policy):
    draws = draw(policy, rule(), independent_uniforms(FEWER), NeighbourDecoder)
    assert sequences_p(policy, draws, rule()) < 1e-6


class ForgetfulDecoder(RowDecoder):
    """Drops finished rows without moving the caches of those that take their slots."""

    def _compact(self, keep):
        self._alive = len(keep)
        self._shared.seat(self._prefix[: self._alive])


def test_a_sampler_that_forgets_to_move_the_cache_is_noticed(policy):
    draws = draw(policy, rule(), independent_uniforms(FEWER), ForgetfulDecoder)
    assert sequences_p(policy, draws, rule()) < 1e-6


def test_one_uniform_shared_by_all_rows_is_noticed(policy):
    shared = np.repeat(independent_uniforms(FEWER)[:, :1], ROWS, axis=1)
    draws = draw(policy, rule(), shared)
    assert pairs_p(policy, draws, rule()) < 1e-6
    assert sequences_p(policy, draws, rule()) < 1e-6
