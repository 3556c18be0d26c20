"""The living parts of one run: how they are kept, brought back, and stopped when the process has to end."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from torch.optim import Optimizer

from saei import schema
from saei.adapters import adapter_parameters, save_adapter
from saei.checkpoint import Cursor, checkpoints, load_checkpoint, save_checkpoint
from saei.config import Config
from saei.detectors import detect
from saei.distributed import ALONE, World
from saei.evaluate import evaluation_means
from saei.master_weights import masters_in_place
from saei.policy import Policy
from saei.recorder import Recorder
from saei.reward import Scorer
from saei.state import RunState
from saei.stopping import CutShort, Stopping, Warned
from saei.trackers import Trackers
from saei.whole_state import to_read, to_save, to_write


@dataclass(slots=True)
class Run:
    """The living parts of one run. `updates` counts optimizer updates; `step` is the loop's own; `world` has the
    processes that share its computing, `stopping` whether it was warned that it has to end.
    """

    config: Config
    policy: Policy
    reference: Policy | None
    optimizer: Optimizer
    scorer: Scorer
    recorder: Recorder
    updates: int = 0
    state: RunState = field(default_factory=RunState)
    world: World = ALONE
    stopping: Stopping = field(default_factory=Stopping)
    trackers: Trackers = field(default_factory=Trackers)


def show_life(run: Run) -> Callable[[], None]:
    """With every forward pass: renew the heartbeat, and leave an evaluation that a warning cuts short.

    Returns what does it, for waits without a forward pass.
    """

    def between_passes(*_: Any) -> None:
        run.recorder.beat()
        run.stopping.cut_short()

    run.policy.model.register_forward_pre_hook(between_passes)
    if run.policy.shards is not None:
        run.policy.shards.plain.register_forward_pre_hook(between_passes)
    return between_passes


def stop_if_warned(run: Run, step: int) -> None:
    """Before step `step`: if any process was warned, keep what is done and raise Warned."""
    number = run.stopping.agreed(run.world)
    if number:
        if step:
            save_run(run, step)
        raise Warned(number)


@contextmanager
def cut_if_warned(run: Run, step: int) -> Iterator[None]:
    """An evaluation that a warning may end at once: its rows are thrown away, and made again by the next launch.

    Not that of several processes, which would have to agree on every forward pass.
    """
    run.stopping.cuts = run.world.size == 1
    try:
        yield
    except CutShort:
        stop_if_warned(run, step)
    finally:
        run.stopping.cuts = False


def alarms_of(recorder: Recorder) -> list[dict[str, Any]]:
    """What the detectors say of the run so far, from its own tables: the same after a resume."""
    evaluations = evaluation_means(recorder.rows("eval"))
    return [asdict(alarm) for alarm in detect(recorder.rows("steps"), recorder.rows("views"), evaluations)]


def save_run(run: Run, step: int) -> None:
    """Make the checkpoint of `step` steps; the processes must agree on the weights."""
    with masters_in_place(run.optimizer):
        _save(run, step)


def _save(run: Run, step: int) -> None:
    with run.world.hearing():
        checksum = run.policy.checksum()
    checksum = run.world.agreed(checksum, "the weights")
    cursor = Cursor(
        trial_id=run.recorder.trial_id,
        step=step,
        updates=run.updates,
        checksum=checksum,
        state=run.state.to_dict(),
        base=run.policy.base_checksum(),
    )
    folder = run.recorder.folder / schema.CHECKPOINTS_FOLDER
    with to_write(run.policy, run.optimizer, run.world) as (model, optimizer):
        if run.world.is_writer:
            save_checkpoint(folder, model, optimizer, cursor, keep=run.config.checkpoint.keep)


def save_model(run: Run) -> None:
    """Write the policy as it is now, as a stock folder."""
    with to_save(run.policy):
        if run.world.is_writer:
            run.policy.save(run.recorder.folder / schema.MODEL_FOLDER)
            if adapter_parameters(run.policy.model):
                save_adapter(run.policy.model, run.recorder.folder / schema.ADAPTER_FOLDER)


def resume(run: Run) -> int:
    """Load the newest checkpoint, forget everything later, and return the step to continue with."""
    found = run.world.from_writer(checkpoints(run.recorder.folder / schema.CHECKPOINTS_FOLDER))
    step = 0
    if found:
        with masters_in_place(run.optimizer):
            with to_read(run.policy, run.optimizer) as (model, optimizer):
                cursor = load_checkpoint(found[-1], model, optimizer, trial_id=run.recorder.trial_id)
            checksum = run.policy.checksum()
        if run.policy.base_checksum() != cursor.base:
            raise RuntimeError(f"{found[-1]}: its adapter was trained on other weights than model.path has now")
        if checksum != cursor.checksum:
            raise RuntimeError(f"{found[-1]}: the weights do not have the recorded checksum; delete this checkpoint")
        run.updates, step, run.state = cursor.updates, cursor.step, RunState.from_dict(cursor.state)
        run.recorder.log(f"continuing from step {step}")
    run.recorder.forget_from(step)
    for row in evaluation_means(run.recorder.rows("eval")):
        if row["split"] == run.config.data.validation_split and row["decoding"] == schema.SAMPLED:
            run.recorder.standing.facts |= {"metric": row["accuracy"], "metric_step": row["step"]}
    run.recorder.status(schema.RUNNING, step=step)
    return step


def progress_line(row: dict[str, Any], steps: int, seconds: float) -> str:
    """The row of a step in a line, with the time left at `seconds` a step."""
    done = row["step"] + 1
    gain = "" if math.isnan(row["attack_gain"]) else f", attack gain {row['attack_gain']:.3f}"
    left = (steps - done) * seconds / 60
    return (
        f"step {done}/{steps}: reward {row['reward']:.3f}, accuracy {row['reward_accuracy']:.3f}, "
        f"entropy {row['entropy']:.3f}{gain}; {seconds:.1f} s a step, about {left:.0f} min left"
    )
