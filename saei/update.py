"""The policy update: score the groups of one update batch in micro-batches and take one optimizer step.

Micro-batches share the denominators of the whole update batch, and what a loss picks it picks from the whole batch, so
how the batch is split cannot change the result beyond rounding; `loss.agg_scope` and `loss.pick_scope` `micro` give
that up where an official code does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.optim import Optimizer

from saei.config import Config
from saei.distributed import ALONE, World
from saei.even_passes import fillers, filling_pass, summed_and_clipped
from saei.evidence import Evidence, TrainBatch, score_rollouts, share_of, train_batch
from saei.losses import PICKS, Denominator, LossInputs, total_loss
from saei.packing import Piece, split_requests
from saei.policy import Policy
from saei.rollout import Key
from saei.scoring import score_pass
from saei.select import select_tokens
from saei.sharding import in_parts, shards_of
from saei.types import Group, TokenScores


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateResult:
    """`sums[key]` holds the loss's sums over the tokens of one completion, for the metrics per view; `scores`, of the
    completions without old scores, those before the update.
    """

    loss: float
    grad_norm: float
    skipped: bool
    sums: dict[Key, dict[str, float]]
    scores: dict[Key, TokenScores]


def update_policy(
    policy: Policy,
    optimizer: Optimizer,
    groups: Sequence[Group],
    evidence: dict[Key, Evidence],
    config: Config,
    generator: torch.Generator,
    *,
    first: bool,
    world: World = ALONE,
) -> UpdateResult:
    """One optimizer update on `groups`. A non-finite gradient is dropped and reported, never applied.

    `first`: no update of this step came before, so the current log-probs are the old ones. `generator` serves losses
    that pick tokens at random. Each process of `world` computes the gradient of its share; all take the same update.
    """
    whole = {rollout.key: len(rollout.token_ids) for group in groups for rollout in group.rollouts}
    assert first or all(evidence[key].old for key in whole), "weights have moved: old log-probs can no longer be found"
    count, micro_batches = _micro_batches(policy, groups, config, generator, world)
    picked = _pick_from_update(policy, groups, evidence, config, generator, first=first, world=world)
    entropy_grad = any(evidence[key].entropy_weight for key in whole)
    loss_sum = 0.0
    sums: dict[Key, dict[str, float]] = {}
    found: dict[Key, TokenScores] = {}

    def micro_loss(
        pieces: list[Piece], keys: list[Key], own_generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        current = _score(policy, pieces, config, entropy_grad)
        found.update(
            (key, _constant(score)) for key, score in zip(keys, current, strict=True) if evidence[key].old is None
        )
        inputs = _inputs(current, keys, evidence, picked, config)
        if first and config.loss.name in PICKS:
            # they penalise |logprobs - old_logprobs|, whose gradient is a sign: rounding must not decide it
            inputs = replace(inputs, old_logprobs=inputs.logprobs.detach())
        if config.loss.name in PICKS and config.loss.pick_scope == "micro":
            inputs = replace(inputs, picks=PICKS[config.loss.name](_detached(inputs), config.loss, own_generator))
        loss, metrics = total_loss(inputs, config.loss, _denominator(whole, count, keys, evidence, inputs, config))
        metrics["selected"] = inputs.chosen.sum(dim=1)
        metrics["picked"] = torch.zeros(len(keys)) if inputs.picks is None else (inputs.picks > 0).sum(dim=1)
        return loss, metrics

    added = fillers(policy, [pieces for pieces, *_ in micro_batches], groups, config, world)
    with world.hearing():
        for pieces, keys, own_generator in micro_batches:
            loss, metrics = in_parts(policy, partial(micro_loss, pieces, keys, own_generator))
            loss.backward()
            loss_sum += loss.item()
            for position, key in enumerate(keys):
                sums[key] = {name: values[position].item() for name, values in metrics.items()}
        for pieces in added:
            filling_pass(policy, pieces, config)
    (loss_sum,), sums = world.sums(loss_sum), dict(world.gathered(list(sums.items())))
    found = dict(world.gathered(list(found.items())))
    grad_norm = summed_and_clipped(policy, optimizer, config, world)
    finite = bool(torch.isfinite(torch.tensor([grad_norm, loss_sum])).all())
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return UpdateResult(loss=loss_sum, grad_norm=grad_norm, skipped=not finite, sums=sums, scores=found)


def _micro_batches(
    policy: Policy, groups: Sequence[Group], config: Config, generator: torch.Generator, world: World
) -> tuple[int, list[tuple[list[Piece], list[Key], torch.Generator]]]:
    """How many micro-batches the update has, and this process's: rows, their completions, a generator.

    Where the settings let the split change nothing, each process splits its own groups. Else all split the whole batch
    as one process would, and take turns; the draws of a micro-batch are then its own, whoever makes them.
    """
    loss = config.loss
    apart = "micro" in (loss.agg_scope, loss.pick_scope) or config.policy_select.weights == "current"
    batch = train_batch(groups if apart else share_of(groups, world), loss.train_view)
    pieces_of = split_requests(batch.requests, config.optim.pack_tokens, policy.attention_cost)
    generators = [generator] * len(pieces_of)
    if loss.name in PICKS and loss.pick_scope == "micro":
        seeds = torch.randint(2**62, (len(pieces_of),), generator=generator, device=generator.device).tolist()
        generators = [torch.Generator(device=generator.device).manual_seed(seed) for seed in seeds]
    keys_of = [_keys(batch, pieces) for pieces in pieces_of]
    everything = list(zip(pieces_of, keys_of, generators, strict=True))
    return len(pieces_of), world.turns(everything) if apart else everything


def _keys(batch: TrainBatch, pieces: Sequence[Piece]) -> list[Key]:
    return [batch.rollouts[piece.request_index][member].key for piece in pieces for member in piece.members]


def _score(policy: Policy, pieces: Sequence[Piece], config: Config, entropy_grad: bool) -> list[TokenScores]:
    if shards_of(policy) is not None:  # a collective: as many passes as the others make, and no more
        return score_pass(policy, pieces, temperature=config.rollout.temperature, entropy_grad=entropy_grad)
    scores = policy.score(
        [piece.request for piece in pieces],
        temperature=config.rollout.temperature,
        pack_tokens=config.optim.pack_tokens,
        entropy_grad=entropy_grad,
    )
    return [score for group in scores for score in group]


def _inputs(
    current: Sequence[TokenScores],
    keys: Sequence[Key],
    evidence: dict[Key, Evidence],
    picked: dict[Key, Tensor],
    config: Config,
) -> LossInputs:
    """The padded tensors of one micro-batch."""
    own = [evidence[key] for key in keys]
    logprobs, entropy = _pad([score.logprobs for score in current]), _pad([score.entropy for score in current])
    select, selected = config.policy_select, None
    if select.weights == "current":
        chosen = select_tokens([score.entropy.detach() for score in current], select)
        selected = _pad(chosen)
    elif own[0].selected is not None:
        selected = _pad([one.selected.to(logprobs.device) for one in own if one.selected is not None])
    weights = logprobs.new_tensor([one.entropy_weight for one in own])
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=_pad([(one.old or score).logprobs.detach() for one, score in zip(own, current, strict=True)]),
        ref_logprobs=None
        if own[0].ref_logprobs is None
        else _pad([one.ref_logprobs for one in own if one.ref_logprobs is not None]),
        advantages=logprobs.new_tensor([one.advantage for one in own]),
        entropy=entropy,
        mask=_mask([len(score.logprobs) for score in current], logprobs.device),
        selected=selected,
        counted=selected if select.denominator == "selected" else None,
        picks=_pad([picked[key] for key in keys]) if picked else None,
        perturbed_logprobs=None
        if own[0].pair is None
        else _pad([one.pair.logprobs for one in own if one.pair is not None]),
        entropy_weight=weights if bool((weights != 0).any()) else None,
        engine_weights=None
        if own[0].engine_weight is None
        else _pad([one.engine_weight.to(logprobs) for one in own if one.engine_weight is not None]),
    )


def _denominator(
    whole: Mapping[Key, int],
    micro_batches: int,
    keys: Sequence[Key],
    evidence: dict[Key, Evidence],
    inputs: LossInputs,
    config: Config,
) -> Denominator:
    """Sizes of the update batch, `whole` (tokens of each completion); with `agg_scope micro` of the micro-batch, times
    their number: a mean of means.
    """
    of_whole = config.loss.agg_scope == "update"
    counted_keys, times = (whole, 1) if of_whole else (keys, micro_batches)
    counted = None
    if inputs.counted is not None:
        # selection by current entropies has its denominators in each micro-batch (Config refuses the other scope)
        chosen = (
            sum(_selected_tokens(evidence[key], whole[key]) for key in whole) if of_whole else int(inputs.counted.sum())
        )
        counted = chosen * times
    return Denominator(
        tokens=sum(whole[key] for key in counted_keys) * times,
        sequences=len(counted_keys) * times,
        constant_length=config.rollout.max_new_tokens,
        counted=counted,
    )


def _selected_tokens(evidence: Evidence, tokens: int) -> int:
    return tokens if evidence.selected is None else int(evidence.selected.sum())


def _pick_from_update(
    policy: Policy,
    groups: Sequence[Group],
    evidence: dict[Key, Evidence],
    config: Config,
    generator: torch.Generator,
    *,
    first: bool,
    world: World,
) -> dict[Key, Int[Tensor, " tokens"]]:
    """What the loss picks from the whole update batch; later updates of a step score it once more for that."""
    if config.loss.name not in PICKS or config.loss.pick_scope == "micro":
        return {}
    keys = [rollout.key for group in groups for rollout in group.rollouts]
    current = {key: evidence[key].measured for key in keys} if first else score_rollouts(policy, groups, config, world)
    inputs = _detached(_inputs([current[key] for key in keys], keys, evidence, {}, config))
    picks = PICKS[config.loss.name](inputs, config.loss, generator)
    return {key: row[: len(current[key].logprobs)] for key, row in zip(keys, picks, strict=True)}


def _detached(inputs: LossInputs) -> LossInputs:
    entropy = None if inputs.entropy is None else inputs.entropy.detach()
    return replace(inputs, logprobs=inputs.logprobs.detach(), entropy=entropy)


def _constant(score: TokenScores) -> TokenScores:
    return TokenScores(
        logprobs=score.logprobs.detach(), entropy=score.entropy.detach(), entropy_t1=score.entropy_t1.detach()
    )


def _pad(rows: Sequence[Tensor]) -> Tensor:
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
