"""From problems to groups: sample every entry of the group plan, in order; later views may read earlier completions.

Which image a completion was sampled on is a field of the rollout, never a side effect (DESIGN 4.3).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from saei.config import Config
from saei.distributed import ALONE, World
from saei.engines.completing import complete
from saei.overlong import overlong_penalty
from saei.policy import Policy
from saei.reward import Grade, Scorer, check_failures
from saei.seeding import uniforms
from saei.sharding import whole
from saei.types import (
    AttackRow,
    ByteImages,
    Group,
    Problem,
    Prompt,
    Rollout,
    SampledCompletion,
    SampleRequest,
    TextShift,
)

Noise = Callable[[str, int, int], np.ndarray]
Key = tuple[str, int]
"""(problem_id, index in the group): names one completion of a step."""


@dataclass(slots=True)
class GroupsInProgress:
    """The groups of one step while their plan is carried out; lists are indexed by problem, dicts by completion.

    `images[view][p]` holds one entry for all completions of problem p, or one for each of them.
    """

    problems: list[Problem] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    rollouts: list[list[Rollout]] = field(default_factory=list)
    images: dict[str, list[Sequence[ByteImages]]] = field(default_factory=dict)
    text_shifts: dict[str, list[TextShift | None]] = field(default_factory=dict)
    ledger: list[AttackRow] = field(default_factory=list)
    grades: dict[Key, Grade] = field(default_factory=dict)
    penalties: dict[Key, float] = field(default_factory=dict)
    rewards: dict[Key, float] = field(default_factory=dict)

    @classmethod
    def begin(cls, policy: Policy, problems: Sequence[Problem]) -> "GroupsInProgress":
        """Encode the problems once; no completion yet."""
        return cls(list(problems), [policy.encode(problem) for problem in problems], [[] for _ in problems])

    def extend(self, other: "GroupsInProgress") -> None:
        """Add the groups of `other`: further problems under the same plan."""
        self.problems += other.problems
        self.prompts += other.prompts
        self.rollouts += other.rollouts
        self.ledger += other.ledger
        for mine, theirs in ((self.images, other.images), (self.text_shifts, other.text_shifts)):
            for view, entries in theirs.items():
                mine.setdefault(view, []).extend(entries)  # pyright: ignore[reportArgumentType, reportCallIssue]
        for mine, theirs in ((self.grades, other.grades), (self.penalties, other.penalties)):
            mine.update(theirs)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self.rewards.update(other.rewards)

    def groups(self) -> list[Group]:
        return [
            Group(problem=problem, prompt=prompt, rollouts=tuple(rollouts))
            for problem, prompt, rollouts in zip(self.problems, self.prompts, self.rollouts, strict=True)
        ]


def everyones(progress: GroupsInProgress, problems: Sequence[Problem], world: World) -> GroupsInProgress:
    """The groups of all processes: of `problems`, of which each process rolled out its share, in order."""
    if world.size == 1:
        return progress
    whole = GroupsInProgress()
    for part in world.gathered([replace(progress, problems=[])]):  # every process has the problems
        whole.extend(part)
    whole.problems = list(problems)
    order = {view: number for number, view in enumerate(whole.images)}
    whole.ledger.sort(key=lambda row: order[row.view])
    return whole


def sample_view(
    policy: Policy,
    progress: GroupsInProgress,
    view: str,
    count: int,
    config: Config,
    step: int,
    *,
    purpose: str = "sampling",
) -> None:
    """Sample `count` more completions of every problem, seeing the input of `view`.

    The noise key is the completion's number in its group, without the view: arms of a sweep are paired. `purpose` is
    that of the stream.
    """
    first = len(progress.rollouts[0]) if progress.rollouts else 0
    requests = view_requests(progress, view, range(first, first + count))
    sampled = _sample(policy, [r for group in requests for r in group], config, config.seed, purpose, step)
    answers = iter(zip([r for group in requests for r in group], sampled, strict=True))
    for position, group in enumerate(requests):
        for request, completions in (next(answers) for _ in group):
            seen = hash_images(request.images, request.text_shift)
            progress.rollouts[position] += [
                Rollout(
                    problem_id=request.prompt.problem_id,
                    view=view,
                    index=completion.index,
                    completion=completion,
                    text=policy.decode(completion.token_ids),
                    images=request.images,
                    image_hash=seen,
                    text_shift=request.text_shift,
                )
                for completion in completions
            ]


def view_requests(progress: GroupsInProgress, view: str, indices: Sequence[int]) -> list[list[SampleRequest]]:
    """Per problem: one request for all `indices`, or one for each where each has an image of its own."""
    shifts = progress.text_shifts.get(view) or [None] * len(progress.prompts)
    requests = []
    for prompt, entries, shift in zip(progress.prompts, progress.images[view], shifts, strict=True):
        shares = [tuple(indices)] if len(entries) == 1 else [(index,) for index in indices]
        requests.append(
            [
                SampleRequest(prompt=prompt, images=images, indices=share, text_shift=shift)
                for images, share in zip(entries, shares, strict=True)
            ]
        )
    return requests


def grade_view(scorer: Scorer, progress: GroupsInProgress, view: str, config: Config, world: World = ALONE) -> None:
    """Grade the completions of `view`.

    Raises GraderFailure when too many of them, those of all processes together, could not be graded.
    """
    graded = [
        (problem, rollout)
        for problem, rollouts in zip(progress.problems, progress.rollouts, strict=True)
        for rollout in rollouts
        if rollout.view == view
    ]
    texts = [rollout.text for _, rollout in graded]
    grades = scorer.grade(texts, [problem for problem, _ in graded])
    check_failures(world.gathered(grades), world.gathered(texts), config.reward.max_failure_share)
    for (_, rollout), grade in zip(graded, grades, strict=True):
        penalty = overlong_penalty(
            len(rollout.token_ids),
            max_new_tokens=config.rollout.max_new_tokens,
            buffer=config.reward.overlong_buffer,
            penalty=config.reward.overlong_penalty,
        )
        progress.grades[rollout.key] = grade
        progress.penalties[rollout.key] = penalty
        progress.rewards[rollout.key] = scorer.reward(grade) - penalty


def measure_fresh(
    policy: Policy, progress: GroupsInProgress, config: Config, step: int, world: World = ALONE
) -> dict[tuple[str, str], tuple[float, float]]:
    """(view, problem_id) -> token entropy of fresh completions on the clean and on the moved input, same noise.

    The teacher-forced gain is measured on completions that were sampled before the image moved; this one is the
    entropy that sampling on the moved image really has (methods.md, pitfall 13). Empty except every
    `record.fresh_every` steps, and where no planned view has a ledger.
    """
    every = config.record.fresh_every
    moved_views = {row.view for row in progress.ledger}
    if not moved_views or every == 0 or step % every:
        return {}
    fresh: dict[tuple[str, str], tuple[float, float]] = {}
    for view, count in config.group_plan():
        if view not in moved_views:
            continue
        with whole(policy):
            clean = fresh_entropies(policy, progress, "clean", count, config, step, world)
            moved = fresh_entropies(policy, progress, view, count, config, step, world)
        for prompt, pair in zip(progress.prompts, zip(clean, moved, strict=True), strict=True):
            fresh[view, prompt.problem_id] = pair
    return fresh


def fresh_entropies(
    policy: Policy,
    progress: GroupsInProgress,
    view: str,
    count: int,
    config: Config,
    step: int,
    world: World = ALONE,
) -> list[float]:
    """Per problem: mean token entropy of `count` completions sampled under `view` with the noise of purpose "fresh"."""
    requests = world.share(view_requests(progress, view, range(count)))
    sampled = iter(_sample(policy, [r for group in requests for r in group], config, config.seed, "fresh", step))
    means = []
    for group in requests:
        completions = [completion for _ in group for completion in next(sampled)]
        means.append(float(torch.cat([completion.sampler_entropy for completion in completions]).mean()))
    return world.gathered(means)


def _sample(
    policy: Policy, requests: Sequence[SampleRequest], config: Config, seed: int, purpose: str, step: int
) -> list[list[SampledCompletion]]:
    rollout = config.rollout
    return complete(
        policy,
        requests,
        config,
        engine=rollout.engine,
        sampling=(rollout.temperature, rollout.top_p),
        noise=noise_source(seed, purpose, step),
    )


def noise_source(seed: int, purpose: str, step: int) -> Noise:
    """The sampler's noise: (problem_id, completion index, length) -> uniforms."""
    return lambda problem_id, index, length: uniforms(seed, purpose, step, problem_id, index, length)


def hash_images(images: ByteImages, text_shift: TextShift | None = None) -> str:
    """sha256 over sizes and 8-bit levels, and over the move of the text where there is one; 16 hex digits."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(tuple(image.shape)).encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
    if text_shift is not None:
        digest.update(text_shift.detach().cpu().double().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
