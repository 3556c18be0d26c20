"""What is told of sampled completions inside TRL: columns for reward functions and tables, figures for the logs.

In a log row: `attack/entropy_before`, `attack/entropy_after`, `attack/gain` (kept tokens, nats), `attack/linf`,
`attack/moved_share`; of each view `views/<view>/` with `entropy_sampled_image`, `completion_length`, `reward` and the
mean of every reward function by its name; and `group_size`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback

from saei.rollout import GroupsInProgress
from saei.types import AttackRow, Rollout

COLUMNS = ("view", "entropy_sampled_image", "attack_linf", "attack_l2", "attack_gain", "image_hash")
"""Columns of every completion: for the keyword arguments of reward functions and the table of completions.

`entropy_sampled_image`: mean over its tokens, nats, rollout temperature, on the image it was sampled on; `attack_linf`
and `attack_l2`: of that image against the clean one, [0, 1] units, 0 for clean completions; `attack_gain`: entropy of
the kept tokens on the moved image minus clean (nats), NaN where the view reads no entropy; `image_hash`: of that image.
"""

ROLLOUT = "rollout"
"""One column of the table of completions with everything of COLUMNS but the view, and with `problem_id`, `index` (in
the group), `step` (rollout batches before this one), `phase` (train or eval), `tokens`, `finished`, `sampler_nll` and
`removed_mass` (means over tokens): TRL prints every column, and fifteen narrow ones cannot be read."""


def completion_columns(progress: GroupsInProgress) -> dict[str, list[Any]]:
    """COLUMNS of all completions, group after group, in plan order."""
    rows: dict[tuple[str, str], list[AttackRow]] = defaultdict(list)
    for row in progress.ledger:
        rows[row.view, row.problem_id].append(row)
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for rollouts in progress.rollouts:
        sampled = defaultdict[str, int](int)
        for rollout in rollouts:
            moves = rows[rollout.view, rollout.problem_id]
            # one moved image for all, or one for each completion in turn (view.adv_per)
            move = moves[sampled[rollout.view] % len(moves)] if moves else None
            sampled[rollout.view] += 1
            known = (
                rollout.view,
                float(rollout.completion.sampler_entropy.mean()),
                move.linf if move else 0.0,
                move.l2 if move else 0.0,
                move.entropy_after - move.entropy_before if move else math.nan,
                rollout.image_hash,
            )
            for name, value in zip(COLUMNS, known, strict=True):
                columns[name].append(value)
    return columns


def report(
    trainer: Any, progress: GroupsInProgress, columns: dict[str, list[Any]], *, step: int, training: bool
) -> None:
    """Give the table of completions its columns and the log the figures that are known before any reward.

    By the doors that TRL opens to reward functions, which are emptied with the rewards of this batch.
    """
    rollouts = [rollout for group in progress.rollouts for rollout in group]
    facts = [
        {
            "problem_id": rollout.problem_id,
            "index": rollout.index,
            "step": step,
            "phase": "train" if training else "eval",
            "tokens": len(rollout.token_ids),
            "finished": rollout.completion.finished,
            "sampler_nll": -float(rollout.completion.sampler_logprobs.mean()),
            "removed_mass": float(rollout.completion.removed_mass.mean()),
            **{name: values[number] for name, values in columns.items() if name != "view"},
        }
        for number, rollout in enumerate(rollouts)
    ]
    trainer._log_completion_extra("view", columns["view"])
    trainer._log_completion_extra(ROLLOUT, facts)
    size = float(len(progress.rollouts[0]))
    figures = {"group_size": size, **_attack_figures(progress.ledger), **_view_figures(rollouts)}
    for name, value in figures.items():
        if not math.isnan(value):
            trainer._log_metric(name, value)


def _attack_figures(ledger: Sequence[AttackRow]) -> dict[str, float]:
    """Means over attacked prompts, of the L-infinity norm the largest."""
    if not ledger:
        return {}
    known = [row for row in ledger if not math.isnan(row.entropy_before)]
    return {
        "attack/entropy_before": _mean([row.entropy_before for row in known]),
        "attack/entropy_after": _mean([row.entropy_after for row in known]),
        "attack/gain": _mean([row.entropy_after - row.entropy_before for row in known]),
        "attack/linf": max(row.linf for row in ledger),
        "attack/moved_share": _mean([float(row.moved) for row in ledger]),
    }


def _view_figures(rollouts: Sequence[Rollout]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for view in dict.fromkeys(rollout.view for rollout in rollouts):
        own = [rollout.completion for rollout in rollouts if rollout.view == view]
        tokens = sum(len(completion.token_ids) for completion in own)
        entropy = math.fsum(float(completion.sampler_entropy.sum()) for completion in own)
        figures[f"views/{view}/entropy_sampled_image"] = entropy / tokens
        figures[f"views/{view}/completion_length"] = tokens / len(own)
    return figures


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


class ByView(TrainerCallback):
    """Adds the rewards of each view to the log, after each batch of rollouts has been rewarded."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.fresh = 0
        """Completions that were rewarded since the last look."""

    @classmethod
    def watch(cls, trainer: Any, completions: int) -> None:
        """Look at the next `completions` rewards of this trainer; it gets the callback with the first."""
        callbacks = trainer.callback_handler.callbacks
        own = next((callback for callback in callbacks if isinstance(callback, cls)), None)
        if own is None:
            own = cls(trainer)
            trainer.add_callback(own)
        own.fresh = completions

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Append the means of the newest rewards to the metrics that TRL averages at its next log."""
        if not self.fresh:
            return
        logs, metrics = self.trainer._logs, self.trainer._metrics["train"]
        views = list(logs["extra"]["view"])[-self.fresh :]
        names = self.trainer.reward_func_names
        rewards = np.array([list(logs["rewards"][name])[-self.fresh :] for name in names], dtype=float)
        self.fresh = 0
        weighted = rewards * self.trainer.reward_weights.cpu().numpy()[:, None]
        for view in dict.fromkeys(views):
            own = np.array([other == view for other in views])
            scored = own & ~np.isnan(rewards).all(axis=0)
            if scored.any():
                metrics[f"views/{view}/reward"].append(float(np.nansum(weighted[:, scored], axis=0).mean()))
            for name, values in zip(names, rewards, strict=True):
                counted = values[own & ~np.isnan(values)]
                if len(counted):
                    metrics[f"views/{view}/{name}"].append(float(counted.mean()))
