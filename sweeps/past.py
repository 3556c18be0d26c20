"""What did trials like this one take? Times of past runs, from their run directories.

A run's time is its steps and the rest: start-up, evaluations, checkpoints. The rest is counted per evaluated problem,
so that runs of other lengths can be compared.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from saei import schema
from saei.config import Config, to_dict
from sweeps.trial import read_json, read_status

DEFAULT_STEP_S = {"tiny": 1.5}
OTHER_STEP_S = 60.0
"""Seconds per step where no like run was found: the tiny model on one CPU thread, and a guess for others."""
DEFAULT_REST = 0.3
"""Start-up and evaluation as a share of the steps where no past run says it."""
ALL_PROBLEMS = 1000
"""Stands for `eval.test_problems 0`, all problems of the split."""
MOST_RUNS = 12
"""Runs of a kind whose tables are read, the newest first."""

SIZE = ("model", "data", "eval", "threads")
NO_SIZE = {"data": ("path", "seed"), "model": ("revision",), "eval": ("every",)}
"""Entries of those groups that do not change how long a step or an evaluated problem takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Seconds per step and, beside the steps, per evaluated problem (NaN: no past run says it); `runs`: of how many.

    `source`: where they come from, in words. `foreign`: the question is about a cluster, the runs are not from one.
    """

    step_s: float
    problem_s: float
    runs: int
    source: str
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class _Run:
    folder: Path
    config: Mapping[str, Any]
    on_cluster: bool


class PastRuns:
    """All runs under a results folder; only what is asked for is read further.

    `on_slurm`: prefer runs of a cluster, else runs of no cluster. `processes`: of a trial; runs with another number are
    no measure.
    """

    def __init__(self, results: Path, *, on_slurm: bool = False, processes: int = 1) -> None:
        self._on_slurm = on_slurm
        self._by_size: dict[str, list[_Run]] = defaultdict(list)
        self._known: dict[str, Figures] = {}
        for path in sorted(results.glob(f"*/*/{schema.CONFIG_FILE}"), key=_written, reverse=True):
            config = read_json(path).get("config")
            if not isinstance(config, dict):
                continue
            found = read_status(path.parent)
            if found.get("world_size", 1) == processes:
                self._by_size[size(config)].append(_Run(path.parent, config, bool(found.get("job"))))

    def figures(self, config: Config) -> Figures:
        """Of runs that do the same work; else of the same model at the same size; else a default."""
        tree = to_dict(config)
        key = work(tree)
        if key not in self._known:
            self._known[key] = self._figures(tree, key)
        return self._known[key]

    def _figures(self, tree: Mapping[str, Any], key: str) -> Figures:
        model = tree["model"]["path"]
        like = self._by_size.get(size(tree), [])
        for runs, words in (
            ([run for run in like if work(run.config) == key], "of the same work"),
            (like, "of the same size with other methods"),
        ):
            for wanted in (self._on_slurm, not self._on_slurm):
                chosen = [run for run in runs if run.on_cluster == wanted]
                measured = [time for run in chosen[:MOST_RUNS] if (time := _measured(run))]
                if measured:
                    rests = [rest for _, rest in measured if not math.isnan(rest)]
                    return Figures(
                        step_s=median(step for step, _ in measured),
                        problem_s=median(rests) if rests else math.nan,
                        runs=len(measured),
                        source=f"the median of {len(measured)} past runs of {model} {words}",
                        foreign=wanted != self._on_slurm,
                    )
        step_s = DEFAULT_STEP_S.get(model, OTHER_STEP_S)
        source = f"a default, for want of past runs of {model} at this size"
        return Figures(step_s=step_s, problem_s=math.nan, runs=0, source=source, foreign=self._on_slurm)

    def seconds(self, config: Config, *, from_step: int = 0) -> float:
        """What a trial still takes from `from_step` on: its steps, the evaluations after it, and start-up."""
        found = self.figures(config)
        tree = to_dict(config)
        steps_s = (config.steps - from_step) * found.step_s
        if math.isnan(found.problem_s):
            return steps_s * (1 + DEFAULT_REST)
        return steps_s + evaluated(tree, from_step) * found.problem_s


def size(tree: Mapping[str, Any]) -> str:
    """What makes two runs as large: model, data, completions of a step, evaluation. As a key."""
    rollout = tree.get("rollout", {})
    groups = {name: _without(tree.get(name, {}), NO_SIZE.get(name, ())) for name in SIZE}
    plan = [int(entry.split(":")[1]) for entry in rollout.get("plan") or []]
    count = sum(plan) or rollout.get("n_clean", 0) + rollout.get("n_view", 0)
    more = {"group": count, **{name: rollout.get(name) for name in ("problems_per_step", "max_new_tokens")}}
    return json.dumps({**groups, **more}, sort_keys=True, default=str)


def work(tree: Mapping[str, Any]) -> str:
    """`size`, and what a step does beside sampling: views, their iterations, filters, updates, a reference policy."""
    rollout, view = tree.get("rollout", {}), tree.get("view", {})
    views = rollout.get("plan") or [f"clean:{rollout.get('n_clean')}", f"{view.get('name')}:{rollout.get('n_view')}"]
    views = [entry for entry in views if not entry.endswith(":0")]
    more = {
        "views": views,
        "iterations": view.get("iterations") if len(views) > 1 else None,
        "filter": tree.get("filter", {}),
        "updates": tree.get("optim", {}).get("updates_per_step"),
        "reference": bool(tree.get("loss", {}).get("kl_coef")),
        "score": tree.get("score", {}).get("view"),
        "fresh": tree.get("record", {}).get("fresh_every") if len(views) > 1 else None,
    }
    return size(tree) + json.dumps(more, sort_keys=True, default=str)


def evaluated(tree: Mapping[str, Any], from_step: int = 0) -> int:
    """Problems that a run evaluates from a step on, as often as it does: validation while training, all at the end."""
    settings, steps = tree.get("eval", {}), tree.get("steps", 0)
    every, problems = settings.get("every", 0), settings.get("problems", 0)
    during = sum(step % every == 0 for step in range(from_step, steps)) if every else 0
    attacked = len(settings.get("attacks") or []) * len(settings.get("attack_levels") or [])
    final = (
        problems
        + (settings.get("test_problems", 0) or ALL_PROBLEMS)
        + (settings.get("shifted_problems") or 0)
        + len(settings.get("transfer") or []) * (settings.get("shifted_problems") or problems)
        + attacked * (settings.get("attack_problems") or 0)
    )
    return during * problems + final


def step_times(run: Path) -> list[float]:
    """Seconds of each recorded step; none where a live run just replaced its part."""
    try:
        parts = [pq.read_table(part, columns=["time_step"]) for part in sorted((run / "steps").glob("*.parquet"))]
    except (OSError, KeyError, ValueError):  # pyarrow's own errors are ValueErrors
        return []
    return [value for part in parts for value in part["time_step"].to_pylist() if value is not None]


def run_seconds(run: Path, found: Mapping[str, Any]) -> float:
    """Wall seconds that the run of this status has taken so far; of runs that did not note them, those of the steps."""
    seconds = found.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else sum(step_times(run))


def _measured(run: _Run) -> tuple[float, float] | None:
    """(seconds per step, seconds beside the steps per evaluated problem or NaN); None before the first step."""
    times = step_times(run.folder)
    if not times:
        return None
    found = read_status(run.folder)
    problems = evaluated(run.config)
    if not (run.folder / schema.DONE_FILE).exists() or "seconds" not in found or not problems:
        return median(times), math.nan
    # of a run that was stopped and continued, repeated steps are in `seconds` and not in the table: part of the rest
    return median(times), max(0.0, float(found["seconds"]) - sum(times)) / problems


def _without(value: Any, names: Sequence[str]) -> Any:
    return {name: inner for name, inner in value.items() if name not in names} if isinstance(value, dict) else value


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
