"""One group, several ways: our packed scores, the stock forward over plain rows, and a plain forward of as many tokens.

Needs only torch and transformers beside the files of `saei` that score; benchmarks/prefix.py and gpu.py share it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import made_up
from benchmarks.stock import PlainRows, plain_rows, plain_scores, rows_of_as_many_tokens
from saei.packing import rows_for_group
from saei.scoring import score_requests
from saei.types import ScoreRequest

PACKED, ONE_ROW, PER_ROW, FLOOR = "packed", "one row", "per row", "as many plain tokens"
LONGEST_ROW = 16384
"""Tokens up to which a group that the cost model splits is also put into one row."""


@dataclass(frozen=True, slots=True)
class Point:
    """A group: tokens of the prefix, completions, tokens of the longest completion."""

    prefix: int
    completions: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupWork:
    """The same group for every contender. `rows`: what the cost model splits it into; `stock` shares the weights."""

    policy: Any
    stock: Any
    request: ScoreRequest
    plain: PlainRows
    floor: PlainRows
    advantages: Tensor
    pack_tokens: int
    rows: int

    @property
    def packed_tokens(self) -> int:
        """Positions of the group in one row."""
        return len(self.request.prompt.token_ids) + sum(len(c) for c in self.request.completions)

    @property
    def row_tokens(self) -> int:
        """Positions of the group as the cost model splits it."""
        return self.packed_tokens + (self.rows - 1) * len(self.request.prompt.token_ids)


def group_work(policy: Any, stock: Any, point: Point, *, shortest: float, pack_tokens: int, seed: int = 0) -> GroupWork:
    """A made-up group; the shortest completion has the share `shortest` of the longest's tokens."""
    generator = torch.Generator().manual_seed(seed)
    prompt = made_up.prompt(policy, point.prefix, generator)
    lengths = made_up.spread_lengths(point.length, point.completions, shortest)
    texts = made_up.completions(policy, lengths, generator)
    text = made_up.words(policy, 2 * (point.prefix + sum(lengths)), generator)
    advantages = torch.randn(point.completions, generator=generator)
    return GroupWork(
        policy=policy,
        stock=stock,
        request=ScoreRequest(prompt=prompt, images=prompt.images, completions=texts),
        plain=plain_rows(stock, prompt, texts),
        floor=rows_of_as_many_tokens(stock, prompt, texts, text),
        advantages=torch.repeat_interleave(advantages, torch.tensor(lengths)).to(policy.device),
        pack_tokens=pack_tokens,
        rows=rows_for_group(point.prefix, lengths, pack_tokens, policy.attention_cost),
    )


def packed_scores(work: GroupWork) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies as the trainer asks for them: the cost model splits the group."""
    (scores,) = score_requests(
        work.policy, [work.request], temperature=1.0, pack_tokens=work.pack_tokens, entropy_grad=False
    )
    return torch.cat([score.logprobs for score in scores]), torch.cat([score.entropy for score in scores])


def one_row_scores(work: GroupWork) -> tuple[Tensor, Tensor]:
    """The same with the whole group in one row, whatever the cost model says."""
    before, work.policy.attention_cost = work.policy.attention_cost, 0.0
    try:
        (scores,) = score_requests(
            work.policy, [work.request], temperature=1.0, pack_tokens=work.packed_tokens, entropy_grad=False
        )
    finally:
        work.policy.attention_cost = before
    return torch.cat([score.logprobs for score in scores]), torch.cat([score.entropy for score in scores])


def contenders(work: GroupWork) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Who takes turns. The whole group in one row is there where the cost model splits a group that would fit one."""
    found = {
        PACKED: lambda: packed_scores(work),
        PER_ROW: lambda: plain_scores(work.stock, work.plain),
        FLOOR: lambda: plain_scores(work.stock, work.floor),
    }
    if work.rows > 1 and work.packed_tokens <= LONGEST_ROW:
        found[ONE_ROW] = lambda: one_row_scores(work)
    return found


def forward(scores: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
    """The log-probs, without gradient; done when it returns."""
    with torch.no_grad():
        logprobs, _ = scores()
    return finished(logprobs.detach())


def backward(work: GroupWork, scores: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Forward, policy-gradient loss, backward; gradients of the weights are left on them."""
    work.policy.model.zero_grad(set_to_none=True)
    logprobs, _ = scores()
    weights = work.advantages.repeat(2)[: len(logprobs)]  # the floor rounds its number of scores up
    loss = -(weights * logprobs).sum() / len(logprobs)
    loss.backward()
    finished(loss)


def finished(result: Tensor) -> Tensor:
    """Wait for a GPU, so that the clock counts the work and not its launch."""
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    return result


def assert_equal_work(work: GroupWork, tolerance: float) -> tuple[float, float]:
    """Largest difference of a log-prob, and of a gradient as a share of the largest gradient, packed against per row.

    Raises AssertionError beyond `tolerance`, in nats, and ten times it as that share: the table would compare
    different work. Every contender has then run once, forward and backward.
    """
    ways = contenders(work)
    logprobs = {name: forward(way) for name, way in ways.items()}
    gradients = {name: _gradients(work, way) for name, way in ways.items()}
    largest = max(float(gradient.abs().max()) for gradient in gradients[PER_ROW].values())
    apart, gradients_apart = [], []
    for name in sorted(ways.keys() - {PER_ROW, FLOOR}):
        assert logprobs[name].shape == logprobs[PER_ROW].shape, f"{name} has scored other tokens than {PER_ROW}"
        assert gradients[name].keys() == gradients[PER_ROW].keys(), f"{name} has gradients on other weights"
        apart.append(float((logprobs[name] - logprobs[PER_ROW]).abs().max()))
        gradients_apart += [
            float((gradient - gradients[PER_ROW][weight]).abs().max()) / largest
            for weight, gradient in gradients[name].items()
        ]
    # all(), not max(): a comparison with NaN is false
    assert all(d <= tolerance for d in apart), f"log-probs differ by {apart} nats, allowed are {tolerance:g}"
    assert all(d <= 10 * tolerance for d in gradients_apart), f"gradients differ: {max(gradients_apart):.2g}"
    return max(apart), max(gradients_apart)


def _gradients(work: GroupWork, way: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    backward(work, way)
    named = work.policy.model.named_parameters()
    found = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    work.policy.model.zero_grad(set_to_none=True)
    return found
