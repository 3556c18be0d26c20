"""benchmarks/prefix.py compares equal work, and says what it measured."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import packed_group, prefix
from benchmarks.packed_group import Point, assert_equal_work, group_work
from benchmarks.stock import plain_rows, stock_policy
from saei.cli import BadInput
from saei.config import Config
from saei.policy import load_policy


@pytest.fixture(scope="module")
def policies():
    config = Config()
    policy = load_policy(config.model, config.data)
    return policy, stock_policy(policy)


def work_of(policies, point, shortest):
    policy, stock = policies
    return group_work(policy, stock, point, shortest=shortest, pack_tokens=6144)


def test_the_quick_run_writes_every_contender_of_both_passes(tmp_path):
    out = tmp_path / "prefix.json"
    assert prefix.command(["--quick", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["benchmark"] == "prefix" and written["machine"]["commit"]
    points = written["figures"]["points"]
    assert [(p["prefix"], p["completions"], p["length"]) for p in points] == [(64, 3, 8), (64, 8, 48)]
    for point in points:
        # by hand: 64 + 3 x 8 = 88 against 3 x 72 = 216; 64 + 8 x 48 = 448 against 8 x 112 = 896
        expected = {3: (88, 216), 8: (448, 896)}[point["completions"]]
        assert (point["packed_tokens"], point["per_row_tokens"]) == expected
        assert 0 <= point["logprobs_differ"] <= 1e-4
        for kind in ("forward", "forward + backward"):
            assert {"packed", "per row", "as many plain tokens"} <= point[kind]["seconds"].keys()
            assert all(spread["median"] > 0 and spread["rounds"] == 3 for spread in point[kind]["seconds"].values())


def test_the_floor_has_the_packed_tokens_one_image_and_as_many_scores(policies):
    work = work_of(policies, Point(100, 7, 10), 0.5)
    lengths = [len(completion) for completion in work.request.completions]
    assert lengths == [10, 9, 8, 8, 7, 6, 5]  # 10 * (1 - i / 12), rounded
    # 100 + 53 tokens in rows of at least 110: one row of 153; the plain rows are padded to 110 each
    assert (work.packed_tokens, work.floor.tokens, work.plain[0].tokens) == (153, 153, 770)
    assert len(work.floor.inputs["image_grid_thw"]) == 1 and len(work.plain[0].inputs["image_grid_thw"]) == 7
    assert int(work.floor.wanted.sum()) == int(work.plain[0].wanted.sum()) == 53


def test_the_stock_model_shares_every_weight_and_none_of_our_attention(policies):
    policy, stock = policies
    ours, theirs = dict(policy.model.named_parameters()), dict(stock.model.named_parameters())
    assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
    assert stock.model.config.get_text_config()._attn_implementation == "sdpa"
    assert policy.model.config.get_text_config()._attn_implementation != "sdpa"


def test_padded_plain_rows_are_the_packed_work(policies):
    work = work_of(policies, Point(64, 5, 20), 0.3)
    nats, gradient = assert_equal_work(work, 1e-4, 1e-3)
    assert nats <= 1e-4 and gradient <= 1e-3


def test_plain_rows_in_several_passes_are_the_same_work(policies):
    policy, stock = policies
    work = group_work(policy, stock, Point(64, 5, 8), shortest=0.5, pack_tokens=6144, plain_rows_at_once=2)
    assert [len(rows.targets) for rows in work.plain] == [2, 2, 1]
    nats, gradient = assert_equal_work(work, 1e-4, 1e-3)
    assert nats <= 1e-4 and gradient <= 1e-3


def test_other_tokens_or_another_image_are_refused(policies):
    work = work_of(policies, Point(64, 4, 12), 1.0)
    prompt, texts = work.request.prompt, work.request.completions
    other_text = replace(work, plain=(plain_rows(policies[1], prompt, [texts[0], *texts[:-1]]),))
    darker = replace(prompt, images=tuple(image // 2 for image in prompt.images))
    other_image = replace(work, plain=(plain_rows(policies[1], darker, texts),))
    for wrong in (other_text, other_image):
        with pytest.raises(AssertionError, match="log-probs differ"):
            assert_equal_work(wrong, 1e-4, 1e-3)


def test_not_a_number_is_no_agreement(policies, monkeypatch):
    work = work_of(policies, Point(64, 2, 4), 1.0)
    broken = lambda work: (torch.full((8,), torch.nan, requires_grad=True), torch.zeros(8))  # noqa: E731
    monkeypatch.setattr(packed_group, "packed_scores", broken)
    monkeypatch.setattr(packed_group, "_gradients", lambda work, way: {"weight": torch.ones(1)})
    with pytest.raises(AssertionError, match="log-probs differ"):
        assert_equal_work(work, 1e-4, 1e-3)


@pytest.mark.parametrize("text", ["1024x12", "0x4x32", "64x4x", "8x4x32"])
def test_a_point_that_is_none_is_refused(text):
    with pytest.raises(BadInput, match="--points has"):
        prefix.point_of(text)
