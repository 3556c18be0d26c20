"""The GRPO gradient that the groups of a chunk of problems would give, and how gradients of conditions compare.

At the first update the importance ratio is 1: nothing is clipped, and the gradient is linear in the advantages. With
the same noise most completions of two conditions are the same, so only the difference from the second clean draw is
computed: one row for each different completion, weighted by what is left of its advantages. Log-probs are conditioned
on the clean image, as in training by default. A parameter gradient for each problem would be dear; a chunk of problems
is the unit here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saei.advantage import ADVANTAGES
from saei.config import Config
from saei.losses import Denominator, LossInputs, total_loss
from saei.packing import split_requests
from saei.policy import Policy
from saei.rollout import GroupsInProgress
from saei.types import Prompt, ScoreRequest

Gradient = list[Tensor | None]
"""One entry for each trained parameter of the model, None where it has no part."""

Weights = dict[tuple[int, tuple[int, ...]], float]
"""(problem, token ids of a completion) -> sum of the advantages of the completions that read so."""

_CANCELLED = 1e-12


@dataclass(frozen=True, slots=True)
class Weighting:
    """What the loss gives each completion, before the mean over `tokens`."""

    weights: Weights
    tokens: int


@dataclass(frozen=True, slots=True)
class Control:
    """Gradients of the second clean draw, summed over tokens: of whole groups and of the draw alone; and the gradient
    of the first clean completions, averaged.
    """

    weightings: tuple[Weighting, Weighting]
    sums: tuple[Gradient, Gradient]
    first: Gradient


def weighting(progress: GroupsInProgress, members: slice, config: Config) -> Weighting:
    """Advantages over `members` of every group, as the rule of `config` has them."""
    groups = [rollouts[members] for rollouts in progress.rollouts]
    rewards = torch.tensor([[progress.rewards[r.key] for r in group] for group in groups], dtype=torch.float64)
    advantages = ADVANTAGES[config.advantage.rule](rewards, config.advantage.epsilon).tolist()
    weights: Weights = {}
    for position, (group, of_group) in enumerate(zip(groups, advantages, strict=True)):
        for rollout, advantage in zip(group, of_group, strict=True):
            key = position, rollout.token_ids
            weights[key] = weights.get(key, 0.0) + advantage
    return Weighting(weights, sum(len(rollout.token_ids) for group in groups for rollout in group))


def gradient_figures(
    policy: Policy, progress: GroupsInProgress, control: Control | None, config: Config
) -> tuple[dict[str, float], Control]:
    """Norm and cosine of a condition's gradients on one chunk, the control first (`control` None).

    Group: the clean completions and the condition's, compared with groups of clean completions only. Alone: the
    condition's completions as groups of their own, compared with the first clean ones; a second clean draw is compared
    with them too, and is the most that can be expected.
    """
    n = config.rollout.n_clean
    own = weighting(progress, slice(None), config), weighting(progress, slice(n, None), config)
    if control is None:
        first = weighting(progress, slice(0, n), config)
        group, alone, before = summed_gradients(policy, progress.prompts, [w.weights for w in (*own, first)], config)
        control = Control(own, (group, alone), _plus(before, None, 1 / first.tokens))
        sums = control.sums
    else:
        changed = [_minus(w.weights, c.weights) for w, c in zip(own, control.weightings, strict=True)]
        changes = summed_gradients(policy, progress.prompts, changed, config)
        sums = [_plus(sum_, change, 1.0) for sum_, change in zip(control.sums, changes, strict=True)]
    group, alone = (_plus(sum_, None, 1 / w.tokens) for sum_, w in zip(sums, own, strict=True))
    figures = {
        "grad_norm": norm(group),
        "grad_cosine": cosine(group, control.sums[0]),
        "grad_norm_alone": norm(alone),
        "grad_cosine_alone": cosine(alone, control.first),
    }
    return figures, control


def summed_gradients(
    policy: Policy, prompts: Sequence[Prompt], weightings: Sequence[Weights], config: Config
) -> list[Gradient]:
    """For each weighting: gradient of the loss summed over tokens. Leaves no gradient on the policy.

    One forward pass serves all weightings. Gradients have the type of the parameters: bfloat16 adds up in bfloat16.
    """
    parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    found: list[Gradient] = [[None] * len(parameters) for _ in weightings]
    used = dict.fromkeys(key for weights in weightings for key, weight in weights.items() if abs(weight) > _CANCELLED)
    texts = {position: [ids for at, ids in used if at == position] for position in dict.fromkeys(at for at, _ in used)}
    positions = list(texts)
    requests = [
        ScoreRequest(prompt=prompts[position], images=prompts[position].images, completions=tuple(texts[position]))
        for position in positions
    ]
    rollout, optim = config.rollout, config.optim
    for pieces in split_requests(requests, optim.pack_tokens, policy.attention_cost):
        scored = policy.score(
            [piece.request for piece in pieces], temperature=rollout.temperature, pack_tokens=optim.pack_tokens
        )
        keys = [(positions[piece.request_index], ids) for piece in pieces for ids in piece.request.completions]
        rows = [score.logprobs for group in scored for score in group]
        for number, weights in enumerate(weightings):
            advantages = rows[0].new_tensor([weights.get(key, 0.0) for key in keys])
            if not advantages.any():
                continue
            loss, _ = total_loss(_inputs(rows, advantages), config.loss, _sum(config))
            last = number == len(weightings) - 1
            part = torch.autograd.grad(loss, parameters, retain_graph=not last, allow_unused=True)
            found[number] = _plus(found[number], part, 1.0)
    return found


def _sum(config: Config) -> Denominator:
    return Denominator(tokens=1, sequences=1, constant_length=config.rollout.max_new_tokens)


def _inputs(rows: Sequence[Tensor], advantages: Tensor) -> LossInputs:
    logprobs = pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows], device=logprobs.device)
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        advantages=advantages,
        mask=torch.arange(logprobs.shape[1], device=logprobs.device) < lengths[:, None],
    )


def _minus(one: Weights, other: Weights) -> Weights:
    return {key: one.get(key, 0.0) - other.get(key, 0.0) for key in {**one, **other}}


def _plus(one: Gradient, other: Sequence[Tensor | None] | None, factor: float) -> Gradient:
    """factor * (one + other)."""
    result: Gradient = []
    for a, b in zip(one, other or [None] * len(one), strict=True):
        total = b if a is None else a if b is None else a + b
        result.append(total if total is None or factor == 1.0 else total * factor)
    return result


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
