"""Seconds and memory of loading a large sweep and of building its report: 1,000 made-up runs of 500 steps.

python -m benchmarks.report_scale --arms 100 --seeds 10 --steps 500

The sweep has the tables and files that real runs of the digits problems leave (8 problems and 96 completions a step, an
evaluation of 64 problems every 20 steps, 128 test problems at the end, strips every 10 steps; parts of 25 steps, joined
at the end by the code that runs use); the numbers in it are noise. It takes about 4 GB of disk and a minute to write.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from saei import schema
from saei.cli import run_main
from saei.config import to_dict, with_overrides
from saei.parts import join_parts, write_part
from saei.presets import preset

ROOT = Path(__file__).resolve().parent.parent
SWEEP = "scale"
TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
PART, EVERY, STRIPS = 25, 20, 10
"""Steps in a part, between evaluations, and between strips: the defaults of real runs."""
PROBLEMS, GROUP, SAMPLES, VALIDATED, TESTED = 8, 12, 8, 64, 128
MADE = 24
"""Different runs that are made; the others are copies of them."""
TEXT = "<think>The grid has 3, 5 and 7. 3 + 5 = 8. 8 + 7 = 15.</think> \\boxed{15}"
MEASURED = {
    "load_sweep": "",
    **{name: f"data.table({name!r})" for name in ("steps", "views", "attacks", "problems", "attack_means")},
    "what a report reads": "[data.table(name) for name in ('steps', 'views', 'problems', 'attack_means')]",
}
"""What is timed, each in a process of its own: code after `data = load_sweep(...)`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to make and time."""

    arms: int = 100
    """Arms of the made-up sweep, the first one the baseline."""
    seeds: int = 10
    """Runs of each arm."""
    steps: int = 500
    """Steps of each run."""
    results: str = ""
    """Keep the sweep in this results folder, and use it where it is there; a temporary folder otherwise."""
    report: bool = True
    """Also build the report."""
    out: str = ""
    """Write the figures to this JSON file."""


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


def write_sweep(results: Path, settings: Settings, console: Console) -> None:
    """The sweep: MADE runs, and copies of them with papers of their own."""
    begun = time.perf_counter()
    folder, entries, scores = results / SWEEP, [], {}
    names = [f"arm_{number:03d}" for number in range(settings.arms)]
    for number in range(settings.arms * settings.seeds):
        arm, seed = divmod(number, settings.seeds)
        run = folder / f"{arm:012x}-s{seed}"
        made = (7 * arm + seed) % MADE
        if made not in scores:
            rng = np.random.default_rng(made)
            scores[made] = write_tables(run, settings.steps, rng, 0.1 + 0.01 * (made % 5)), run
            write_strips(run / schema.IMAGES_FOLDER, settings.steps, rng)
        else:
            shutil.copytree(scores[made][1], run, ignore=shutil.ignore_patterns("*.json", schema.DONE_FILE))
        write_papers(run, arm=arm, seed=seed, steps=settings.steps, score=scores[made][0])
        entries.append({"trial_id": run.name, "arm": names[arm], "seed": seed, "exploratory": False, "launch": 0})
    arms = [{"name": name, "overrides": {"view.step_size": 1.0 + number}} for number, name in enumerate(names)]
    plan = {"name": SWEEP, "question": "How long does a large report take?", "arms": arms, "baseline": names[0],
            "seeds": list(range(settings.seeds)), "primary_contrast": [names[1], names[0]], "trials": entries,
            "primary_metric": f"test/mean@{SAMPLES}", "steps": settings.steps, "settings": {},
            "first_launch": 0.0}  # fmt: skip
    (folder / schema.PLAN_FILE).write_text(json.dumps(plan))
    console.print(f"made {len(entries)} runs in {time.perf_counter() - begun:.0f} s")


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


def measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds of a command, and the largest memory (MiB) that it and its children held at one time."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peak), daemon=True)
    watcher.start()
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}")
    return time.perf_counter() - begun, peak[0] / 2**20


def _watch(process: psutil.Process, peak: list[float]) -> None:
    """Sum the unshared memory of the process tree ten times a second until it ends."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        total = 0
        for member in _tree(process):
            try:
                total += member.memory_full_info().uss
            except psutil.Error:  # it has just ended
                continue
        peak[0] = max(peak[0], total)
        time.sleep(0.1)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def time_loading(results: Path, code: str) -> tuple[float, float]:
    """Seconds of `load_sweep` and `code`, imports not counted, and the process's largest memory (MiB)."""
    program = (
        "import time, resource; from pathlib import Path; from analysis import load; begun = time.perf_counter(); "
        f"data = load.load_sweep(Path({str(results)!r}), {SWEEP!r}); {code or 'pass'}; "
        "print(time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, peak = found.stdout.split()
    return float(seconds), float(peak)


def measure(results: Path, settings: Settings, console: Console) -> dict[str, dict[str, float]]:
    """What takes how long: seconds and MiB by name."""
    found = {}
    for name, code in MEASURED.items():
        seconds, peak = time_loading(results, code)
        found[name] = {"seconds": seconds, "peak_mib": peak}
        console.print(f"{name}: {seconds:.2f} s")
    if settings.report:
        command = [sys.executable, "-m", "analysis.report", SWEEP, "--results", str(results)]
        seconds, peak = measured(command)
        found["report, kernels included"] = {"seconds": seconds, "peak_mib": peak}
    return found


def main(settings: Settings) -> int:
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(settings.results or temporary)
        if not (results / SWEEP / schema.PLAN_FILE).exists():
            write_sweep(results, settings, console)
        found = measure(results, settings, console)
    table = Table(
        title=f"{settings.arms} arms of {settings.seeds} runs of {settings.steps} steps, {os.cpu_count()} cores"
    )
    for column in ("what", "seconds", "peak memory (MiB)"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, row in found.items():
        table.add_row(name, f"{row['seconds']:.2f}", f"{row['peak_mib']:.0f}")
    console.print(table)
    if settings.out:
        tree = {"arms": settings.arms, "seeds": settings.seeds, "steps": settings.steps, "measured": found}
        Path(settings.out).write_text(json.dumps(tree, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(lambda: main(tyro.cli(Settings))))
