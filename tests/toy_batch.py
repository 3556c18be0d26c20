"""The toy batch of the methods sheet (13.1) as a whole step: the trainer's own evidence and update on scripted scores.

The step has two update batches of two completions. The first is the sheet's, number for number. The second is ours and
holds what the first cannot show: a ratio of 1.25 (row 3, token 1: beyond a clip of .2, within .28), ratios of 11 and
4.5 at a negative advantage (row 4, tokens 1 and 2: dual clips of 10 and 3), a covariance of 2.73 (row 4, token 3:
Clip-Cov's (1, 5)), and a completion whose mean log-ratio is 0 (row 3: inside GSPO's clip).

The advantages are given, +1 and -1, as in the sheet. The first problem is hard (neither answer right), the second easy
(both right). The reference policy is the old one. `jsd`, entropy gaps and log-probs under the other image are chosen so
that VEPO's, VPPO's and the entropy's favourite tokens differ; the entropy fell from .5 to .1 nats in two steps before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from saei.config import Config, with_overrides
from saei.control import CONTROLS
from saei.credit import group_advantages, update_batches
from saei.evidence import Evidence, gather_evidence, score_rollouts, with_scores
from saei.policy import Policy
from saei.reward import GRADE_OK, Grade
from saei.rollout import GroupsInProgress, Key
from saei.seeding import torch_generator
from saei.state import RunState
from saei.types import Group, PairScores, Problem, Prompt, Rollout, SampledCompletion, TokenScores
from saei.update import update_policy

LENGTHS = (5, 3, 4, 5)
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
OWNERS: tuple[Key, ...] = (("hard", 0), ("hard", 1), ("easy", 0), ("easy", 1))
GIVEN: dict[Key, float] = dict(zip(OWNERS, (1.0, -1.0, 1.0, -1.0), strict=True))
ACCURACY = {"hard": 0.0, "easy": 1.0}
ENTROPY_HISTORY = (0.5, 0.1)


def table(*rows: Sequence[float]) -> Tensor:
    """4 x 5, float64, zeros on padding."""
    return torch.tensor([[*row, *[0.0] * (5 - len(row))] for row in rows], dtype=torch.float64)


LOGPROBS = table(
    (-0.10, -1.20, -0.50, -2.00, -0.05),
    (-0.30, -0.90, -1.60),
    (-0.30, -0.90, -0.40, -0.60),
    (-0.50, -0.40, -4.00, -1.10, -0.20),
)
OLD = table(
    (-0.20, -1.00, -0.50, -2.30, -0.05),
    (-0.40, -0.80, -1.50),
    (-0.52, -0.78, -0.30, -0.60),
    (-2.90, -1.90, -3.90, -1.15, -0.20),
)
ENTROPY = table(
    (0.05, 1.40, 0.60, 2.10, 0.02),
    (0.30, 0.90, 1.70),
    (0.50, 1.30, 0.70, 0.20),
    (0.90, 0.60, 2.40, 1.10, 0.30),
)
JSD = table((0.01, 0.20, 0.05, 0.10, 0.0), (0.0, 0.15, 0.05), (0.05, 0.02, 0.30, 0.0), (0.05, 0.05, 0.05, 0.40, 0.0))
GAP = table((0.02, 0.50, 0.10, 0.20, 0.0), (0.0, 0.30, 0.10), (0.10, 0.0, 0.40, 0.0), (0.10, 0.10, 0.10, 0.60, 0.0))
PERTURBED = OLD + table(
    (-0.10, -0.80, -0.20, -0.50, 0.0),
    (0.0, -0.60, -0.30),
    (-0.10, -0.20, -0.70, 0.0),
    (-0.30, -0.20, -0.40, -1.00, 0.0),
)
"""Under the image of `score.view`, with the old weights."""


class ToyModel(nn.Module):
    """Log-probs and entropies as parameters of their own: their gradients are what a loss does."""

    def __init__(self, logprobs: Tensor, entropy: Tensor = ENTROPY) -> None:
        super().__init__()
        self.logprobs, self.entropy = nn.Parameter(logprobs.clone()), nn.Parameter(entropy.clone())


class LogitModel(nn.Module):
    """Rows x tokens x 3 logits; token 0 is the sampled one."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    @property
    def logprobs(self) -> Tensor:
        return self.logits.log_softmax(dim=-1)[..., 0]

    @property
    def entropy(self) -> Tensor:
        log_p = self.logits.log_softmax(dim=-1)
        return -(log_p.exp() * log_p).sum(dim=-1)


class ToyPolicy(Policy):
    """Scores completions by table: the first token id tells the row."""

    def __init__(self, model: Any, perturbed: Tensor = PERTURBED) -> None:
        self.model, self.perturbed = model, perturbed
        self.device = torch.device("cpu")
        self.attention_cost = 0.0

    def score(self, requests, *, temperature, pack_tokens, entropy_grad=False) -> list[list[TokenScores]]:
        return [[self._scores(ids, entropy_grad) for ids in request.completions] for request in requests]

    def score_pairs(self, requests, others, *, temperature, pack_tokens) -> list[list[tuple[TokenScores, PairScores]]]:
        with torch.no_grad():
            return [[(self._scores(ids, False), self._pair(ids)) for ids in r.completions] for r in requests]

    def _scores(self, ids: Sequence[int], entropy_grad: bool) -> TokenScores:
        row, length = ids[0] // 10, len(ids)
        entropy = self.model.entropy[row, :length]
        return TokenScores(
            logprobs=self.model.logprobs[row, :length],
            entropy=entropy if entropy_grad else entropy.detach(),
            entropy_t1=entropy.detach(),
        )

    def _pair(self, ids: Sequence[int]) -> PairScores:
        row, length = ids[0] // 10, len(ids)
        jsd, gap = JSD[row, :length], GAP[row, :length]
        own = self.model.entropy[row, :length].detach()
        return PairScores(logprobs=self.perturbed[row, :length], entropy=own + gap, jsd=jsd, kl=4 * jsd)


class Recorder(SGD):
    """Keeps the gradients and moves nothing."""

    gradients: list[Tensor]

    def step(self, closure=None) -> None:
        parameters = self.param_groups[0]["params"]
        self.gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyStep:
    """Losses of the two update batches, and the gradients of their sum: of each parameter of the model, by name."""

    config: Config
    losses: tuple[float, ...]
    gradients: dict[str, Tensor]

    @property
    def logprobs(self) -> Tensor:
        return self.gradients["logprobs"]

    @property
    def entropy(self) -> Tensor:
        return self.gradients["entropy"]


def toy_progress() -> GroupsInProgress:
    """The two groups, sampled and graded."""
    progress = GroupsInProgress()
    for row, (problem_id, index) in enumerate(OWNERS):
        if index == 0:
            progress.problems.append(Problem(problem_id=problem_id, images=(), question="?", answer="1"))
            progress.prompts.append(Prompt(problem_id=problem_id, token_ids=(1,), images=()))
            progress.rollouts.append([])
        nothing = torch.zeros(LENGTHS[row], dtype=torch.float64)
        completion = SampledCompletion(
            index=index,
            token_ids=tuple(10 * row + t for t in range(LENGTHS[row])),
            sampler_logprobs=nothing,
            sampler_entropy=nothing,
            removed_mass=nothing,
            finished=True,
        )
        rollout = Rollout(
            problem_id=problem_id, view="clean", index=index, completion=completion, text="", images=(), image_hash=""
        )
        progress.rollouts[-1].append(rollout)
        accuracy, of_format = ACCURACY[problem_id], 1.0 - index
        progress.grades[rollout.key] = Grade(accuracy=accuracy, format=of_format, status=GRADE_OK, answer="")
        progress.rewards[rollout.key] = 0.9 * accuracy + 0.1 * of_format
    return progress


def controlled(config: Config) -> RunState:
    """What the controller of these settings remembers after two steps of falling entropy."""
    state = RunState()
    for entropy in ENTROPY_HISTORY:
        CONTROLS[config.control.rule].advance(state, config.control, entropy)
    return state


def measured_before(
    evidence: dict[Key, Evidence], before: Policy, groups: Sequence[Group], config: Config
) -> dict[Key, Evidence]:
    """All old scores by `before`, also those that a step leaves to its first update: here weights moved since then."""
    scores = score_rollouts(before, groups, config)
    return with_scores(evidence, {key: scores[key] for key, one in evidence.items() if one.old is None})


def toy_step(
    config: Config,
    *,
    current: nn.Module | None = None,
    old: nn.Module | None = None,
    perturbed: Tensor = PERTURBED,
    rewards: Mapping[Key, float] | None = None,
    state: RunState | None = None,
) -> ToyStep:
    """One step of the trainer on the toy batch, as the settings say, with the weights as they are in its updates.

    `current` and `old` default to the sheet's log-probs; `rewards` replace the given advantages by the settings' own
    rule; `state` defaults to `controlled(config)`. Gradients are not clipped, lengths are divided by 5.
    """
    config = with_overrides(
        config, {"rollout.max_new_tokens": 5, "reward.overlong_buffer": 0, "optim.max_grad_norm": 1e9}
    )
    progress, current = toy_progress(), current or ToyModel(LOGPROBS)
    groups = progress.groups()
    advantages = GIVEN if rewards is None else group_advantages(groups, dict(rewards), config)
    before = ToyPolicy(old or ToyModel(OLD), perturbed)
    reference = before if config.loss.kl_coef else None
    state = controlled(config) if state is None else state
    evidence = gather_evidence(before, reference, groups, advantages, progress, config, 0, state)
    evidence = measured_before(evidence, before, groups, config)
    policy, losses = ToyPolicy(current, perturbed), []
    names, parameters = zip(*current.named_parameters(), strict=True)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for number, part in enumerate(update_batches(groups, 2)):
        optimizer, generator = Recorder(parameters, lr=1.0), torch_generator(config.seed, "loss", 0, number)
        result = update_policy(policy, optimizer, part, evidence, config, generator, first=False)
        assert not result.skipped, f"update {number}: loss {result.loss}, gradient norm {result.grad_norm}"
        losses.append(result.loss)
        total = [one + other for one, other in zip(total, optimizer.gradients, strict=True)]
    return ToyStep(config=config, losses=tuple(losses), gradients=dict(zip(names, total, strict=True)))
