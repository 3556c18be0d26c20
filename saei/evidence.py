"""What the update needs to know of every completion, found with the weights before the step's first update.

Log-probs, old log-probs and reference log-probs of a completion are always conditioned on one and the same image, the
one that `loss.train_view` names (DESIGN 4.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.config import Config
from saei.control import CONTROLS
from saei.credit import update_batches
from saei.distributed import ALONE, World
from saei.engines.mismatch import CORRECTIONS
from saei.losses import PICKS
from saei.make_view import other_images
from saei.policy import Policy
from saei.rollout import GroupsInProgress, Key
from saei.seeding import torch_generator
from saei.select import select_tokens
from saei.shaping import SHAPINGS, ShapingEvidence
from saei.sharding import whole
from saei.state import RunState
from saei.token_scores import SCORES, degenerate
from saei.types import Group, PairScores, Rollout, ScoreRequest, TokenScores


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Of one completion. `old` None: not measured yet, because the step's first update scores it with the same weights;
    `selected` None: chosen in each micro-batch by the current entropies; `pair`: its tokens under the image of
    `score.view`; `entropy_weight`: its coefficient in the entropy control; `engine_weight`: of its tokens, by
    `loss.engine_correction`.
    """

    advantage: float
    old: TokenScores | None
    ref_logprobs: Float[Tensor, " tokens"] | None = None
    pair: PairScores | None = None
    selected: Bool[Tensor, " tokens"] | None = None
    entropy_weight: float = 0.0
    engine_weight: Float[Tensor, " tokens"] | None = None

    @property
    def measured(self) -> TokenScores:
        """The old scores, where they are known."""
        assert self.old is not None, "read before the first update, by a setting that `_waits` does not know of"
        return self.old

    @property
    def degenerate(self) -> bool:
        """Did the score view change nothing, so that every score is a tie?"""
        return self.pair is not None and degenerate(self.pair)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """The completions of some groups as scoring requests; `rollouts[r][c]` is completion c of request r."""

    requests: list[ScoreRequest]
    rollouts: list[list[Rollout]]


def train_batch(groups: Sequence[Group], train_view: str) -> TrainBatch:
    """One request per group on the clean image, or one per group and input with `as_sampled`."""
    requests: list[ScoreRequest] = []
    rollouts: list[list[Rollout]] = []
    for group in groups:
        by_input: dict[str, list[Rollout]] = {}
        for rollout in group.rollouts:
            by_input.setdefault("" if train_view == "clean" else rollout.image_hash, []).append(rollout)
        for same in by_input.values():
            clean = train_view == "clean"
            requests.append(
                ScoreRequest(
                    prompt=group.prompt,
                    images=group.prompt.images if clean else same[0].images,
                    completions=tuple(rollout.token_ids for rollout in same),
                    text_shift=None if clean else same[0].text_shift,
                )
            )
            rollouts.append(same)
    return TrainBatch(requests=requests, rollouts=rollouts)


def share_of(groups: Sequence[Group], world: World) -> list[Group]:
    """The groups that this process scores: neighbours, as many tokens as any other's as nearly as it goes."""
    tokens = [len(group.prompt.token_ids) + sum(len(r.token_ids) for r in group.rollouts) for group in groups]
    return world.share(groups, tokens)


def score_rollouts(
    policy: Policy, groups: Sequence[Group], config: Config, world: World = ALONE
) -> dict[Key, TokenScores]:
    """Log-probs and entropies of every completion on the image of `train_view`, without gradient."""
    batch = train_batch(share_of(groups, world), config.loss.train_view)
    with torch.no_grad(), whole(policy):
        scores = policy.score(
            batch.requests, temperature=config.rollout.temperature, pack_tokens=config.optim.pack_tokens
        )
    return _by_key(batch, scores, world)


def gather_evidence(
    policy: Policy,
    reference: Policy | None,
    groups: Sequence[Group],
    advantages: dict[Key, float],
    progress: GroupsInProgress,
    config: Config,
    step: int,
    state: RunState,
    view_strength: float = 1.0,
    world: World = ALONE,
) -> dict[Key, Evidence]:
    """Old and reference log-probs, token selection, advantage shaping and control weight of every completion.

    The processes of `world` score a share of the groups each. Where nothing needs them earlier, the old log-probs of
    the first update's completions are left to that update, see `with_scores`.
    """
    own: dict[Key, TokenScores]
    pairs: dict[Key, PairScores] = {}
    if _reads_pairs(config):
        own, pairs = _score_pairs(policy, groups, config, step, world)
    else:
        before = _scored_before(groups, config)
        own = score_rollouts(policy, before, config, world) if before else {}
    references = score_rollouts(reference, groups, config, world) if reference else {}
    weights = _control_weights(groups, progress, config, state)
    corrections = _engine_weights(groups, config)
    keys = [rollout.key for group in groups for rollout in group.rollouts]
    evidence = {
        key: Evidence(
            advantage=advantages[key],
            old=own.get(key),
            ref_logprobs=references[key].logprobs if references else None,
            pair=pairs.get(key),
            entropy_weight=weights[key],
            engine_weight=corrections.get(key),
        )
        for key in keys
    }
    for part in update_batches(groups, config.optim.updates_per_step):
        evidence |= _shaped(part, evidence, progress.rewards, config, view_strength)
        evidence |= _selected(part, evidence, config, step, state)
    return evidence


def with_scores(evidence: dict[Key, Evidence], scores: Mapping[Key, TokenScores]) -> dict[Key, Evidence]:
    """`evidence`, completed by the scores that the first update found with the weights before it."""
    return evidence | {key: replace(evidence[key], old=score) for key, score in scores.items()}


def _scored_before(groups: Sequence[Group], config: Config) -> Sequence[Group]:
    """The groups whose old log-probs have to be found by a pass of their own, before any weight moves."""
    if not _waits(config):
        return groups
    later = update_batches(groups, config.optim.updates_per_step)[1:]
    return [group for part in later for group in part]


def share_scored_before(config: Config) -> float:
    """The share of a step's groups that get a pass of their own for old log-probs."""
    return 1 - 1 / config.optim.updates_per_step if _waits(config) else 1.0


def _waits(config: Config) -> bool:
    """Does nothing read the scores of the first update's completions before that update makes them?"""
    selects = config.policy_select.rule != "all" and config.policy_select.weights != "current"
    picks = config.loss.name in PICKS and config.loss.pick_scope != "micro"
    return not (selects or picks or config.advantage.shaping != "none" or _reads_pairs(config))


def _reads_pairs(config: Config) -> bool:
    """Does the update (not only the attack) compare with the image of `score.view`?"""
    return any(not user.startswith("select.") for user in config.score_view_users())


def _score_pairs(
    policy: Policy, groups: Sequence[Group], config: Config, step: int, world: World
) -> tuple[dict[Key, TokenScores], dict[Key, PairScores]]:
    batch = train_batch(share_of(groups, world), config.loss.train_view)
    others = [
        other_images(request.prompt, request.images, [rollout.index for rollout in same], config, step)  # pyright: ignore[reportArgumentType]  (rollouts hold bytes)
        for request, same in zip(batch.requests, batch.rollouts, strict=True)
    ]
    with whole(policy):
        scored = policy.score_pairs(
            batch.requests, others, temperature=config.rollout.temperature, pack_tokens=config.optim.pack_tokens
        )
    both = _by_key(batch, scored, world)
    return {key: own for key, (own, _) in both.items()}, {key: pair for key, (_, pair) in both.items()}


def _by_key(batch: TrainBatch, scores: Sequence[Sequence], world: World) -> dict:
    """The scores of all processes; `batch` and `scores` are those of this one."""
    mine = [
        (rollout.key, score)
        for same, of_request in zip(batch.rollouts, scores, strict=True)
        for rollout, score in zip(same, of_request, strict=True)
    ]
    return dict(world.gathered(mine))


def _control_weights(
    groups: Sequence[Group], progress: GroupsInProgress, config: Config, state: RunState
) -> dict[Key, float]:
    """Each completion's coefficient in the entropy control, by its problem's accuracy."""
    accuracy = [[progress.grades[rollout.key].accuracy for rollout in group.rollouts] for group in groups]
    means = torch.tensor([sum(values) / len(values) for values in accuracy], dtype=torch.float64)
    weights = CONTROLS[config.control.rule].weight(state, config.control, means).tolist()
    return {rollout.key: weight for group, weight in zip(groups, weights, strict=True) for rollout in group.rollouts}


def _engine_weights(groups: Sequence[Group], config: Config) -> dict[Key, Tensor]:
    """Each completion's weights by `loss.engine_correction`; none without one."""
    if config.loss.engine_correction == "none":
        return {}
    rule, cap = CORRECTIONS[config.loss.engine_correction], config.loss.engine_cap
    return {rollout.key: rule(rollout.completion, cap) for group in groups for rollout in group.rollouts}


def _shaped(
    groups: Sequence[Group],
    evidence: dict[Key, Evidence],
    rewards: dict[Key, float],
    config: Config,
    view_strength: float,
) -> dict[Key, Evidence]:
    """The evidence of one update batch with shaped advantages."""
    if config.advantage.shaping == "none":
        return {}
    keys = [rollout.key for group in groups for rollout in group.rollouts]
    own = [evidence[key] for key in keys]
    dependency = None
    if own and own[0].pair is not None:
        dependency = [SCORES["dependency"](one.measured, one.pair, config.score.alpha) for one in own]
    shaped = SHAPINGS[config.advantage.shaping](
        torch.tensor([one.advantage for one in own], dtype=torch.float64),
        ShapingEvidence(
            dependency=dependency,
            mean_nll=torch.stack([-one.measured.logprobs.double().mean() for one in own]).cpu(),
            group=torch.tensor([number for number, group in enumerate(groups) for _ in group.rollouts]),
            rewards=torch.tensor([rewards[key] for key in keys], dtype=torch.float64),
            noise=torch.tensor(
                [
                    config.view.noise_level * view_strength / 1000 if rollout.view == "noise" else 0.0
                    for group in groups
                    for rollout in group.rollouts
                ],
                dtype=torch.float64,
            ),
        ),
        config.advantage.shaping_strength,
    ).tolist()
    return {key: replace(one, advantage=value) for key, one, value in zip(keys, own, shaped, strict=True)}


def _selected(
    groups: Sequence[Group], evidence: dict[Key, Evidence], config: Config, step: int, state: RunState
) -> dict[Key, Evidence]:
    """The evidence of one update batch with the tokens of the policy loss chosen, where the old weights choose."""
    select = config.policy_select
    if select.rule == "all" or select.weights == "current":
        return {}
    thresholds = None
    if state.policy_quantile_low is not None and state.policy_quantile_high is not None:
        thresholds = state.policy_quantile_low, state.policy_quantile_high
    of_groups = [[rollout.key for rollout in group.rollouts] for group in groups]
    pools = [[key for keys in of_groups for key in keys]] if select.scope == "batch" else of_groups
    chosen: dict[Key, Evidence] = {}
    for pool in pools:
        scores = [SCORES[select.score](evidence[k].measured, evidence[k].pair, config.score.alpha) for k in pool]
        generator = torch_generator(config.seed, "selection", "policy", step, pool[0][0])
        masks = select_tokens(scores, select, generator, thresholds=thresholds)
        chosen |= {key: replace(evidence[key], selected=mask) for key, mask in zip(pool, masks, strict=True)}
    return chosen
