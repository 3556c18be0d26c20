"""GRPO with adversarial sampling (SaEI, arXiv 2512.10414): the step, the run around it, the command line.

Read `train_step` first: it is the method, in order. Every variant of it is a setting; nothing here knows a method's
name. `train(config)` is the one function that a sweep or a cluster job calls: it claims the run directory, continues
from the newest checkpoint, and seals the run with `DONE`.

    python -m saei.train --preset saei --steps 150 --seed 0 --out results/manual/saei-s0
"""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from saei import schema
from saei.checkpoint import Cursor, checkpoints, load_checkpoint, read_cursor, save_checkpoint
from saei.cli import BadInput, bad_input, run_main
from saei.clock import Clock
from saei.config import Config
from saei.credit import grade_groups, group_advantages
from saei.data import ProblemSet, load_problems, shifted_splits
from saei.environment import environment
from saei.evaluate import evaluate_split, first_problems, scores
from saei.metrics import attack_rows, rollout_facts, rollout_rows, step_row, view_rows
from saei.options import check_names, train_command_line
from saei.order import problem_indices
from saei.policy import Policy, load_policy
from saei.recorder import Recorder, run_lock, write_json
from saei.reward import Scorer
from saei.rollout import GroupsInProgress, make_view, measure_fresh, sample_view
from saei.strips import save_strips
from saei.types import Problem
from saei.update import UpdateResult, learning_rate, score_rollouts, set_learning_rate, update_policy


@dataclass(slots=True)
class Run:
    """The living parts of one run. `updates` counts optimizer updates; `step` is the loop's own."""

    config: Config
    policy: Policy
    reference: Policy | None
    optimizer: Optimizer
    scorer: Scorer
    recorder: Recorder
    updates: int = 0


def train_step(run: Run, problems: Sequence[Problem], step: int) -> dict[str, Any]:
    """One rollout batch with all its updates: the whole method, in order. Returns the row of the `steps` table."""
    config, policy, clock = run.config, run.policy, Clock()
    spent = policy.tokens_forward, policy.tokens_backward

    # 1. Roll out the group plan. A later view may read the completions of earlier ones: EgAS moves the image up the
    #    entropy of the tokens that TsEC selects from the clean completions.
    progress = GroupsInProgress.begin(policy, problems)
    for view, count in config.group_plan():
        with clock("attack"):
            make_view(policy, progress, view, config, step)
        with clock("sample"):
            sample_view(policy, progress, view, count, config, step)
    groups = progress.groups()

    # 2. Reward every completion; its advantage is over its own group, all views together.
    with clock("reward"):
        grades = grade_groups(run.scorer, groups, config)
        rewards = {key: run.scorer.reward(grade) for key, grade in grades.items()}
        advantages = group_advantages(groups, rewards, config)

    # Now and then, measure the attack on fresh completions too: with the weights that it was aimed at.
    with clock("fresh"):
        fresh = measure_fresh(policy, progress, config, step)

    # 3. Old log-probs, with the weights before the step's first update, on the image that `loss.train_view` names.
    with clock("old_logprobs"):
        old = score_rollouts(policy, groups, config)
        reference = score_rollouts(run.reference, groups, config) if run.reference else None

    # 4. Update. The step's problems are split among its updates, so that later ones are off-policy and clip.
    with clock("update"):
        updates: list[UpdateResult] = []
        set_learning_rate(run.optimizer, learning_rate(step, config))
        size = len(groups) // config.optim.updates_per_step
        for first in range(0, len(groups), size):
            part = groups[first : first + size]
            updates.append(update_policy(policy, run.optimizer, part, advantages, old, reference, config))
    run.updates += sum(not update.skipped for update in updates)
    spent = policy.tokens_forward - spent[0], policy.tokens_backward - spent[1]

    # 5. Record.
    with clock("record"):
        facts = rollout_facts(groups, grades, rewards, advantages, old, updates)
        attacks = attack_rows(step, progress.ledger, fresh)
        run.recorder.add("views", view_rows(step, facts, tuple(schema.VIEWS)))
        run.recorder.add("rollouts", rollout_rows(step, facts))
        run.recorder.add("attacks", attacks)
        save_strips(run.recorder.folder / schema.IMAGES_FOLDER, progress, step, config.record)
    return step_row(step, facts, attacks, updates, run.updates, spent, learning_rate(step, config), clock)


def train(config: Config) -> dict[str, float]:
    """Train to `config.steps`, or continue where an earlier call was stopped. Returns the final scores.

    Raises BadInput for settings, data or models that cannot be used, RunBusy when another process holds the
    directory, KeyboardInterrupt when interrupted (also by SIGTERM); in every case the run directory can be continued.
    """
    check_names(config)
    torch.set_num_threads(config.threads)
    try:
        Path(config.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"out: {config.out} cannot be made a folder ({error.strerror}); choose another --out") from error
    with run_lock(Path(config.out)), _sigterm_interrupts():
        with bad_input():
            recorder = Recorder(config)
        if recorder.is_done():
            recorder.log(f"{config.out} is finished; nothing to do")
            return recorder.final_scores()
        with bad_input():
            training = load_problems(config.data, config.data.train_split)
            policy = load_policy(config.model, config.data)
            problem_indices(config.seed, 0, config.rollout.problems_per_step, len(training))
            for split in final_splits(config):  # refused now, not after the last step
                load_problems(config.data, split)
            reference = load_policy(config.model, config.data) if config.loss.kl_coef else None
        recorder.claim()  # only now: settings that cannot be used leave no folder behind that would refuse better ones
        optimizer = AdamW(
            [parameter for parameter in policy.model.parameters() if parameter.requires_grad],
            lr=config.optim.lr,
            betas=(0.9, config.optim.beta2),
            weight_decay=config.optim.weight_decay,
        )
        path = recorder.folder / schema.ENVIRONMENT_FILE
        write_json(path, environment(str(policy.device), path))
        with Scorer(config.reward) as scorer:
            run = Run(config, policy, reference, optimizer, scorer, recorder)
            try:
                return _train_from(run, training, _resume(run))
            except KeyboardInterrupt:
                recorder.status(schema.INTERRUPTED, step=_kept(recorder), message="interrupted; run again to continue")
                raise
            except Exception as error:
                recorder.status(schema.FAILED, step=_kept(recorder), message=f"{type(error).__name__}: {error}")
                recorder.log(f"failed: {type(error).__name__}: {error}")
                raise


def _train_from(run: Run, training: ProblemSet, first: int) -> dict[str, float]:
    """The loop: evaluate, step, record, checkpoint; then the final evaluation and `DONE`."""
    config, recorder = run.config, run.recorder
    every = config.checkpoint.every
    for step in range(first, config.steps):
        if step == first or step % every == 0:
            recorder.open_part(step, min((step // every + 1) * every, config.steps) - 1)
        if config.eval.every and step % config.eval.every == 0:
            _evaluate(run, config.data.validation_split, config.eval.problems, step)
        indices = problem_indices(config.seed, step, config.rollout.problems_per_step, len(training))
        row = train_step(run, [training[i] for i in indices], step)
        recorder.add("steps", [row])
        recorder.flush()
        recorder.status(schema.RUNNING, step=step + 1, **{name: row[name] for name in STATUS_COLUMNS})
        done = step + 1
        if done % every == 0 or done == config.steps:
            _checkpoint(run, done)

    recorder.open_part(config.steps, config.steps)
    final: dict[str, float] = {}
    for split, count in final_splits(config).items():
        final |= _evaluate(run, split, count, config.steps)
    recorder.flush()
    run.policy.save(recorder.folder / schema.MODEL_FOLDER)
    recorder.done(final)
    recorder.status(schema.FINISHED, step=config.steps)
    recorder.log("done: " + ", ".join(f"{name} {value:.3f}" for name, value in final.items() if "@" in name))
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


def _evaluate(run: Run, split: str, count: int, step: int) -> dict[str, float]:
    problems = first_problems(load_problems(run.config.data, split), count)
    rows = evaluate_split(run.policy, run.scorer, problems, run.config, split=split, step=step)
    run.recorder.add("eval", rows)
    result = scores(rows)
    run.recorder.log(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in result.items()))
    return result


def _checkpoint(run: Run, step: int) -> None:
    cursor = Cursor(trial_id=run.recorder.trial_id, step=step, updates=run.updates, checksum=run.policy.checksum())
    folder = run.recorder.folder / schema.CHECKPOINTS_FOLDER
    save_checkpoint(folder, run.policy.model, run.optimizer, cursor, keep=run.config.checkpoint.keep)


def _kept(recorder: Recorder) -> int:
    """The step of the newest checkpoint: where the next launch continues."""
    found = checkpoints(recorder.folder / schema.CHECKPOINTS_FOLDER)
    return read_cursor(found[-1]).step if found else 0


def _resume(run: Run) -> int:
    """Load the newest checkpoint, forget everything later, and return the step to continue with."""
    found = checkpoints(run.recorder.folder / schema.CHECKPOINTS_FOLDER)
    step = 0
    if found:
        cursor = load_checkpoint(found[-1], run.policy.model, run.optimizer, trial_id=run.recorder.trial_id)
        if run.policy.checksum() != cursor.checksum:
            raise RuntimeError(f"{found[-1]}: the weights do not have the recorded checksum; delete this checkpoint")
        run.updates, step = cursor.updates, cursor.step
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
