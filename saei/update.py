"""The policy update: score the groups of one update batch in micro-batches and take one optimizer step.

Log-probs, old log-probs and reference log-probs of a completion are always conditioned on one and the same image, the
one that `loss.train_view` names. Micro-batches share the denominators of the whole update batch, so how the batch is
split cannot change the result beyond rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from saei.config import Config
from saei.losses import LOSSES, Denominator, LossInputs
from saei.packing import split_requests
from saei.policy import Policy
from saei.types import Group, Rollout, ScoreRequest, TokenScores

Key = tuple[str, int]
"""(problem_id, index in the group): names one completion of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """The completions of some groups as scoring requests; `rollouts[r][c]` is completion c of request r."""

    requests: list[ScoreRequest]
    rollouts: list[list[Rollout]]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateResult:
    """`sums[key]` holds the loss's sums over the tokens of one completion, for the metrics per view."""

    loss: float
    grad_norm: float
    skipped: bool
    sums: dict[Key, dict[str, float]]


def train_batch(groups: Sequence[Group], train_view: str) -> TrainBatch:
    """One request per group on the clean image, or one per group and view with `as_sampled`."""
    requests: list[ScoreRequest] = []
    rollouts: list[list[Rollout]] = []
    for group in groups:
        by_image: dict[str, list[Rollout]] = {}
        for rollout in group.rollouts:
            by_image.setdefault("" if train_view == "clean" else rollout.image_hash, []).append(rollout)
        for same_image in by_image.values():
            images = group.prompt.images if train_view == "clean" else same_image[0].images
            completions = tuple(rollout.token_ids for rollout in same_image)
            requests.append(ScoreRequest(prompt=group.prompt, images=images, completions=completions))
            rollouts.append(same_image)
    return TrainBatch(requests=requests, rollouts=rollouts)


def score_rollouts(policy: Policy, groups: Sequence[Group], config: Config) -> dict[Key, TokenScores]:
    """Log-probs and entropies of every completion on the image of `train_view`, without gradient."""
    batch = train_batch(groups, config.loss.train_view)
    with torch.no_grad():
        scores = policy.score(
            batch.requests, temperature=config.rollout.temperature, pack_tokens=config.optim.pack_tokens
        )
    return {
        rollout.key: score
        for same_image, of_request in zip(batch.rollouts, scores, strict=True)
        for rollout, score in zip(same_image, of_request, strict=True)
    }


def update_policy(
    policy: Policy,
    optimizer: Optimizer,
    groups: Sequence[Group],
    advantages: dict[Key, float],
    old: dict[Key, TokenScores],
    reference: dict[Key, TokenScores] | None,
    config: Config,
) -> UpdateResult:
    """One optimizer update on `groups`. A non-finite gradient is dropped and reported, never applied."""
    batch = train_batch(groups, config.loss.train_view)
    denominator = Denominator(
        tokens=sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts),
        sequences=sum(len(group.rollouts) for group in groups),
        constant_length=config.rollout.max_new_tokens,
    )
    loss_sum = 0.0
    sums: dict[Key, dict[str, float]] = {}
    for pieces in split_requests(batch.requests, config.optim.pack_tokens, policy.attention_cost):
        scores = policy.score(
            [piece.request for piece in pieces],
            temperature=config.rollout.temperature,
            pack_tokens=config.optim.pack_tokens,
        )
        keys = [batch.rollouts[piece.request_index][i].key for piece in pieces for i in piece.members]
        current = [score for group in scores for score in group]
        inputs = LossInputs(
            logprobs=_pad([score.logprobs for score in current]),
            old_logprobs=_pad([old[key].logprobs for key in keys]),
            ref_logprobs=None if reference is None else _pad([reference[key].logprobs for key in keys]),
            advantages=current[0].logprobs.new_tensor([advantages[key] for key in keys]),
            entropy=None,
            mask=_mask([len(score.logprobs) for score in current], policy.device),
        )
        loss, metrics = LOSSES[config.loss.name](inputs, config.loss, denominator)
        loss.backward()
        loss_sum += loss.item()
        for position, key in enumerate(keys):
            sums[key] = {name: values[position].item() for name, values in metrics.items()}
    grad_norm = clip_grad_norm_(policy.model.parameters(), config.optim.max_grad_norm).item()
    finite = bool(torch.isfinite(torch.tensor([grad_norm, loss_sum])).all())
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return UpdateResult(loss=loss_sum, grad_norm=grad_norm, skipped=not finite, sums=sums)


def _pad(rows: Sequence[Float[Tensor, " _"]]) -> Float[Tensor, "completions longest"]:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _mask(lengths: Sequence[int], device: torch.device) -> Bool[Tensor, "completions longest"]:
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]


def learning_rate(step: int, config: Config) -> float:
    """Linear warm-up, then constant or cosine, which would reach 0 one step after the last.

    A function of the step: there is nothing to restore.
    """
    optim = config.optim
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / (optim.warmup_steps + 1)
    if optim.schedule == "constant":
        return optim.lr
    progress = (step - optim.warmup_steps) / max(1, config.steps - optim.warmup_steps)
    return optim.lr * 0.5 * (1.0 + torch.cos(torch.tensor(torch.pi * progress)).item())


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    for parameter_group in optimizer.param_groups:
        parameter_group["lr"] = lr
