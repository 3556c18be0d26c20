"""The logs of a TRL run -> the frames that our figures take: steps, views, rollouts, validation scores.

TRL 1.16's GRPOTrainer leaves `trainer_state.json` in every checkpoint (and, after `trainer.save_state()`, in its output
folder) and, with `log_completions`, `completions/completions_<step>.parquet`. Its names are mapped to ours where they
mean the same: `entropy` is the full-vocabulary entropy of both (nats, rollout temperature, token-weighted, on the image
of the update). What TRL does not log is NaN. Figures by view are there for runs with `saei.integrations.trl`.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.trl_completions import read_completions
from saei import schema

STEP_NAMES = {
    "lr": "learning_rate", "reward": "reward", "entropy": "entropy", "completion_length": "completions/mean_length",
    "truncated_share": "completions/clipped_ratio", "zero_signal_share": "frac_reward_zero_std", "loss": "loss",
    "clip_low_share": "clip_ratio/low_mean", "clip_high_share": "clip_ratio/high_mean", "kl": "kl",
    "grad_norm": "grad_norm", "control_coef": "entropy_coef", "attack_gain": "attack/gain",
    "attack_linf": "attack/linf", "attack_moved_share": "attack/moved_share", "time_step": "step_time",
}  # fmt: skip
"""Column of `steps` -> key of a row of TRL's log that means the same."""
VIEW_NAMES = ("reward", "entropy_sampled_image", "completion_length")
"""Columns of `views` that a log row has as views/<view>/<column>."""
VIEW_KEY = re.compile(r"views/(?P<view>[^/]+)/(?P<name>.+)")
REWARD_KEY = re.compile(r"rewards/(?P<name>.+)/mean")
STATE_FILE = "trainer_state.json"
EVALUATED = "eval_"


@dataclass(kw_only=True)
class TrlRuns:
    """Frames with `arm` (ordered, the first is the baseline), `seed` (number of the run in its arm), `trial_id` (its
    folder) and `state`, as `SweepData.table` has them.

    `steps`, `views` and `rollouts` have the columns of `saei.schema`, in `rollouts` also attack_linf, attack_l2 and
    attack_gain; `scores` those of `stats.scores`, for `plots.accuracy_over_steps`. A row of `steps` is a row of TRL's
    log: with logging_steps k, the mean over the k steps that end there. `notes` say what is not in them, and why.
    """

    steps: pd.DataFrame
    views: pd.DataFrame
    rollouts: pd.DataFrame
    scores: pd.DataFrame
    notes: tuple[str, ...]


def load_trl(
    runs: str | Path | Mapping[str, str | Path | Sequence[str | Path]],
    *,
    accuracy: str | None = None,
    samples: int | None = None,
    reward_weights: Mapping[str, float] | None = None,
) -> TrlRuns:
    """Read one output folder of TRL, or {arm: folder or folders} to compare arms, the baseline first.

    `accuracy` names the reward function that says whether an answer is right (default: the one with "accuracy" in its
    name); `samples` is num_generations_eval, where the log does not tell it; `reward_weights` those of GRPOConfig, by
    function, where not all are 1. Raises ValueError for a folder without a log.
    """
    arms = runs if isinstance(runs, Mapping) else {Path(runs).name or str(runs): runs}
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in ("steps", "views", "rollouts", "scores")}
    notes: list[str] = []
    for arm, own in arms.items():
        for seed, folder in enumerate([own] if isinstance(own, str | Path) else own):
            run = _Run(Path(folder), accuracy, samples, dict(reward_weights or {}), notes)
            facts = {"arm": arm, "seed": seed, "trial_id": str(folder), "state": run.state}
            for name, rows in run.frames().items():
                frames[name].append(rows.assign(**facts))
    if not frames["steps"]:
        raise ValueError("load_trl: no run given; name an output folder of TRL, or {arm: [folders]}")
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    for frame in joined.values():
        frame["arm"] = pd.Categorical(frame["arm"], categories=list(arms), ordered=True)
    return TrlRuns(**joined, notes=tuple(notes))


class _Run:
    """One output folder; what is left out of its frames is said in `notes`."""

    def __init__(
        self, folder: Path, accuracy: str | None, samples: int | None, weights: dict[str, float], notes: list[str]
    ) -> None:
        self.folder, self.notes, self.samples, self.weights = folder, notes, samples, weights
        history, self.state = _history(folder, notes)
        self.trained = {row["step"]: row for row in history if "loss" in row}
        self.evaluated = {row["step"]: row for row in history if f"{EVALUATED}reward" in row}
        keys = {key for row in history for key in row}
        self.functions = sorted({m["name"] for key in keys if (m := REWARD_KEY.fullmatch(key))})
        self.accuracy = self._function(accuracy, "accuracy")
        self.format = self._function(None, "format")

    def _function(self, named: str | None, word: str) -> str | None:
        if named is not None and named not in self.functions:
            known = ", ".join(self.functions) or "none"
            raise ValueError(f"accuracy={named!r} is no reward function of {self.folder}, which has {known}")
        fitting = [name for name in self.functions if word in name.lower()]
        return named or (fitting[0] if len(fitting) == 1 else None)

    def frames(self) -> dict[str, pd.DataFrame]:
        rollouts, notes = read_completions(
            self.folder / "completions",
            self.functions,
            weights=self.weights,
            accuracy=self.accuracy,
            format_=self.format,
            mixed=set(self.evaluated),
        )
        self.notes += notes
        return {
            "steps": self._steps(),
            "views": self._views(),
            "rollouts": rollouts,
            "scores": self._scores(),
        }

    def _steps(self) -> pd.DataFrame:
        rows = []
        for step, row in sorted(self.trained.items()):
            known = {ours: _number(row.get(theirs)) for ours, theirs in STEP_NAMES.items()}
            for column, function in (("reward_accuracy", self.accuracy), ("reward_format", self.format)):
                known[column] = _number(row.get(f"rewards/{function}/mean"))
            # ours counts from 0 and names a step by the weights it began with
            rows.append({**dict.fromkeys(schema.STEPS, math.nan), **known, "step": step - 1, "updates": step})
        return pd.DataFrame(rows, columns=list(schema.STEPS))

    def _views(self) -> pd.DataFrame:
        rows: dict[tuple[int, str], dict[str, Any]] = {}
        for step, row in sorted(self.trained.items()):
            for key, value in row.items():
                if found := VIEW_KEY.fullmatch(key):
                    empty = {**dict.fromkeys(schema.VIEWS, math.nan), "step": step - 1, "view": found["view"]}
                    own = rows.setdefault((step, found["view"]), empty)
                    parts = {self.accuracy: "reward_accuracy", self.format: "reward_format"}
                    name = found["name"] if found["name"] in VIEW_NAMES else parts.get(found["name"])
                    if name:
                        own[name] = _number(value)
        return pd.DataFrame(list(rows.values()), columns=list(schema.VIEWS))

    def _scores(self) -> pd.DataFrame:
        columns = ["step", "items", "samples", "accuracy", "item_set"]
        rows = []
        for step, row in sorted(self.evaluated.items()):
            samples = self.samples or _number(row.get(f"{EVALUATED}group_size"))
            accuracy = _number(row.get(f"{EVALUATED}rewards/{self.accuracy}/mean"))
            if not math.isnan(accuracy) and not math.isnan(samples):
                rows.append([step, math.nan, int(samples), accuracy, 0])
        if self.evaluated and not rows:
            self.notes.append(
                f"{self.folder}: evaluations are left out, for which reward is the accuracy or how many completions a "
                "problem has is not told: pass accuracy=NAME and samples=num_generations_eval"
            )
        return pd.DataFrame(rows, columns=columns)


def _history(folder: Path, notes: list[str]) -> tuple[list[dict[str, Any]], str]:
    """Rows of the newest log that can be read, and the state of the run."""
    states = []
    for path in [folder / STATE_FILE, *sorted(folder.glob(f"checkpoint-*/{STATE_FILE}"))]:
        try:
            tree = json.loads(path.read_text())
            rows = [row for row in tree["log_history"] if isinstance(row, dict) and isinstance(row.get("step"), int)]
            states.append((int(tree["global_step"]), rows, int(tree.get("max_steps") or 0)))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{path} is left out: it is no whole trainer state ({type(error).__name__})")
    if not states:
        raise ValueError(
            f"{folder} has no {STATE_FILE}, nor a checkpoint with one: TRL writes it with each checkpoint "
            "(save_strategy, save_steps), or by trainer.save_state() after training"
        )
    done, rows, last = max(states, key=lambda state: (state[0], len(state[1])))
    return rows, schema.FINISHED if last and done >= last else schema.RUNNING


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
