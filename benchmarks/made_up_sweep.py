"""A made-up sweep of any size, with the tables and files that real runs of the digits problems leave; no torch.

8 problems and 96 completions a step, an evaluation of 64 problems every 20 steps, 128 test problems at the end, strips
every 10 steps; parts of 25 steps, joined at the end by the code that runs use. The numbers in it are noise. 1,000 runs
of 500 steps take about 4 GB of disk and a minute to write.
"""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from saei import schema
from saei.config import to_dict, with_overrides
from saei.parts import join_parts, write_part
from saei.presets import preset

SWEEP = "scale"
TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
PART, EVERY, STRIPS = 25, 20, 10
"""Steps in a part, between evaluations, and between strips: the defaults of real runs."""
PROBLEMS, GROUP, SAMPLES, VALIDATED, TESTED = 8, 12, 8, 64, 128
MADE = 24
"""Different runs that are made; the others are copies of them."""
TEXT = "<think>The grid has 3, 5 and 7. 3 + 5 = 8. 8 + 7 = 15.</think> \\boxed{15}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large a made-up sweep is."""

    arms: int
    """Arms; the first one is the baseline."""
    seeds: int
    """Runs of each arm."""
    steps: int
    """Steps of each run."""

    @property
    def runs(self) -> int:
        return self.arms * self.seeds


def columns(name: str, rows: int, known: dict[str, np.ndarray | list], rng: np.random.Generator) -> pa.Table:
    """A table of the schema: the known columns, noise in the others."""
    arrays = []
    for column, kind in schema.TABLES[name].items():
        made = {
            "int64": lambda: rng.integers(20, 60, rows),
            "float64": lambda: rng.normal(0.2, 0.05, rows),
            "string": lambda: ["ok"] * rows,
            "bool": lambda: np.ones(rows, bool),
        }
        arrays.append(pa.array(known.get(column, made[kind]() if column not in known else None), TYPES[kind]))
    return pa.Table.from_arrays(arrays, names=list(schema.TABLES[name]))


def training(first: int, last: int, rng: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    """The tables of steps first..last."""
    steps = np.arange(first, last + 1)
    yield "steps", columns("steps", len(steps), {"step": steps, "skipped_updates": np.zeros(len(steps), int)}, rng)
    by_view = np.repeat(steps, 2)
    yield "views", columns("views", len(by_view), {"step": by_view, "view": ["clean", "egas"] * len(steps)}, rng)
    problem = [f"train-{number:05d}" for step in steps for number in rng.permutation(20_000)[:PROBLEMS] + 0 * step]
    moved = {"step": np.repeat(steps, PROBLEMS), "problem_id": problem, "view": ["egas"] * len(problem)}
    yield "attacks", columns("attacks", len(problem), {**moved, "image": np.zeros(len(problem), int)}, rng)
    count = len(problem) * GROUP
    rolled = {
        "step": np.repeat(moved["step"], GROUP),
        "problem_id": np.repeat(problem, GROUP).tolist(),
        "view": ["clean"] * (GROUP // 2) + ["egas"] * (GROUP // 2),
        "index": np.tile(np.arange(GROUP), len(problem)),
        "text": [f"{TEXT} {number}" for number in rng.integers(0, 100, count)],
        "image_hash": [f"{number:016x}" for number in rng.integers(0, 2**60, count)],
    }
    yield "rollouts", columns("rollouts", count, {**rolled, "view": rolled["view"] * len(problem)}, rng)


def evaluation(step: int, split: str, problems: int, level: float, rng: np.random.Generator) -> pa.Table:
    """`eval` rows of one evaluation: every problem sampled SAMPLES times and once greedily."""
    each = SAMPLES + 1
    rows = problems * each
    ids = [f"{split}-{number:05d}" for number in range(problems)]
    known = {
        "step": np.full(rows, step),
        "split": [split] * rows,
        "decoding": ([schema.SAMPLED] * SAMPLES + [schema.GREEDY]) * problems,
        "problem_id": np.repeat(ids, each).tolist(),
        "kind": ["sum", "largest", "count"] * (rows // 3),
        "figure": np.repeat([f"{hash(one) & (2**60 - 1):016x}" for one in ids], each).tolist(),
        "index": np.tile([*range(SAMPLES), 0], problems),
        "text": [f"{TEXT} {number}" for number in rng.integers(0, 100, rows)],
        "answer": ["15"] * rows,
        "accuracy": (rng.random(rows) < level).astype(float),
    }
    return columns("eval", rows, known, rng)


def write_tables(folder: Path, steps: int, rng: np.random.Generator, effect: float) -> float:
    """The parts of one run, as the recorder names and compresses them. Returns its test accuracy."""
    for first in range(0, steps, PART):
        last = min(first + PART, steps) - 1
        for name, table in training(first, last, rng):
            _write(folder / name, first, last, table)
        tested = [evaluation(step, "validation", VALIDATED, 0.4 + effect * step / steps, rng)
                  for step in range(first, last + 1) if step % EVERY == 0]  # fmt: skip
        if tested:
            _write(folder / "eval", first, last, pa.concat_tables(tested))
    ends = [evaluation(steps, split, count, 0.4 + effect, rng)
            for split, count in (("validation", VALIDATED), ("test", TESTED))]  # fmt: skip
    _write(folder / "eval", steps, steps, pa.concat_tables(ends))
    for name in schema.TABLES:
        join_parts(folder / name)
    rows = ends[1].to_pandas()
    return float(rows.loc[rows["decoding"] == schema.SAMPLED, "accuracy"].mean())


def _write(folder: Path, first: int, last: int, table: pa.Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_part(folder, first, last, table)


def write_strips(folder: Path, steps: int, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for step in range(0, steps, STRIPS):
        strip = rng.integers(0, 256, (56, 168, 3), dtype=np.uint8)
        Image.fromarray(strip).save(folder / f"step-{step:06d}-egas-train%2F{step}.png")


def write_sweep(results: Path, size: Size) -> None:
    """The sweep: MADE runs, and copies of them with papers of their own."""
    folder, entries, scores = results / SWEEP, [], {}
    names = [f"arm_{number:03d}" for number in range(size.arms)]
    for number in range(size.arms * size.seeds):
        arm, seed = divmod(number, size.seeds)
        run = folder / f"{arm:012x}-s{seed}"
        made = (7 * arm + seed) % MADE
        if made not in scores:
            rng = np.random.default_rng(made)
            scores[made] = write_tables(run, size.steps, rng, 0.1 + 0.01 * (made % 5)), run
            write_strips(run / schema.IMAGES_FOLDER, size.steps, rng)
        else:
            shutil.copytree(scores[made][1], run, ignore=shutil.ignore_patterns("*.json", schema.DONE_FILE))
        write_papers(run, arm=arm, seed=seed, steps=size.steps, score=scores[made][0])
        entries.append({"trial_id": run.name, "arm": names[arm], "seed": seed, "exploratory": False, "launch": 0})
    arms = [{"name": name, "overrides": {"view.step_size": 1.0 + number}} for number, name in enumerate(names)]
    plan = {"name": SWEEP, "question": "How long does a large report take?", "arms": arms, "baseline": names[0],
            "seeds": list(range(size.seeds)), "primary_contrast": [names[1], names[0]], "trials": entries,
            "primary_metric": f"test/mean@{SAMPLES}", "steps": size.steps, "settings": {},
            "first_launch": 0.0}  # fmt: skip
    (folder / schema.PLAN_FILE).write_text(json.dumps(plan))


def write_papers(folder: Path, *, arm: int, seed: int, steps: int, score: float) -> None:
    overrides = {"view.step_size": 1.0 + arm % 200, "steps": steps, "seed": seed}
    tree = to_dict(with_overrides(preset("saei"), overrides))
    papers = {
        schema.CONFIG_FILE: {"schema_version": schema.SCHEMA_VERSION, "trial_id": folder.name, "config": tree,
                             "identity": {"settings": tree}, "reconstructions": []},
        schema.ENVIRONMENT_FILE: {"git_sha": "0123456789abcdef", "git_dirty": False, "python": "3.11.7",
                                  "host": "node1", "device": "cpu", "packages": {"torch": "2.13.0"}},
        schema.STATUS_FILE: {"state": schema.FINISHED, "step": steps, "steps": steps, "heartbeat": time.time(),
                             "message": ""},
        schema.ALARMS_FILE: {"alarms": []},
        schema.DONE_FILE: {"trial_id": folder.name, "finished": time.time(), "scores": {"test/mean@8": score}},
    }  # fmt: skip
    for name, paper in papers.items():
        (folder / name).write_text(json.dumps(paper, indent=1))
