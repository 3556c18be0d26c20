"""As many forward passes of an update on every process: a sharded one is a collective, and shares are uneven.

A process with fewer micro-batches than another makes up for it by passes of one completion whose loss is 0 times its
log-probs: they gather and reduce what the others do, add a zero, and are counted nowhere.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from saei.config import Config
from saei.distributed import World
from saei.evidence import train_batch
from saei.master_weights import updated
from saei.packing import Piece, request_part, split_requests
from saei.policy import Policy
from saei.scoring import score_pass
from saei.sharding import shards_of
from saei.types import Group


def fillers(
    policy: Policy, mine: Sequence[Sequence[Piece]], groups: Sequence[Group], config: Config, world: World
) -> list[list[Piece]]:
    """The rows of the passes that this process has to add to its own ones; none where the policy is not sharded.

    `groups` are those of the whole update batch. Where some passes show images and others none, the weights that only
    images use take part in every sum.
    """
    shards = shards_of(policy)
    if shards is None:
        return []
    counts = world.gathered([len(mine)])
    added = [_cheapest(groups, config, policy)] * (max(counts) - len(mine)) if max(counts) > len(mine) else []
    shown = world.gathered([bool(any(piece.request.images for piece in pieces)) for pieces in [*mine, *added]])
    shards.unused(len(set(shown)) > 1)
    return added


def _cheapest(groups: Sequence[Group], config: Config, policy: Policy) -> list[Piece]:
    """The shortest prompt with its shortest completion; with an image, if any group has one."""
    requests = train_batch(groups, config.loss.train_view).requests
    request = min(
        requests, key=lambda one: (not one.images, len(one.prompt.token_ids) + min(map(len, one.completions)))
    )
    shortest = min(range(len(request.completions)), key=lambda member: len(request.completions[member]))
    part = request_part(request, [shortest])
    (rows,) = split_requests([part], config.optim.pack_tokens, policy.attention_cost)
    return rows


def filling_pass(policy: Policy, pieces: Sequence[Piece], config: Config) -> None:
    """A forward and backward pass that adds nothing to any gradient."""
    assert policy.shards is not None, "only passes of a sharded policy have to be filled up"
    counters = policy.packed_forwards, policy.tokens_backward

    def nothing() -> torch.Tensor:
        scores = score_pass(policy, pieces, temperature=config.rollout.temperature, entropy_grad=False)
        return 0.0 * torch.cat([score.logprobs for score in scores]).sum()

    policy.shards.forward(nothing).backward()
    policy.packed_forwards, policy.tokens_backward = counters


def summed_and_clipped(policy: Policy, optimizer: Optimizer, config: Config, world: World) -> float:
    """Sum the gradients over the processes, clip them to `optim.max_grad_norm`, and return the norm before.

    Those of a sharded policy were summed in its backward passes; their norm is over the parts of all processes.
    """
    parameters = updated(optimizer)
    if shards_of(policy) is None:
        world.sum_gradients(parameters)
        return clip_grad_norm_(parameters, config.optim.max_grad_norm).item()
    parts = [p.grad.to_local() for p in parameters if p.grad is not None]  # pyright: ignore[reportAttributeAccessIssue]
    own = get_total_norm(parts).item()
    (squares,) = world.sums(own * own)
    norm = math.sqrt(squares)
    if parts:  # the norm as wide as the gradients: in float32 it would round those of float64
        divisor = torch.tensor(norm, dtype=parts[0].dtype, device=policy.device)
        clip_grads_with_norm_(parameters, config.optim.max_grad_norm, divisor)
    return norm
