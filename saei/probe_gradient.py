"""The GRPO gradient that the groups of a chunk of problems would give, and how gradients of conditions compare.

At the first update the importance ratio is 1, so nothing is clipped. Log-probs are conditioned on the clean image, as
in training by default. A parameter gradient for each problem would be dear; a chunk of problems is the unit here.
"""

from collections.abc import Sequence
from math import nan, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.advantage import ADVANTAGES
from saei.config import Config
from saei.losses import Denominator, LossInputs, total_loss
from saei.packing import split_requests
from saei.policy import Policy
from saei.rollout import GroupsInProgress
from saei.types import Rollout, ScoreRequest

Gradient = list[Tensor | None]
"""One entry for each parameter of the model, None where it has no part."""


def grpo_gradient(policy: Policy, progress: GroupsInProgress, members: slice, config: Config) -> Gradient:
    """Gradient of the loss on `members` of every group, advantages taken over these members alone.

    Leaves no gradient on the policy. The same type as the parameters: bfloat16 gradients add up in bfloat16.
    """
    groups = [rollouts[members] for rollouts in progress.rollouts]
    rewards = torch.tensor([[progress.rewards[r.key] for r in group] for group in groups], dtype=torch.float64)
    advantages = ADVANTAGES[config.advantage.rule](rewards, config.advantage.epsilon)
    requests = [
        ScoreRequest(prompt=prompt, images=prompt.images, completions=tuple(rollout.token_ids for rollout in group))
        for prompt, group in zip(progress.prompts, groups, strict=True)
    ]
    denominator = _denominator([rollout for group in groups for rollout in group], config)
    policy.model.zero_grad(set_to_none=True)
    for pieces in split_requests(requests, config.optim.pack_tokens, policy.attention_cost):
        if not any(advantages[piece.request_index].any() for piece in pieces):
            continue  # groups without signal: their gradient is exactly zero
        scores = policy.score(
            [piece.request for piece in pieces],
            temperature=config.rollout.temperature,
            pack_tokens=config.optim.pack_tokens,
        )
        rows = [score.logprobs for group in scores for score in group]
        weights = torch.cat([advantages[piece.request_index, list(piece.members)] for piece in pieces])
        loss, _ = total_loss(_inputs(rows, weights), config.loss, denominator)
        loss.backward()
    gradient = [parameter.grad for parameter in policy.model.parameters()]
    policy.model.zero_grad(set_to_none=True)
    return gradient


def _denominator(rollouts: Sequence[Rollout], config: Config) -> Denominator:
    return Denominator(
        tokens=sum(len(rollout.token_ids) for rollout in rollouts),
        sequences=len(rollouts),
        constant_length=config.rollout.max_new_tokens,
    )


def _inputs(rows: Sequence[Tensor], advantages: Tensor) -> LossInputs:
    logprobs = pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=logprobs.device)
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        advantages=advantages.to(logprobs),
        mask=torch.arange(logprobs.shape[1], device=logprobs.device) < lengths[:, None],
    )


def dot(one: Gradient, other: Gradient) -> float:
    """Inner product over all parameters; products and sums of each tensor in float32 at least."""
    total = 0.0
    for a, b in zip(one, other, strict=True):
        if a is not None and b is not None:
            wide = torch.promote_types(a.dtype, torch.float32)
            total += float((a.to(wide) * b.to(wide)).sum())
    return total


def norm(gradient: Gradient) -> float:
    """L2 norm over all parameters."""
    return sqrt(dot(gradient, gradient))


def cosine(one: Gradient, other: Gradient) -> float:
    """Cosine between two gradients; NaN where one of them is zero."""
    length = norm(one) * norm(other)
    return dot(one, other) / length if length > 0 else nan


def gradient_row(group: Gradient, alone: Gradient, clean_group: Gradient, clean: Gradient) -> dict[str, Any]:
    """Norm and cosine of a condition's gradient on one chunk.

    `group`: clean completions and the condition's, compared with groups of clean completions only. `alone`: the
    condition's completions as groups of their own, compared with the first clean ones; a second clean draw is compared
    with them too, and is the most that can be expected.
    """
    return {
        "grad_norm": norm(group),
        "grad_cosine": cosine(group, clean_group),
        "grad_norm_alone": norm(alone),
        "grad_cosine_alone": cosine(alone, clean),
    }
