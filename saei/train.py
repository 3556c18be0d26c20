"""GRPO with adversarial sampling (SaEI, arXiv 2512.10414): the step, the run around it, the command line.

Read `train_step` first: it is the method, in order. Every variant of it is a setting; nothing here knows a method's
name. `train(config)` is the one function that a sweep or a cluster job calls: it claims the run directory, continues
from the newest checkpoint, and seals the run with `DONE`.

    python -m saei.train --preset saei --steps 150 --seed 0 --out results/manual/saei-s0
"""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from saei import schema
from saei.back_off import back_off
from saei.batches import problem_batches
from saei.checkpoint import Cursor, checkpoints, load_checkpoint, read_cursor, save_checkpoint
from saei.cli import bad_input, run_main
from saei.clock import Clock
from saei.config import Config
from saei.credit import group_advantages, passing_groups, update_batches
from saei.data import ProblemSet, load_problems, shifted_splits
from saei.data.transfer import transfer_sets
from saei.detectors import detect
from saei.distributed import ALONE, World
from saei.environment import environment, other_code
from saei.evaluate import evaluate_split, evaluation_means, first_problems, scores
from saei.evidence import gather_evidence
from saei.joining import joined
from saei.make_view import make_view
from saei.metrics import attack_rows, rollout_facts, rollout_rows, step_row, view_rows
from saei.options import check_names, train_command_line
from saei.order import problem_indices
from saei.policy import Policy, load_policy
from saei.recorder import Recorder, claimed, recorder_of, write_json
from saei.reward import Scorer
from saei.robustness import evaluate_under_attacks
from saei.rollout import GroupsInProgress, everyones, grade_view, measure_fresh, sample_view
from saei.seeding import torch_generator
from saei.state import RunState
from saei.steer import attack_thresholds, remember, shown_strength, view_strength
from saei.strips import save_strips
from saei.types import Group, Problem
from saei.update import UpdateResult, learning_rate, set_learning_rate, update_policy


@dataclass(slots=True)
class Run:
    """The living parts of one run. `updates` counts optimizer updates; `step` is the loop's own; `world` has the
    processes that share its computing.
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


def train_step(run: Run, batches: Iterable[Sequence[Problem]], step: int) -> dict[str, Any]:
    """One rollout batch with all its updates: the whole method, in order. Returns the row of the `steps` table.

    `batches` are batches of problems; more than the first is asked for only while the group filter leaves too few.
    """
    config, policy, state, world, clock = run.config, run.policy, run.state, run.world, Clock()
    start = tokens_spent(run)
    strength = view_strength(config, step, state)

    # 1. Roll out the group plan and reward every completion, until enough groups pass the filter.
    progress = GroupsInProgress()
    groups: list[Group] = []
    for problems in batches:
        progress.extend(roll_out(run, problems, step, strength, clock))
        groups = passing_groups(progress, config)[: config.rollout.problems_per_step]
        if len(groups) == config.rollout.problems_per_step:
            break

    # 2. A completion's advantage is over its own group, all views together.
    advantages = group_advantages(groups, progress.rewards, config)

    # Now and then, measure the views on fresh completions too: with the weights that they were aimed at.
    before = policy.tokens_forward
    with clock("fresh"):
        fresh = measure_fresh(policy, progress, config, step, world)
    measured = policy.tokens_forward - before

    # 3. With the weights before the step's first update, on the image that `loss.train_view` names: old log-probs, the
    #    tokens that count, the entropy control's weights.
    with clock("old_logprobs"):
        evidence = gather_evidence(
            policy, run.reference, groups, advantages, progress, config, step, state, strength, world
        )

    # 4. Update. The step's groups are split among its updates, so that later ones are off-policy and clip.
    with clock("update"):
        updates: list[UpdateResult] = []
        set_learning_rate(run.optimizer, learning_rate(step, config))
        for number, part in enumerate(update_batches(groups, config.optim.updates_per_step)):
            generator = torch_generator(config.seed, "loss", step, number, device=str(policy.device))
            updates.append(
                update_policy(policy, run.optimizer, part, evidence, config, generator, first=number == 0, world=world)
            )
    run.updates += sum(not update.skipped for update in updates)

    # 5. Record, and let the controllers learn from the step.
    with clock("record"):
        facts = rollout_facts(progress, advantages, evidence, updates)
        attacks = attack_rows(step, progress.ledger, fresh)
        run.recorder.add("views", view_rows(step, facts, tuple(schema.VIEWS)))
        run.recorder.add("rollouts", rollout_rows(step, facts))
        run.recorder.add("attacks", attacks)
        save_strips(run.recorder, progress, step, config.record)
    spent = tokens_spent(run)
    forward, backward = world.sums(spent[0] - start[0] - measured, spent[1] - start[1])
    row = step_row(
        step,
        facts,
        attacks,
        updates,
        clock,
        updates=run.updates,
        lr=learning_rate(step, config),
        view_strength=shown_strength(config, strength),
        tokens_forward=forward,
        tokens_backward=backward,
    )
    remember(state, row["entropy"], evidence, config)
    return row


def tokens_spent(run: Run) -> tuple[int, int]:
    """Token positions so far through a forward pass of this process without, and with, backward; the reference
    policy's included.
    """
    reference = run.reference.tokens_forward if run.reference else 0
    return run.policy.tokens_forward + reference, run.policy.tokens_backward


def roll_out(run: Run, problems: Sequence[Problem], step: int, strength: float, clock: Clock) -> GroupsInProgress:
    """The group plan for one batch of problems, in order, and the grade of every completion.

    A later view may read the completions of earlier ones, and their rewards: an attack moves the image up the entropy
    of the tokens that a selection rule keeps of them.
    """
    config, policy, world = run.config, run.policy, run.world
    progress = GroupsInProgress.begin(policy, world.share(problems))
    for view, count in config.group_plan():
        with clock("attack"):
            make_view(policy, progress, view, count, config, step, strength, attack_thresholds(run.state))
        with clock("sample"):
            sample_view(policy, progress, view, count, config, step)
        with clock("reward"):
            grade_view(run.scorer, progress, view, config, world)
    with clock("sample"):  # of the slowest process
        return everyones(progress, problems, world)


def train(config: Config) -> dict[str, float]:
    """Train to `config.steps`, or continue where an earlier call was stopped. Returns the final scores.

    Raises BadInput for settings, data or models that cannot be used, RunBusy when another process holds the
    directory, KeyboardInterrupt when interrupted (also by SIGTERM); in every case the run directory can be continued.
    """
    check_names(config)
    torch.set_num_threads(config.threads)
    with joined() as world, claimed(Path(config.out), world), _sigterm_interrupts():
        with bad_input():
            recorder = recorder_of(config, world)
        world.agreed(recorder.trial_id, "their settings")
        if recorder.is_done():
            other = other_code(recorder.folder / schema.ENVIRONMENT_FILE)
            told = f" (it ran {other}, not the code of now; delete the folder to run again)" if other else ""
            recorder.log(f"{config.out} is finished; nothing to do{told}")
            return recorder.final_scores()
        device = world.device(config.model.device)
        with bad_input(), world.writer_first():
            model = replace(config.model, device=device)
            training = load_problems(config.data, config.data.train_split)
            policy = load_policy(model, config.data)
            problem_indices(config.seed, 0, config.rollout.problems_per_step, len(training))
            for split in final_splits(config):  # refused now, not after the last step
                load_problems(config.data, split)
            transfer_sets(config)
            reference = load_policy(model, config.data) if config.loss.kl_coef else None
        recorder.claim()  # only now: settings that cannot be used leave no folder behind that would refuse better ones
        optimizer = AdamW(
            [parameter for parameter in policy.model.parameters() if parameter.requires_grad],
            lr=config.optim.lr,
            betas=(0.9, config.optim.beta2),
            weight_decay=config.optim.weight_decay,
        )
        if world.is_writer:
            path = recorder.folder / schema.ENVIRONMENT_FILE
            write_json(path, environment(str(policy.device), path) | {"world_size": world.size})
        with Scorer(config.reward) as scorer:
            run = Run(config, policy, reference, optimizer, scorer, recorder, world=world)
            try:
                return _train_from(run, training, _resume(run))
            except KeyboardInterrupt:
                recorder.alarms(_alarms(run))
                recorder.status(schema.INTERRUPTED, step=_kept(recorder), message="interrupted; run again to continue")
                raise
            except Exception as error:
                recorder.alarms(_alarms(run))
                recorder.status(schema.FAILED, step=_kept(recorder), message=f"{type(error).__name__}: {error}")
                recorder.log(f"failed: {type(error).__name__}: {error}")
                raise


def _train_from(run: Run, training: ProblemSet, first: int) -> dict[str, float]:
    """The loop: evaluate, step, record, checkpoint; then the final evaluation and `DONE`."""
    config, recorder = run.config, run.recorder
    every = config.checkpoint.every
    batches_of = problem_batches(run.policy, recorder, training, config)
    for step in range(first, config.steps):
        if step == first or step % every == 0:
            recorder.open_part(step, min((step // every + 1) * every, config.steps) - 1)
        if config.eval.every and step % config.eval.every == 0:
            _validate(run, step)
        row = train_step(run, batches_of(step), step)
        recorder.add("steps", [row])
        recorder.flush()
        recorder.status(schema.RUNNING, step=step + 1, **{name: row[name] for name in STATUS_COLUMNS})
        done = step + 1
        if done % every == 0 or done == config.steps:
            _checkpoint(run, done)
            recorder.alarms(_alarms(run))

    recorder.open_part(config.steps, config.steps)
    final = _final_evaluation(run)
    recorder.flush()
    recorder.alarms(_alarms(run))
    if run.world.is_writer:
        run.policy.save(recorder.folder / schema.MODEL_FOLDER)
    recorder.done(final)
    run.world.barrier()  # no process has succeeded before the run is sealed
    recorder.status(schema.FINISHED, step=config.steps)
    recorder.log("done: " + ", ".join(f"{name} {value:.3f}" for name, value in final.items() if "/mean@" in name))
    return final


def final_splits(config: Config) -> dict[str, int]:
    """Splits of the evaluation after the last step, and how many problems of each (0: all)."""
    splits = {
        config.data.validation_split: config.eval.problems,
        config.data.test_split: config.eval.test_problems,
    }
    if config.eval.shifted_problems:
        splits |= dict.fromkeys(shifted_splits(config.data), config.eval.shifted_problems)
    return splits


STATUS_COLUMNS = ("reward", "reward_accuracy", "entropy", "attack_gain", "time_step")


def _evaluate(run: Run, split: str, count: int, step: int) -> list[dict[str, Any]]:
    """Rows of the first `count` problems (0: all) of a split of the run's own source."""
    return _evaluate_on(run, first_problems(load_problems(run.config.data, split), count), split, step)


def _evaluate_on(run: Run, problems: Sequence[Problem], split: str, step: int) -> list[dict[str, Any]]:
    rows = evaluate_split(run.policy, run.scorer, problems, run.config, split=split, step=step, world=run.world)
    run.recorder.add("eval", rows)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in scores(rows).items())
    run.recorder.log(f"step {step}: {shown}")
    return rows


def _validate(run: Run, step: int) -> None:
    """Evaluate on the validation split; `view.back_off` reads its rewards."""
    rows = _evaluate(run, run.config.data.validation_split, run.config.eval.problems, step)
    if run.config.view.back_off:
        sampled = [row for row in rows if row["decoding"] == schema.SAMPLED]
        weights = run.config.reward
        rewards = [weights.accuracy_weight * r["accuracy"] + weights.format_weight * r["format"] for r in sampled]
        back_off(run.state, sum(rewards) / len(rewards))


def _final_evaluation(run: Run) -> dict[str, float]:
    """Scores of every final split, of other sources, and of the test split under attack."""
    config, final = run.config, dict[str, float]()
    for split, count in final_splits(config).items():
        final |= scores(_evaluate(run, split, count, config.steps))
    for name, (data, split) in transfer_sets(config).items():
        problems = first_problems(load_problems(data, split), config.eval.shifted_problems or config.eval.problems)
        final |= scores(_evaluate_on(run, problems, name, config.steps))
    if config.eval.attacks:
        test = first_problems(load_problems(config.data, config.data.test_split), config.eval.attack_problems)
        rows = evaluate_under_attacks(run.policy, run.scorer, test, config, config.steps, run.world)
        run.recorder.add("eval", rows)
        final |= scores(rows)
    return final


def _alarms(run: Run) -> list[dict[str, Any]]:
    """What the detectors say of the run so far, from its own tables: the same after a resume."""
    recorder = run.recorder
    evaluations = evaluation_means(recorder.rows("eval"))
    return [asdict(alarm) for alarm in detect(recorder.rows("steps"), recorder.rows("views"), evaluations)]


def _checkpoint(run: Run, step: int) -> None:
    checksum = run.world.agreed(run.policy.checksum(), "the weights")
    if not run.world.is_writer:
        return
    cursor = Cursor(
        trial_id=run.recorder.trial_id,
        step=step,
        updates=run.updates,
        checksum=checksum,
        state=run.state.to_dict(),
    )
    folder = run.recorder.folder / schema.CHECKPOINTS_FOLDER
    save_checkpoint(folder, run.policy.model, run.optimizer, cursor, keep=run.config.checkpoint.keep)


def _kept(recorder: Recorder) -> int:
    """The step of the newest checkpoint: where the next launch continues."""
    found = checkpoints(recorder.folder / schema.CHECKPOINTS_FOLDER)
    return read_cursor(found[-1]).step if found else 0


def _resume(run: Run) -> int:
    """Load the newest checkpoint, forget everything later, and return the step to continue with."""
    found = run.world.from_writer(checkpoints(run.recorder.folder / schema.CHECKPOINTS_FOLDER))
    step = 0
    if found:
        cursor = load_checkpoint(found[-1], run.policy.model, run.optimizer, trial_id=run.recorder.trial_id)
        if run.policy.checksum() != cursor.checksum:
            raise RuntimeError(f"{found[-1]}: the weights do not have the recorded checksum; delete this checkpoint")
        run.updates, step, run.state = cursor.updates, cursor.step, RunState.from_dict(cursor.state)
        run.recorder.log(f"continuing from step {step}")
    run.recorder.forget_from(step)
    run.recorder.status(schema.RUNNING, step=step)
    return step


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: status written, files whole. Only in the main thread, as Python demands."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    config = train_command_line(arguments)
    if config is None:  # --list-presets
        return 0
    train(config)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
