"""One group, several ways: our packed scores, the stock forward over plain rows, and a plain forward of as many tokens.

Needs only torch and transformers beside the files of `saei` that score; benchmarks/prefix.py and gpu.py share it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import made_up
from benchmarks.stock import PlainRows, plain_rows, plain_scores, rows_of_as_many_tokens
from saei.packing import rows_for_group
from saei.scoring import score_requests
from saei.types import ScoreRequest

PACKED, ONE_ROW, PER_ROW, FLOOR = "packed", "one row", "per row", "as many plain tokens"
COMPARED_WEIGHTS = 2**24
"""Gradients of larger tensors than so many numbers are not compared: copies of them would fill a GPU."""
Passes = Sequence[Callable[[], tuple[Tensor, Tensor]]]
"""Each gives log-probs and entropies of its share of the group, in order; each has its own backward."""
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
    """The same group for every contender. `rows`: what the cost model splits it into; `stock` shares the weights;
    `plain` are the passes of the plain rows.
    """

    policy: Any
    stock: Any
    request: ScoreRequest
    plain: tuple[PlainRows, ...]
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


def group_work(
    policy: Any, stock: Any, point: Point, *, shortest: float, pack_tokens: int, plain_rows_at_once: int = 0
) -> GroupWork:
    """A made-up group; the shortest completion has the share `shortest` of the longest's tokens.

    `plain_rows_at_once` (0: all): plain rows of one pass, where memory does not hold them all.
    """
    generator = torch.Generator().manual_seed(0)
    prompt = made_up.prompt(policy, point.prefix, generator)
    lengths = made_up.spread_lengths(point.length, point.completions, shortest)
    texts = made_up.completions(policy, lengths, generator)
    text = made_up.words(policy, 2 * (point.prefix + sum(lengths)), generator)
    at_once = plain_rows_at_once or len(texts)
    advantages = torch.randn(point.completions, generator=generator)
    return GroupWork(
        policy=policy,
        stock=stock,
        request=ScoreRequest(prompt=prompt, images=prompt.images, completions=texts),
        plain=tuple(
            plain_rows(stock, prompt, texts[first : first + at_once]) for first in range(0, len(texts), at_once)
        ),
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


def contenders(work: GroupWork) -> dict[str, Passes]:
    """Who takes turns. The whole group in one row is there where the cost model splits a group that would fit one."""
    found: dict[str, Passes] = {
        PACKED: [partial(packed_scores, work)],
        PER_ROW: [partial(plain_scores, work.stock, rows) for rows in work.plain],
        FLOOR: [partial(plain_scores, work.stock, work.floor)],
    }
    if work.rows > 1 and work.packed_tokens <= LONGEST_ROW:
        found[ONE_ROW] = [partial(one_row_scores, work)]
    return found


def forward(passes: Passes) -> Tensor:
    """The log-probs, without gradient; done when it returns."""
    with torch.no_grad():
        return finished(torch.cat([scores()[0] for scores in passes]))


def backward(work: GroupWork, passes: Passes) -> None:
    """Forward, policy-gradient loss, backward, pass by pass; gradients of the weights are left on them."""
    work.policy.model.zero_grad(set_to_none=True)
    weights = work.advantages.repeat(2)  # the floor rounds its number of scores up
    first = 0
    for scores in passes:
        logprobs, _ = scores()
        loss = -(weights[first : first + len(logprobs)] * logprobs).sum() / len(work.advantages)
        loss.backward()
        first += len(logprobs)
    finished(weights)


def finished(result: Tensor) -> Tensor:
    """Wait for a GPU, so that the clock counts the work and not its launch."""
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    return result


def assert_equal_work(work: GroupWork, tolerance: float, gradient_tolerance: float) -> tuple[float, float]:
    """Largest difference of a log-prob (nats), and of a gradient as a share of the largest, packed against per row.

    Raises AssertionError beyond the tolerances: the table would compare different work. Every contender has then run
    once, forward and backward.
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
    assert all(d <= gradient_tolerance for d in gradients_apart), f"gradients differ: {max(gradients_apart):.2g}"
    return max(apart), max(gradients_apart)


def _gradients(work: GroupWork, way: Passes) -> dict[str, Tensor]:
    backward(work, way)
    named = [(n, p.grad) for n, p in work.policy.model.named_parameters() if p.numel() <= COMPARED_WEIGHTS]
    found = {name: gradient.clone() for name, gradient in named if gradient is not None}
    work.policy.model.zero_grad(set_to_none=True)
    return found
