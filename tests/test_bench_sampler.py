"""benchmarks/sampler.py compares equal work, and says what it measured."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import decoding, sampler
from benchmarks.budget import Budget
from benchmarks.decoding import SamplingWork, assert_equal_work, floor
from benchmarks.stock import stock_policy
from saei.cli import BadInput


@pytest.fixture(scope="module")
def work():
    policy, prompts = sampler.prompts_of(84, 3)
    return SamplingWork(
        policy=policy, stock=stock_policy(policy), prompts=prompts, completions=2, length=6, batch_rows=4
    )


def test_the_quick_run_writes_both_samplers_and_the_floor(tmp_path):
    out = tmp_path / "sampler.json"
    assert sampler.command(["--quick", "--completions", "3", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    points = written["figures"]["points"]
    assert written["figures"]["settings"]["completions"] == 3 and "out" not in written["figures"]["settings"]
    assert [(p["pixels"], p["problems"], p["length"], p["rows"]) for p in points] == [(84, 1, 8, 3), (168, 2, 8, 6)]
    for point in points:
        assert point["ties"] == 0 and point["greedy_tokens_equal"] == 8 * point["problems"]
        assert {"ours", "generate", "prefill", "one-token rows"} == point["seconds"].keys()
        assert all(spread["rounds"] == 3 for spread in point["seconds"].values())
    # 168 px: 36 image tokens in place of 9, in each of two prompts
    assert points[1]["prompt_tokens"] > 2 * 36


def test_prompts_of_different_lengths_agree_in_waves(work):
    assert len({len(prompt.token_ids) for prompt in work.prompts}) > 1
    assert assert_equal_work(work, 6) == {"greedy_tokens_equal": 18, "ties": 0}


def test_another_image_is_refused(work, monkeypatch):
    # white images for generate only: the first greedy tokens are read off the image
    blank = tuple(replace(prompt, images=(torch.full_like(prompt.images[0], 255),)) for prompt in work.prompts)
    stock = decoding.generate
    monkeypatch.setattr(decoding, "generate", lambda policy, prompts, *rest, **how: stock(policy, blank, *rest, **how))
    longer = replace(work, length=40)
    with pytest.raises(AssertionError, match=r"greedy token \d+ differs"):
        assert_equal_work(longer, 40)


def test_a_completion_that_ends_early_is_refused(work, monkeypatch):
    short = [[(5,) * 6] * 2, [(5,) * 5] * 2, [(5,) * 6] * 2]
    real = decoding.ours
    monkeypatch.setattr(decoding, "ours", lambda work, n, length, draw: short if draw else real(work, n, length, draw))
    with pytest.raises(AssertionError, match=r"our completions have \[5, 6\] tokens, asked for 6"):
        assert_equal_work(work, 6)


def test_the_floor_is_one_prefill_and_a_row_of_one_token_for_every_further_token(work):
    # 5 further tokens, timed 8 at a time: 1 + 5/8 * 16 = 11
    assert floor(work, {"prefill": [1.0], "one-token rows": [16.0]}) == [11.0]


def test_points_beyond_the_budget_are_told(monkeypatch):
    budget = Budget(10.0)
    times = iter([0.0, 0.0, 4.0, 4.0, 11.0])  # every look at the clock
    monkeypatch.setattr(Budget, "left", property(lambda self: 10.0 - next(times)))
    points = [(name, share.seconds) for name, share in budget.shares(["a", "b", "c"])]
    # a third of 10, then half of what is left
    assert points == [("a", pytest.approx(10 / 3)), ("b", 3.0)]
    assert budget.skipped == ["c"] and "the 10 s for this table were over" in (budget.told() or "")


@pytest.mark.parametrize("text", ["448x8", "100x8x64", "448x0x64"])
def test_a_point_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match="--points has"):
        sampler.point_of(text)
