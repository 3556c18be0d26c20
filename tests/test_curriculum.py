"""SENT's curriculum: semantic entropy, stages, and an order in which no step holds a problem twice."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from saei import curriculum
from saei.config import DataConfig, with_overrides
from saei.curriculum import curriculum_order, measure, same_answer, semantic_entropy, staged, without_repeats
from saei.data import load_problems
from saei.engines import completing
from saei.order import problem_indices
from saei.policy import Policy, load_policy
from saei.seeding import stream
from saei.types import Problem, SampledCompletion
from tests.runs import small_config


def equal(one, other):
    return one == other


def test_answers_all_alike_have_no_entropy_and_all_different_the_most():
    assert semantic_entropy(["4"] * 8, equal) == 0.0
    assert semantic_entropy(list("abcdefgh"), equal) == pytest.approx(math.log(8))


def test_clusters_of_two_one_and_one_have_one_and_a_half_bits():
    # p = 1/2 1/4 1/4: .5 ln 2 + 2 * .25 ln 4 = 1.5 ln 2
    assert semantic_entropy(["4", "5", "4", ""], equal) == pytest.approx(1.5 * math.log(2))


def test_completions_without_an_answer_are_one_cluster_that_nothing_joins():
    assert semantic_entropy(["", "", ""], equal) == 0.0
    # a comparison that calls everything equal is not asked about them
    assert semantic_entropy(["", "4", "5", ""], lambda one, other: True) == pytest.approx(math.log(2))


def test_an_answer_joins_what_is_equal_to_it_in_the_graders_eyes():
    # p = 3/4 1/4: .75 * .287682 + .25 * 1.386294
    assert semantic_entropy(["7", "07", "7.0", "8"], lambda a, b: float(a) == float(b)) == pytest.approx(0.562335)


def problem(answer_type, choices=None):
    return Problem(problem_id="p", images=(), question="?", answer="gold", answer_type=answer_type, choices=choices)


@pytest.mark.parametrize(
    ("given", "one", "other", "expected"),
    [
        (problem("number"), "1,000", "1000.0", True),
        (problem("number"), "7", "8", False),
        (problem("number"), "seven", "7", False),
        (problem("text"), "Red  square", "red square", True),
        (problem("choice", ("40 cm", "50 cm")), "A", "40 cm", True),
        (problem("choice", ("40 cm", "50 cm")), "(A)", "B", False),
        (problem("math"), "x + 1", "x+1", True),
        (problem("math"), "0.50", "0.5", True),
        (problem("math"), "\\frac{1}{2}", "0.5", False),  # only an algebra system could tell
        (problem("number"), "1" * 3000, "1" * 3000 + ".0", False),  # too long to grade
    ],
)
def test_answers_are_compared_as_the_grader_would_and_both_ways_round(given, one, other, expected):
    assert same_answer(given, one, other) is expected
    assert same_answer(given, other, one) is expected


def test_stages_rise_in_entropy_and_keep_the_order_within():
    # .1 and .3 make the first stage, .5 and .9 the second; in four stages each is its own
    assert staged([10, 11, 12, 13], [0.3, 0.5, 0.1, 0.9], 2) == [10, 12, 11, 13]
    assert staged([10, 11, 12, 13], [0.3, 0.5, 0.1, 0.9], 4) == [12, 10, 11, 13]


def test_one_stage_and_equal_entropies_are_the_order_as_given():
    assert staged([3, 1, 2], [0.9, 0.1, 0.5], 1) == [3, 1, 2]
    assert staged([3, 1, 2, 0], [0.5] * 4, 3) == [3, 1, 2, 0]


def test_sizes_of_stages_differ_by_at_most_one():
    # falling entropies: each stage comes out as one run of rising indices
    for size in range(1, 12):
        order = staged(list(range(size)), [float(-i) for i in range(size)], 3)
        falls = [k for k in range(1, size) if order[k] < order[k - 1]]
        lengths = np.diff([0, *falls, size])
        assert max(lengths) - min(lengths) <= 1 and len(lengths) == min(3, size)


def test_a_repeated_problem_waits_for_the_next_step():
    assert without_repeats([0, 0, 1, 1], 2) == [0, 1, 0, 1]
    assert without_repeats([5, 3, 5, 4, 1, 2], 3) == [5, 3, 4, 5, 1, 2]


def test_where_no_step_is_left_to_fill_an_earlier_one_exchanges():
    # 0 1 | 2, and the second 2 finds only the step that holds one: step 1 gives 0 for it
    assert without_repeats([0, 1, 2, 2], 2) == [2, 1, 2, 0]


def test_an_order_without_repeats_stays_as_it_is():
    order = [i for step in range(6) for i in problem_indices(0, step, 4, 8)]
    assert without_repeats(order, 4) == order


@pytest.mark.parametrize("size", [4, 5, 7, 9])
def test_any_shuffle_of_a_runs_problems_is_mended(size):
    # the smallest split leaves no choice at all: every step holds every problem
    steps, per_step = 6, 4
    plain = [i for step in range(steps) for i in problem_indices(0, step, per_step, size)]
    for trial in range(50):
        shuffled = stream(trial, "data", "shuffle").permutation(plain).tolist()
        mended = without_repeats(sorted(shuffled) if trial == 0 else shuffled, per_step)
        assert Counter(mended) == Counter(plain)
        assert all(len(set(mended[k : k + per_step])) == per_step for k in range(0, len(mended), per_step))


def test_the_entropy_measured_is_that_of_the_sampled_answers(monkeypatch):
    texts = {0: "\\boxed{4}", 1: "\\boxed{04}", 2: "\\boxed{5}", 3: "no answer", 4: "\\boxed{}", 5: "\\boxed{4.0}"}
    empty = torch.zeros(1)

    def canned(policy, requests, *, temperature, top_p, max_new_tokens, batch_rows, noise):
        assert (temperature, top_p, max_new_tokens) == (0.7, 0.9, 40)
        assert len(requests) <= 2  # 12 rows are two problems of six samples
        assert noise("p", 0, 3).shape == (3,)
        return [
            [SampledCompletion(index=i, token_ids=(i,), sampler_logprobs=empty, sampler_entropy=empty,
                               removed_mass=empty, finished=True) for i in request.indices]
            for request in requests
        ]  # fmt: skip

    monkeypatch.setattr(completing, "sample", canned)
    monkeypatch.setattr(Policy, "decode", lambda self, token_ids: texts[token_ids[0]])
    config = with_overrides(
        small_config("unused"),
        {"data.curriculum": "semantic_entropy", "data.curriculum_samples": 6, "rollout.batch_rows": 12,
         "rollout.temperature": 0.7, "rollout.top_p": 0.9},
    )  # fmt: skip
    problems = load_problems(config.data, "train")[:3]
    entropies = measure(load_policy(config.model, config.data), problems, config)
    # 4 04 4.0 | 5 | two without an answer: p = 1/2 1/6 1/3
    expected = 0.5 * math.log(2) + math.log(6) / 6 + math.log(3) / 3
    assert entropies == pytest.approx([expected] * 3)


def test_the_curriculum_visits_the_plain_orders_problems_easy_ones_first(monkeypatch):
    config = with_overrides(
        small_config("unused", data__train_size=5),
        {"data.curriculum": "semantic_entropy", "data.curriculum_samples": 4, "steps": 5},
    )
    training = load_problems(config.data, "train")
    policy = load_policy(config.model, config.data)
    measured = {}
    original = curriculum.measure

    def recorded(policy, problems, config, world):
        values = original(policy, problems, config, world)
        measured.update(zip([problem.problem_id for problem in problems], values, strict=True))
        return values

    monkeypatch.setattr(curriculum, "measure", recorded)
    order = curriculum_order(policy, training, config)
    plain = [i for step in range(5) for i in problem_indices(config.seed, step, 2, len(training))]
    assert Counter(order) == Counter(plain) and len(measured) == 5
    assert all(order[k] != order[k + 1] for k in range(0, 10, 2))
    assert order == curriculum_order(policy, training, config)
    values = [measured[training[i].problem_id] for i in order]
    assert min(values) < max(values) <= math.log(4) + 1e-12  # otherwise the next line says nothing
    assert sum(values[:5]) < sum(values[5:])


def test_a_problem_is_measured_alike_alone_and_among_others():
    config = with_overrides(
        small_config("unused"), {"data.curriculum": "semantic_entropy", "data.curriculum_samples": 4}
    )
    problems = load_problems(DataConfig(train_size=64), "train")[:3]
    policy = load_policy(config.model, config.data)
    together = measure(policy, problems, config)
    assert together == [measure(policy, [one], config)[0] for one in problems]
