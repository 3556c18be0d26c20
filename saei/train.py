"""GRPO with adversarial sampling (SaEI, arXiv 2512.10414): the step, the run around it, the command line.

Read `train_step` first: it is the method, in order. Every variant of it is a setting; nothing here knows a method's
name. `train(config)` is the one function that a sweep or a cluster job calls: it claims the run directory, continues
from the newest checkpoint, and seals the run with `DONE`.

    python -m saei.train --preset saei --steps 150 --seed 0 --out results/manual/saei-s0
    python -m saei.train --from results/tsec_ratio/<trial>     (the same trial once more)
"""

import sys

if __name__ == "__main__":
    from saei.loading import leave_quietly

    leave_quietly()

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saei import schema
from saei.again import asks_for_recorded, recorded_command_line
from saei.atomic import write_json
from saei.back_off import back_off
from saei.batches import problem_batches
from saei.checkpoint import expected_mb
from saei.cli import bad_input, run_main
from saei.clock import Clock
from saei.config import Config
from saei.credit import group_advantages, passing_groups, update_batches
from saei.data import ProblemSet, load_problems, shifted_splits
from saei.data.card import keep_data_card
from saei.data.transfer import transfer_sets
from saei.ending import ending_told, kept_step
from saei.engines.serving import engine_serving, renew
from saei.environment import environment, other_code
from saei.evaluate import evaluate_split, first_problems, scores
from saei.evidence import gather_evidence, with_scores
from saei.exhausted import in_plain_words
from saei.joining import joined
from saei.make_view import make_view
from saei.master_weights import master_dtype, optimizer_for, told_of_training
from saei.metrics import attack_rows, rollout_facts, rollout_rows, step_row, view_rows
from saei.options import check_names, train_command_line
from saei.order import problem_indices
from saei.policy import load_policy
from saei.recorder import claimed, recorder_of
from saei.reference import reference_policy
from saei.reward import Scorer
from saei.robustness import evaluate_under_attacks
from saei.rollout import GroupsInProgress, everyones, grade_view, measure_fresh, sample_view
from saei.run import (
    Run,
    alarms_of,
    cut_if_warned,
    progress_line,
    resume,
    save_model,
    save_run,
    show_life,
    stop_if_warned,
)
from saei.seeding import torch_generator
from saei.sharding import shard, whole
from saei.steer import attack_thresholds, remember, shown_strength, view_strength
from saei.stopping import until_warned
from saei.strips import save_strips
from saei.trackers import tracking
from saei.types import Group, Problem
from saei.update import UpdateResult, learning_rate, set_learning_rate, update_policy


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

    # 3. With the weights before the step's first update, on the image that `loss.train_view` names: old log-probs, if
    #    the first update does not find them by itself, the tokens that count, the entropy control's weights.
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
            evidence = with_scores(evidence, updates[-1].scores)
    run.updates += sum(not update.skipped for update in updates)

    # 5. Record, and let the controllers learn from the step.
    with clock("record"):
        facts = rollout_facts(progress, advantages, evidence, updates)
        attacks = attack_rows(step, progress.ledger, fresh)
        run.recorder.add("views", view_rows(step, facts, tuple(schema.VIEWS)))
        run.recorder.add("rollouts", rollout_rows(step, facts))
        run.recorder.add("attacks", attacks)
        save_strips(run.recorder, policy, progress, step, config.record)
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
    with clock("sync"):  # of the weights with an engine that samples in another process
        renew(policy, run.updates, due=step % config.rollout.engine_sync_every == 0)
    progress = GroupsInProgress.begin(policy, world.share(problems))
    with whole(policy):
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
    folder = Path(config.out)
    with until_warned() as stopping, in_plain_words(config), joined() as world, claimed(folder, world):
        with bad_input():
            recorder = recorder_of(config, world)
        world.agreed(recorder.trial_id, "their settings")
        if recorder.is_done():
            other = other_code(folder / schema.ENVIRONMENT_FILE)
            told = f" (it ran {other}, not the code of now; delete the folder to run again)" if other else ""
            recorder.log(f"{config.out} is finished; nothing to do{told}")
            return recorder.final_scores()
        with ending_told(recorder) as ending:
            ending.alarms = lambda: recorder.alarms(alarms_of(recorder))
            if (folder / schema.CONFIG_FILE).exists():
                recorder.status(schema.RUNNING, step=kept_step(recorder), message="starting")
            device = world.device(config.model.device)
            with bad_input(), world.writer_first():
                sharded = config.distributed.strategy == "shard" and world.size > 1
                model, held_on = replace(config.model, device=device), "cpu" if sharded else None
                training = load_problems(config.data, config.data.train_split)
                policy = load_policy(model, config.data, config.seed, held_on)
                problem_indices(config.seed, 0, config.rollout.problems_per_step, len(training))
                for split in final_splits(config):  # refused now, not after the last step
                    load_problems(config.data, split)
                transfer_sets(config)
                reference = reference_policy(policy, model, config.data, held_on) if config.loss.kl_coef else None
            with bad_input():
                if sharded:
                    shard(policy, world, device, master_dtype(policy.model.dtype, config.optim))
                    shard(reference, world, device)
            recorder.claim()  # only now: settings that cannot be used leave no folder that would refuse better ones
            optimizer = optimizer_for(policy.model, config.optim)
            ending.checkpoint_mb = expected_mb(policy.model, optimizer)
            for line in told_of_training(policy.model, optimizer, config.optim):
                recorder.log(line)
            recorder.standing.facts |= {"world_size": world.size, "gpus": world.size * (policy.device.type == "cuda")}
            if world.is_writer:
                path = folder / schema.ENVIRONMENT_FILE
                write_json(path, environment(str(policy.device), path) | {"world_size": world.size})
            with Scorer(config.reward) as scorer, tracking(config, recorder, world) as trackers:
                if world.is_writer:
                    keep_data_card(folder / schema.DATA_CARD_FILE, config.data, scorer)
                run = Run(config, policy, reference, optimizer, scorer, recorder, world=world)
                run.stopping, run.trackers = stopping, trackers
                return _train_from(run, training, resume(run))


def _train_from(run: Run, training: ProblemSet, first: int) -> dict[str, float]:
    """The loop, with an engine where the settings ask for one."""
    with engine_serving(
        run.policy,
        run.config.rollout,
        run.config.model,
        run.updates,
        out=run.config.out,
        rank=run.world.rank,
        log=run.recorder.log,
        between=show_life(run),
    ):
        return _loop(run, training, first)


def _loop(run: Run, training: ProblemSet, first: int) -> dict[str, float]:
    """Evaluate, step, record, checkpoint; then the final evaluation and `DONE`."""
    config, recorder = run.config, run.recorder
    every = config.checkpoint.every
    batches_of = problem_batches(run.policy, recorder, training, config)
    began = time.monotonic()
    for step in range(first, config.steps):
        stop_if_warned(run, step)
        if step == first or step % every == 0:
            recorder.open_part(step, min((step // every + 1) * every, config.steps) - 1)
        if config.eval.every and step % config.eval.every == 0:
            _validate(run, step)
        row = train_step(run, batches_of(step), step)
        recorder.add("steps", [row])
        recorder.flush()
        done = step + 1
        recorder.status(schema.RUNNING, step=done, **{name: row[name] for name in STATUS_COLUMNS})
        run.trackers.step(row)
        if step == first or recorder.silent_s > SILENT_S:
            recorder.log(progress_line(row, config.steps, (time.monotonic() - began) / (done - first)))
        if done % every == 0 or done == config.steps:
            save_run(run, done)
            recorder.alarms(alarms_of(recorder))

    stop_if_warned(run, config.steps)
    recorder.open_part(config.steps, config.steps)
    final = _final_evaluation(run)
    recorder.flush()
    recorder.alarms(alarms_of(recorder))
    save_model(run)
    recorder.done(final)
    run.world.barrier()  # no process has succeeded before the run is sealed
    recorder.status(schema.FINISHED, step=config.steps)
    recorder.log("done: " + ", ".join(f"{name} {value:.3f}" for name, value in final.items() if "/mean@" in name))
    run.trackers.scores(final, config.steps)
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
SILENT_S = 30.0
"""After so many seconds without a line in the log, the next step writes one."""


def _evaluate(run: Run, split: str, count: int, step: int) -> list[dict[str, Any]]:
    """Rows of the first `count` problems (0: all) of a split of the run's own source."""
    return _evaluate_on(run, first_problems(load_problems(run.config.data, split), count), split, step)


def _evaluate_on(run: Run, problems: Sequence[Problem], split: str, step: int) -> list[dict[str, Any]]:
    recorder = run.recorder
    stop_if_warned(run, step)
    recorder.status(schema.RUNNING, step=step, message=f"evaluating {split}")
    renew(run.policy, run.updates, due=run.config.eval.engine != "transformers")
    with cut_if_warned(run, step):
        rows = evaluate_split(run.policy, run.scorer, problems, run.config, split=split, step=step, world=run.world)
    recorder.add("eval", rows)
    found = scores(rows)
    if split == run.config.data.validation_split:
        recorder.standing.facts |= {"metric": found[f"{split}/mean@{run.config.eval.samples}"], "metric_step": step}
    recorder.log(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return rows


def _validate(run: Run, step: int) -> None:
    """Evaluate on the validation split; `view.back_off` reads its rewards."""
    rows = _evaluate(run, run.config.data.validation_split, run.config.eval.problems, step)
    run.trackers.scores(scores(rows), step)
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
        run.recorder.status(schema.RUNNING, step=config.steps, message="evaluating under attack")
        with cut_if_warned(run, config.steps):
            rows = evaluate_under_attacks(run.policy, run.scorer, test, config, config.steps, run.world)
        run.recorder.add("eval", rows)
        final |= scores(rows)
    return final


def _put_back(config: Config) -> Any:
    """What submitit runs after a requeue: the same call, which continues from the newest checkpoint."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(train, config)


train.checkpoint = _put_back  # pyright: ignore[reportFunctionMemberAccess]


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    config = recorded_command_line(words) if asks_for_recorded(words) else train_command_line(words)
    if config is None:  # --list-presets
        return 0
    train(config)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
