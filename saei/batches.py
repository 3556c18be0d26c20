"""Which problems a step rolls out: those of the plan or of the curriculum, then refills while too few groups pass."""

from collections.abc import Callable, Iterator
from dataclasses import asdict

from saei import schema
from saei.checkpoint import checkpoints
from saei.config import Config
from saei.curriculum import measured_order
from saei.data import ProblemSet
from saei.order import problem_indices
from saei.policy import Policy
from saei.recorder import Recorder
from saei.refill import refill_indices
from saei.types import Problem


def problem_batches(
    policy: Policy, recorder: Recorder, training: ProblemSet, config: Config
) -> Callable[[int], Iterator[list[Problem]]]:
    """step -> its batches of problems, lazily: the plan's, then refills, up to `filter.max_batches` in all.

    `policy` measures a curriculum where the run has none yet; the recorder keeps it.
    """
    size, seed = config.rollout.problems_per_step, config.seed
    order = None
    if config.data.curriculum != "none":
        # measured with the initial policy, so a run that has begun must find it
        begun = bool(checkpoints(recorder.folder / schema.CHECKPOINTS_FOLDER))
        found = recorder.kept(
            schema.CURRICULUM_FILE,
            lambda: asdict(measured_order(policy, training, config, recorder.world)),
            begun=begun,
        )
        order = found["order"]

    def batches(step: int) -> Iterator[list[Problem]]:
        indices = problem_indices(seed, step, size, len(training)) if order is None else order[step * size :][:size]
        used = list(indices)
        yield [training[i] for i in indices]
        for batch in range(1, config.filter.max_batches):
            indices = refill_indices(seed, step, batch, size, len(training), used)
            if not indices:
                return
            used += indices
            yield [training[i] for i in indices]

    return batches
