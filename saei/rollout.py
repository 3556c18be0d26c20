"""From problems to groups: sample every entry of the group plan, in order; later views may read earlier completions.

Which image a completion was sampled on is a field of the rollout, never a side effect (DESIGN 4.3).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.config import Config
from saei.policy import Policy
from saei.sampler import sample
from saei.seeding import torch_generator, uniforms
from saei.types import (
    AttackRow,
    ByteImages,
    Group,
    Problem,
    Prompt,
    Rollout,
    SampledCompletion,
    SampleRequest,
    ScoreRequest,
)
from saei.views import VIEWS, ViewContext, check_budget

Noise = Callable[[str, int, int], np.ndarray]


@dataclass(slots=True)
class GroupsInProgress:
    """The groups of one step while their plan is carried out; lists are indexed by problem."""

    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    rollouts: list[list[Rollout]]
    images: dict[str, list[ByteImages]] = field(default_factory=dict)
    ledger: list[AttackRow] = field(default_factory=list)

    @classmethod
    def begin(cls, policy: Policy, problems: Sequence[Problem]) -> "GroupsInProgress":
        """Encode the problems once; no completion yet."""
        return cls(problems, [policy.encode(problem) for problem in problems], [[] for _ in problems])

    def groups(self) -> list[Group]:
        return [
            Group(problem=problem, prompt=prompt, rollouts=tuple(rollouts))
            for problem, prompt, rollouts in zip(self.problems, self.prompts, self.rollouts, strict=True)
        ]


def make_view(policy: Policy, progress: GroupsInProgress, view: str, config: Config, step: int) -> None:
    """Compute the images of `view` from what was sampled so far, a chunk of problems at a time; fill the ledger.

    Chunks hold as many problems as one scoring pass has room for, so that the attack's memory does not grow with the
    step. No parameter gets a gradient, and the L-infinity budget is checked here, not trusted.
    """
    allowed = _allowed_levels(config) if view != "clean" else 0.0
    images: list[ByteImages] = []
    with policy.frozen():
        for chunk in _chunks(progress, config.optim.pack_tokens):
            result = VIEWS[view](_context(policy, progress, chunk, config, step))
            for position, moved in zip(chunk, result.images, strict=True):
                check_budget(progress.prompts[position].images, moved, allowed)
            images += result.images
            progress.ledger += result.ledger
    progress.images[view] = images


def sample_view(policy: Policy, progress: GroupsInProgress, view: str, count: int, config: Config, step: int) -> None:
    """Sample `count` more completions of every problem, seeing the images of `view`.

    The noise key is the completion's number in its group, without the view: arms of a sweep are paired.
    """
    first = len(progress.rollouts[0])
    indices = tuple(range(first, first + count))
    requests = [
        SampleRequest(prompt=prompt, images=images, indices=indices)
        for prompt, images in zip(progress.prompts, progress.images[view], strict=True)
    ]
    sampled = _sample(policy, requests, config, noise_source(config.seed, "sampling", step))
    for position, completions in enumerate(sampled):
        images = progress.images[view][position]
        image_hash = hash_images(images)
        progress.rollouts[position] += [
            Rollout(
                problem_id=progress.prompts[position].problem_id,
                view=view,
                index=completion.index,
                completion=completion,
                text=policy.decode(completion.token_ids),
                images=images,
                image_hash=image_hash,
            )
            for completion in completions
        ]


def measure_fresh(
    policy: Policy, progress: GroupsInProgress, config: Config, step: int
) -> dict[tuple[str, str], tuple[float, float]]:
    """(view, problem_id) -> token entropy of fresh completions on the clean and on the moved image, same noise.

    The teacher-forced gain is measured on completions that were sampled before the image moved; this one is the
    entropy that sampling on the moved image really has (methods.md, pitfall 13). Empty except every
    `record.fresh_every` steps, and where the plan has no attack.
    """
    every = config.record.fresh_every
    attacked = {row.view for row in progress.ledger}
    if not attacked or every == 0 or step % every:
        return {}
    fresh: dict[tuple[str, str], tuple[float, float]] = {}
    for view, count in config.group_plan():
        if view not in attacked:
            continue
        clean = fresh_entropies(policy, progress, [prompt.images for prompt in progress.prompts], count, config, step)
        moved = fresh_entropies(policy, progress, progress.images[view], count, config, step)
        for prompt, pair in zip(progress.prompts, zip(clean, moved, strict=True), strict=True):
            fresh[view, prompt.problem_id] = pair
    return fresh


def fresh_entropies(
    policy: Policy,
    progress: GroupsInProgress,
    images: Sequence[ByteImages],
    count: int,
    config: Config,
    step: int,
) -> list[float]:
    """Per problem: mean token entropy of `count` completions sampled on `images` with the noise of purpose "fresh"."""
    requests = [
        SampleRequest(prompt=prompt, images=seen, indices=tuple(range(count)))
        for prompt, seen in zip(progress.prompts, images, strict=True)
    ]
    sampled = _sample(policy, requests, config, noise_source(config.seed, "fresh", step))
    return [float(torch.cat([completion.sampler_entropy for completion in group]).mean()) for group in sampled]


def _sample(
    policy: Policy, requests: Sequence[SampleRequest], config: Config, noise: Noise
) -> list[list[SampledCompletion]]:
    rollout = config.rollout
    return sample(
        policy,
        requests,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        max_new_tokens=rollout.max_new_tokens,
        batch_rows=rollout.batch_rows,
        noise=noise,
    )


def noise_source(seed: int, purpose: str, step: int) -> Noise:
    """The sampler's noise: (problem_id, completion index, length) -> uniforms."""
    return lambda problem_id, index, length: uniforms(seed, purpose, step, problem_id, index, length)


def hash_images(images: ByteImages) -> str:
    """sha256 over sizes and 8-bit levels, 16 hex digits."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(repr(tuple(image.shape)).encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _allowed_levels(config: Config) -> float:
    """How far, in grey levels, the attack of these settings may move a pixel."""
    reach = config.view.step_size * config.view.iterations
    return reach if config.view.epsilon is None else min(reach, config.view.epsilon)


def _chunks(progress: GroupsInProgress, pack_tokens: int) -> list[list[int]]:
    """Problems, in order, grouped so that the packed tokens of a chunk stay near `pack_tokens`."""
    chunks: list[list[int]] = []
    used = 0
    for position, prompt in enumerate(progress.prompts):
        tokens = len(prompt.token_ids) + sum(len(rollout.token_ids) for rollout in progress.rollouts[position])
        if not chunks or used + tokens > pack_tokens:
            chunks.append([])
            used = 0
        chunks[-1].append(position)
        used += tokens
    return chunks


def _context(
    policy: Policy, progress: GroupsInProgress, chunk: Sequence[int], config: Config, step: int
) -> ViewContext:
    prompts = [progress.prompts[position] for position in chunk]

    def token_entropy(
        images: Sequence[Sequence[Float[Tensor, "3 _ _"]]],
        completions: Sequence[Sequence[tuple[int, ...]]],
        kept: Sequence[Sequence[Bool[Tensor, " _"]]] | None,
    ) -> list[list[Float[Tensor, " _"]]]:
        requests = [
            ScoreRequest(
                prompt=prompt,
                images=tuple(seen),
                completions=tuple(completions[i]),
                kept=None if kept is None else tuple(kept[i]),
            )
            for i, (prompt, seen) in enumerate(zip(prompts, images, strict=True))
        ]
        scores = policy.score(
            requests,
            temperature=config.rollout.temperature,
            pack_tokens=config.optim.pack_tokens,
            entropy_grad=True,
        )
        return [[score.entropy for score in group] for group in scores]

    return ViewContext(
        problem_ids=tuple(prompt.problem_id for prompt in prompts),
        images=tuple(prompt.images for prompt in prompts),
        completions=tuple(tuple(rollout.token_ids for rollout in progress.rollouts[position]) for position in chunk),
        token_entropy=token_entropy,
        view=config.view,
        select=config.select,
        generator=lambda purpose, problem_id: torch_generator(config.seed, purpose, step, problem_id),
    )
