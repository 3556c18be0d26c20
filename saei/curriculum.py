"""SENT's curriculum: training problems in stages of rising semantic entropy of the initial policy (arXiv 2512.04359).

The paper's own semantic entropy is not in its repository; ours is over the final answers that the policy samples,
clustered as the grader compares them (methods.md 8.4a). Two mathematical answers are one only where their spelling
settles it, after the grader's clean-up: an algebra system's verdict may depend on a time limit, and the order of the
problems may not.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from saei.config import Config
from saei.data.problem_set import ProblemSet
from saei.distributed import ALONE, World
from saei.engines.completing import complete
from saei.graders.extract import boxed_answer
from saei.order import problem_indices
from saei.policy import Policy
from saei.reward import GRADERS, LONGEST_ANSWER
from saei.seeding import uniforms
from saei.sharding import whole
from saei.types import Problem, SampleRequest

RECONSTRUCTIONS: dict[str, str] = {
    "semantic_entropy": (
        "data.curriculum semantic_entropy is a reconstruction in part: arXiv 2512.04359 orders problems by semantic "
        "entropy, but its code does not compute it; ours is the entropy over clusters of equal final answers"
    )
}
"""`data.curriculum` -> what of it is ours and not the paper's, for the run record and the report."""


def semantic_entropy(answers: Sequence[str], same: Callable[[str, str], bool]) -> float:
    """-sum p log p over clusters of answers, in nats; completions without an answer ("") are one cluster of their own.

    An answer joins the first cluster whose first member it equals.
    """
    if not answers:
        raise ValueError("semantic entropy of no answers: sample at least one completion a problem")
    firsts: list[str] = []
    sizes: list[int] = []
    for answer in answers:
        for cluster, first in enumerate(firsts):
            if answer == first or (answer and first and same(answer, first)):
                sizes[cluster] += 1
                break
        else:
            firsts.append(answer)
            sizes.append(1)
    return sum(size / len(answers) * math.log(len(answers) / size) for size in sizes)


def same_answer(problem: Problem, one: str, other: str) -> bool:
    """Would the grader take either answer for the other, if that were the gold? Mathematics by spelling alone."""
    if max(len(one), len(other)) > LONGEST_ANSWER:
        return one == other
    grade = GRADERS[problem.answer_type]
    return all(grade(a, replace(problem, answer=b)) is True for a, b in ((one, other), (other, one)))


def measure(policy: Policy, problems: Sequence[Problem], config: Config, world: World = ALONE) -> list[float]:
    """Semantic entropy of each problem in nats: `data.curriculum_samples` completions of the policy as it is, sampled
    as rollouts are (temperature, top-p, length), under noise of their own.
    """
    with whole(policy):
        mine = _measure(policy, problems, world.share(range(len(problems))), config)
    return world.gathered(mine)


def _measure(policy: Policy, problems: Sequence[Problem], numbers: Sequence[int], config: Config) -> list[float]:
    rollout, count = config.rollout, config.data.curriculum_samples
    entropies: list[float] = []
    together = max(1, rollout.batch_rows // count)
    for first in range(0, len(numbers), together):
        batch = [problems[number] for number in numbers[first : first + together]]
        prompts = [policy.encode(problem) for problem in batch]
        sampled = complete(
            policy,
            [SampleRequest(prompt=prompt, images=prompt.images, indices=tuple(range(count))) for prompt in prompts],
            config,
            engine=rollout.engine,
            sampling=(rollout.temperature, rollout.top_p),
            noise=lambda problem_id, index, length: uniforms(config.seed, "data", 0, problem_id, index, length),
        )
        for problem, completions in zip(batch, sampled, strict=True):
            answers = [boxed_answer(policy.decode(completion.token_ids)) or "" for completion in completions]
            entropies.append(semantic_entropy(answers, partial(same_answer, problem)))
    return entropies


def staged(indices: Sequence[int], entropies: Sequence[float], stages: int) -> list[int]:
    """`indices` in `stages` of rising entropy (`entropies[k]` is that of `indices[k]`), as given within a stage.

    Sizes of stages differ by at most 1. Of equal entropies the earlier ones come first.
    """
    ranked = sorted(range(len(indices)), key=lambda k: (entropies[k], k))
    parts = [ranked[s * len(ranked) // stages : (s + 1) * len(ranked) // stages] for s in range(stages)]
    return [indices[k] for part in parts for k in sorted(part)]


def without_repeats(order: Sequence[int], per_step: int) -> list[int]:
    """`order`, changed as little as needed for no problem to stand twice in one step of `per_step`.

    A repeated problem waits for the next step that lacks it; where none is left to fill, it changes places with a
    problem of the nearest earlier step. That is always possible when no problem stands in `order` more often than there
    are steps, and `order` fills them all.
    """
    steps: list[list[int]] = [[] for _ in range(len(order) // per_step)]
    first_open = 0
    for problem in order:
        while len(steps[first_open]) == per_step:
            first_open += 1
        later = (step for step in steps[first_open:] if len(step) < per_step and problem not in step)
        free = next(later, None)
        if free is not None:
            free.append(problem)
            continue
        target = steps[first_open]
        donor = next(step for step in reversed(steps) if len(step) == per_step and problem not in step)
        position = next(k for k, other in enumerate(donor) if other not in target)
        target.append(donor[position])
        donor[position] = problem
    return [problem for step in steps for problem in step]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredOrder:
    """The order, and what finding it cost: tokens generated, token positions through forward passes, seconds."""

    order: list[int]
    tokens_generated: int
    tokens_forward: int
    seconds: float


def measured_order(policy: Policy, training: ProblemSet, config: Config, world: World = ALONE) -> MeasuredOrder:
    """`curriculum_order` with its cost, that of all processes."""
    started, forward, generated = time.perf_counter(), policy.tokens_forward, policy.tokens_generated
    order = curriculum_order(policy, training, config, world)
    forward, generated = world.sums(policy.tokens_forward - forward, policy.tokens_generated - generated)
    return MeasuredOrder(
        order=order,
        tokens_generated=generated,
        tokens_forward=forward,
        seconds=time.perf_counter() - started,
    )


def curriculum_order(policy: Policy, training: ProblemSet, config: Config, world: World = ALONE) -> list[int]:
    """Problem indices of all steps of the run: those of the plain order (`saei.order`), in stages.

    The policy must be the initial one. The order is a function of it and of the settings.
    """
    per_step = config.rollout.problems_per_step
    visits = [i for step in range(config.steps) for i in problem_indices(config.seed, step, per_step, len(training))]
    distinct = list(dict.fromkeys(visits))
    problems = ProblemSet(split=training.split, size=len(distinct), problem_at=lambda k: training[distinct[k]])
    entropy_of = dict(zip(distinct, measure(policy, problems, config, world), strict=True))
    order = staged(visits, [entropy_of[i] for i in visits], config.data.curriculum_stages)
    return without_repeats(order, per_step)
