"""Completions of equal length by our sampler, by `generate`, and the plain forwards that any sampler must do.

Needs only torch and transformers beside the files of `saei` that sample; benchmarks/sampler.py and gpu.py share it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.packed_group import finished
from benchmarks.stock import generate, never_ending, padded_prompts
from saei.sampler import Noise, sample
from saei.seeding import uniforms
from saei.types import Prompt, SampleRequest

OURS, GENERATE, PREFILL, ONE_TOKEN = "ours", "generate", "prefill", "one-token rows"
TIED = 1e-3
"""Nats within which two tokens count as equally likely in float32: rounding may then choose either."""
STEPS = 8
"""One-token forwards timed at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingWork:
    """`completions` of exactly `length` tokens for each prompt; ours decodes at most `batch_rows` of them at a time.

    `stock` is the stock model, of the same weights.
    """

    policy: Any
    stock: Any
    prompts: tuple[Prompt, ...]
    completions: int
    length: int
    batch_rows: int

    @property
    def rows(self) -> int:
        return len(self.prompts) * self.completions

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def noise(problem_id: str, index: int, length: int) -> Any:
    """The trainer's uniforms."""
    return uniforms(0, "sampling", 0, problem_id, index, length)


def ours(work: SamplingWork, completions: int, length: int, draw: Noise | None) -> list[list[tuple[int, ...]]]:
    """Token ids by prompt and completion."""
    requests = [
        SampleRequest(prompt=prompt, images=prompt.images, indices=tuple(range(completions))) for prompt in work.prompts
    ]
    with never_ending(work.policy):
        sampled = sample(
            work.policy,
            requests,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=length,
            batch_rows=work.batch_rows,
            noise=draw,
        )
    return [[completion.token_ids for completion in group] for group in sampled]


def contenders(work: SamplingWork) -> dict[str, Callable[[], Any]]:
    """Who takes turns; the last two make the floor."""
    model = work.stock.model
    prompts = padded_prompts(work.stock, work.prompts)
    one = torch.full((work.rows, 1), int(work.prompts[0].token_ids[0]), device=work.stock.device)

    def prefill() -> None:
        model.model.rope_deltas = None
        finished(model(**prompts, use_cache=False, logits_to_keep=1).logits)

    def one_token() -> None:
        model.model.rope_deltas = None
        for _ in range(STEPS):
            finished(model(input_ids=one, attention_mask=torch.ones_like(one), use_cache=False).logits)

    return {
        OURS: lambda: ours(work, work.completions, work.length, noise),
        GENERATE: lambda: finished(generate(work.stock, work.prompts, work.completions, work.length, sampled=True)),
        PREFILL: torch.no_grad()(prefill),
        ONE_TOKEN: torch.no_grad()(one_token),
    }


def floor(work: SamplingWork, seconds: dict[str, list[float]]) -> list[float]:
    """Seconds of the plain forwards by round: each prompt once, then every further token in rows of one token."""
    steps = (work.length - 1) / STEPS
    return [first + steps * step for first, step in zip(seconds[PREFILL], seconds[ONE_TOKEN], strict=True)]


def assert_equal_work(work: SamplingWork, greedy_tokens: int, tied: float = TIED) -> dict[str, int]:
    """Greedy decoding agrees token for token but for ties, and every sampled completion has the full length.

    Returns how many greedy tokens were compared, and how many rows parted at a tie. Raises AssertionError otherwise.
    """
    length = min(greedy_tokens, work.length)
    mine = [group[0] for group in ours(work, 1, length, None)]
    theirs = generate(work.stock, work.prompts, 1, length, sampled=False).tolist()
    compared = ties = 0
    for prompt, a, b in zip(work.prompts, mine, theirs, strict=True):
        assert len(a) == len(b) == length, f"greedy completions of {len(a)} and {len(b)} tokens, asked for {length}"
        place = next((i for i in range(length) if a[i] != b[i]), length)
        compared += place
        if place < length:
            gap = _gap(work.stock, prompt, tuple(a[:place]), a[place], b[place])
            assert gap <= tied, f"{prompt.problem_id}: greedy token {place} differs, its log-prob by {gap:.2g} nats"
            ties += 1
    counts = {len(tokens) for group in ours(work, work.completions, work.length, noise) for tokens in group}
    made = generate(work.stock, work.prompts, work.completions, work.length, sampled=True)
    assert counts == {work.length}, f"our completions have {sorted(counts)} tokens, asked for {work.length}"
    assert tuple(made.shape) == (work.rows, work.length), f"generate made {tuple(made.shape)}"
    ends = torch.isin(made.cpu(), torch.tensor(work.policy.end_token_ids))
    assert not ends.any(), "generate ended a completion early"
    return {"greedy_tokens_equal": compared, "ties": ties}


@torch.no_grad()
def _gap(stock: Any, prompt: Prompt, agreed: Sequence[int], mine: int, theirs: int) -> float:
    """By how many nats the two tokens differ, by the stock forward after what both agree on."""
    stock.model.model.rope_deltas = None
    inputs = padded_prompts(stock, [prompt], agreed)
    log_p: Tensor = torch.log_softmax(stock.model(**inputs, use_cache=False).logits[0, -1].float(), dim=-1)
    return float((log_p[mine] - log_p[theirs]).abs())
