"""What a probe measures on one problem under one condition: a row of its table.

A group is the first clean completions and as many of the condition, as in training. Entropies are in nats, at the
rollout temperature, over the full vocabulary: teacher-forced ones are of the *first clean* completions under the
condition's image, fresh ones of the condition's own completions (methods.md, pitfall 13).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.config import Config
from saei.evaluate import pass_at_k
from saei.policy import Policy
from saei.reward import Grade
from saei.rollout import GroupsInProgress
from saei.seeding import torch_generator
from saei.select import select_tokens
from saei.types import ByteImages, Rollout, ScoreRequest

STREAM = -1
"""Step in the keys of a probe's streams: no step of training has it, so a checkpoint never meets noise it learned from,
and how many problems are handled at a time changes nothing."""

Entropies = list[list[Float[Tensor, " _"]]]
Masks = list[list[Bool[Tensor, " _"]]]


def teacher_forced(
    policy: Policy, clean: GroupsInProgress, images: Sequence[Sequence[ByteImages]], config: Config
) -> Entropies:
    """Token entropies of the clean completions, by problem, under `images` (one entry, or one for each completion)."""
    requests: list[ScoreRequest] = []
    for prompt, rollouts, entries in zip(clean.prompts, clean.rollouts, images, strict=True):
        texts = [rollout.token_ids for rollout in rollouts]
        shares = [texts] if len(entries) == 1 else [[text] for text in texts]
        requests += [
            ScoreRequest(prompt=prompt, images=entry, completions=tuple(share))
            for entry, share in zip(entries, shares, strict=True)
        ]
    with torch.no_grad():
        scored = policy.score(requests, temperature=config.rollout.temperature, pack_tokens=config.optim.pack_tokens)
    flat = iter([score.entropy.cpu() for group in scored for score in group])
    return [[next(flat) for _ in rollouts] for rollouts in clean.rollouts]


def kept_tokens(clean: GroupsInProgress, entropies: Entropies, config: Config) -> Masks:
    """TsEC's tokens of the clean completions: those the attack reads, drawn from the same streams."""
    return [
        select_tokens(group, config.select, torch_generator(config.seed, "selection", STREAM, prompt.problem_id))
        for prompt, group in zip(clean.prompts, entropies, strict=True)
    ]


def problem_rows(
    progress: GroupsInProgress, entropies: Entropies, kept: Masks, config: Config, *, first: bool
) -> list[dict[str, Any]]:
    """A row for each problem: of its first clean completions (`first`), or of those that came after them."""
    n = config.rollout.n_clean
    rows = []
    for position, (problem, rollouts) in enumerate(zip(progress.problems, progress.rollouts, strict=True)):
        own = rollouts[:n] if first else rollouts[n:]
        forced, masks = entropies[position], kept[position]
        row = {
            "problem_id": problem.problem_id,
            "kind": problem.kind,
            "entropy_kept": _mean([tokens[mask] for tokens, mask in zip(forced, masks, strict=True)]),
            "entropy_all": _mean(forced),
            "entropy_fresh": _mean([rollout.completion.sampler_entropy for rollout in own]),
            "tokens": sum(len(rollout.token_ids) for rollout in own) / len(own),
        }
        row |= answers(*_graded(progress, own))
        if not first:
            row |= group_answers(*_graded(progress, rollouts), n)
        rows.append(row)
    return rows


def _graded(progress: GroupsInProgress, rollouts: Sequence[Rollout]) -> tuple[list[Grade], list[float]]:
    keys = [rollout.key for rollout in rollouts]
    return [progress.grades[key] for key in keys], [progress.rewards[key] for key in keys]


def answers(grades: Sequence[Grade], rewards: Sequence[float]) -> dict[str, float]:
    """What the completions of one condition reached by themselves.

    `distinct`: different answers, missing ones not counted. `pass_at_k`: unbiased (arXiv 2107.03374), at half of the
    completions and at all of them. `zero_signal`: 1 where all rewards are equal.
    """
    n, right = len(grades), sum(grade.accuracy == 1 for grade in grades)
    return {
        "accuracy": right / n,
        "reward": sum(rewards) / n,
        "distinct": float(_distinct(grades)),
        **{f"pass_at_{k}": pass_at_k(n, right, k) for k in pass_sizes(n)},
        "zero_signal": float(len(set(rewards)) == 1),
    }


def group_answers(grades: Sequence[Grade], rewards: Sequence[float], n: int) -> dict[str, float]:
    """What the whole group reached, its first `n` completions clean ones.

    `new`: 1 where a completion of the condition is right and none of the clean ones is.
    """
    before = any(grade.accuracy == 1 for grade in grades[:n])
    after = any(grade.accuracy == 1 for grade in grades[n:])
    return {
        "distinct_group": float(_distinct(grades)),
        "zero_signal_group": float(len(set(rewards)) == 1),
        "new": float(after and not before),
    }


def pass_sizes(completions: int) -> list[int]:
    """The k of pass@k: half of the completions, and all."""
    return sorted({max(1, completions // 2), completions})


def _distinct(grades: Sequence[Grade]) -> int:
    return len({grade.answer for grade in grades if grade.answer})


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.cat(list(values)).to(torch.float64).mean())
