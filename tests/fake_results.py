"""A made-up sweep in the schema of real ones, for tests of whatever reads results. Deterministic, no torch.

Accuracies are drawn around `START + (effect of the arm) * progress`; entropies fall over the steps.

    python -m tests.fake_results DIR [NAME]      # write one to look at
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saei import schema

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
EMPTY = {"int64": 0, "float64": 0.0, "string": "", "bool": True}
ARMS = {"GRPO": 0.10, "SaEI": 0.16, "random third": 0.11}
START = 0.4
SAMPLED_MORE = 0.05
"""Nats that the entropy of all completions lies above that of the trained ones, in arms that drop groups."""


def write_sweep(
    results: Path,
    name: str = "fake",
    *,
    arms: Mapping[str, float] = ARMS,
    seeds: int = 3,
    steps: int = 20,
    problems: int = 12,
    samples: int = 8,
    text: str = "<think>2 + 3 = 5</think> \\boxed{5}",
    leave_out: Sequence[tuple[str, int]] = (),
    unfinished: Mapping[tuple[str, int], str] | None = None,
    right: Mapping[str, Sequence[int]] | None = None,
    filters: Sequence[str] = (),
    orders: Mapping[str, Mapping[str, float]] | None = None,
    reconstructions: Mapping[str, Sequence[str]] | None = None,
    alarms: Mapping[tuple[str, int], Sequence[Mapping[str, Any]]] | None = None,
    attacked: bool = False,
) -> Path:
    """Write `results/<name>`; the first arm is the baseline, the second the primary contrast. Returns the folder.

    `leave_out`: (arm, seed) pairs of the plan without a run directory. `unfinished`: (arm, seed) -> state of runs that
    stopped half way, without DONE. `right`: arm -> per seed, how many sampled test completions are right, not drawn.
    `filters`: arms that drop groups and sample twice as many; the entropy of what they sample is SAMPLED_MORE higher.
    `orders`: arm -> what its curriculum spent. `reconstructions`: arm -> sentences of its config.
    `alarms`: (arm, seed) -> its alarms; with any, every run has the file. `attacked`: evaluations under attack, too.
    """
    unfinished, right, reconstructions, orders = unfinished or {}, right or {}, reconstructions or {}, orders or {}
    trials = [
        {"trial_id": fake_id(arm, seed), "arm": arm, "seed": seed, "exploratory": False}
        for arm in arms
        for seed in range(seeds)
    ]
    names = list(arms)
    plan = {
        "name": name,
        "question": "Does acting on the middle third of the tokens help?",
        "arms": [{"name": arm, "overrides": {"rollout.n_view": 0 if arm == "GRPO" else 6}} for arm in names],
        "seeds": list(range(seeds)),
        "baseline": names[0],
        "primary_contrast": [names[min(1, len(names) - 1)], names[0]],
        "primary_metric": f"test/mean@{samples}",
        "trials": trials,
        "steps": steps,
    }
    folder = results / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / schema.PLAN_FILE).write_text(json.dumps(plan))
    for trial in trials:
        key = (trial["arm"], trial["seed"])
        if key in leave_out:
            continue
        write_run(
            folder / trial["trial_id"],
            effect=arms[trial["arm"]],
            attacked=trial["arm"] != "GRPO",
            seed=trial["seed"],
            steps=steps,
            problems=problems,
            samples=samples,
            text=text,
            state=unfinished.get(key, schema.FINISHED),
            right=right[trial["arm"]][trial["seed"]] if trial["arm"] in right else None,
            levels=(2, 8) if attacked else (),
            filtered=trial["arm"] in filters,
        )
        if trial["arm"] in reconstructions:
            path = folder / trial["trial_id"] / schema.CONFIG_FILE
            _write(path, {**json.loads(path.read_text()), "reconstructions": list(reconstructions[trial["arm"]])})
        if trial["arm"] in orders:
            content = {"order": [0, 1], **orders[trial["arm"]]}
            _write(folder / trial["trial_id"] / schema.CURRICULUM_FILE, {"content": content})
        if alarms is not None:
            _write(folder / trial["trial_id"] / schema.ALARMS_FILE, {"alarms": list(alarms.get(key, ()))})
    return folder


def fake_id(arm: str, seed: int) -> str:
    """A trial id of the real shape, 12 hex digits and the seed."""
    return f"{hashlib.sha256(arm.encode()).hexdigest()[:12]}-s{seed}"


def write_run(
    folder: Path,
    *,
    effect: float,
    attacked: bool,
    seed: int,
    steps: int,
    problems: int,
    samples: int,
    text: str,
    state: str = schema.FINISHED,
    right: int | None = None,
    levels: Sequence[int] = (),
    filtered: bool = False,
) -> None:
    """One run directory; a run that is not finished has half its steps, no test rows and no DONE.

    `right`: exactly the first so many sampled test completions are right. `levels`: sizes of the attacks in its tests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = steps if state == schema.FINISHED else steps // 2
    rng = np.random.default_rng([seed, int(effect * 1000)])
    views = ("clean", "egas") if attacked else ("clean",)
    writer = {"steps": [], "views": [], "attacks": [], "rollouts": [], "eval": []}
    for step in range(done):
        progress = step / max(1, steps - 1)
        add_step(writer, rng, step, progress, effect=effect, views=views, text=text)
        generated = 3000 * (1 + filtered)
        forward = generated * (1 + attacked)
        spent = {"tokens_generated": generated, "tokens_forward": forward, "tokens_backward": 4000 + 2000 * attacked}
        writer["steps"][-1] |= spent
        writer["steps"][-1]["entropy_sampled_image"] += SAMPLED_MORE * filtered
    for step in sorted({*range(0, done + 1, max(1, steps // 4)), done}):
        level = START + effect * step / steps
        add_eval(writer, rng, step, "validation", level, problems=problems, samples=samples, text=text)
    if state == schema.FINISHED:
        for split, drop in (("test", 0.0), ("larger_grid", 0.15)):
            add_eval(writer, rng, done, split, START + effect - drop, problems=problems, samples=samples, text=text)
        add_attacked(writer, rng, done, START + effect, levels, problems=problems // 2, samples=samples, text=text)
    if right is not None:
        tested = [row for row in writer["eval"] if (row["split"], row["decoding"]) == ("test", schema.SAMPLED)]
        for number, row in enumerate(tested):
            row["accuracy"] = float(number < right)
    half = done // 2
    for table, rows in writer.items():
        write_part(folder, table, (0, max(half - 1, 0)), [row for row in rows if row["step"] < half])
        write_part(folder, table, (half, done), [row for row in rows if row["step"] >= half])
    if attacked:
        write_strips(folder, rng, done)
    write_papers(folder, seed=seed, done=done, steps=steps, state=state, rows=writer["eval"], filtered=filtered)


def add_step(writer: dict[str, list], rng, step: int, progress: float, *, effect: float, views, text: str) -> None:
    """Rows of one training step: `steps`, `views`, two `rollouts` a view, one `attacks` row."""
    entropy = 0.18 - 0.12 * progress + effect / 4 + rng.normal(0, 0.008)
    measured = len(views) > 1 and step % 5 == 0
    gain = 0.004 + rng.normal(0, 0.001) if len(views) > 1 else float("nan")
    common = {
        "step": step,
        "reward": START + effect * progress + 0.1 + rng.normal(0, 0.05),
        "entropy": entropy,
        "entropy_t1": entropy,
        "entropy_sampled_image": entropy,
        "entropy_low": 0.01 * entropy,
        "entropy_middle": 0.4 * entropy,
        "entropy_high": 2.6 * entropy,
        "completion_length": 30 + rng.normal(0, 2),
        "reward_accuracy": START + effect * progress,
        "groups_sampled": 8,
        "groups_trained": 8,
        "time_step": 1.5 if measured else 1.0,
        "time_fresh": 0.5 * measured,
    }
    fresh = gain * 0.8 if measured else float("nan")
    attack = {"attack_gain": gain, "attack_linf": 2 / 255, "fresh_gain": fresh, "kl": float("nan")}
    writer["steps"].append({**common, **attack})
    for number, view in enumerate(views):
        writer["views"].append({**common, "view": view, "entropy_sampled_image": entropy + 0.01 * number})
        for index in range(2):
            identity = {"step": step, "problem_id": f"train-{step}", "view": view, "index": index}
            writer["rollouts"].append({**identity, "text": text, "answer": "5", "grade_status": "ok"})
    if len(views) > 1:
        identity = {"step": step, "problem_id": f"train-{step}", "view": views[1]}
        writer["attacks"].append({**identity, "linf": 2 / 255, "entropy_before": 0.1, "entropy_after": 0.1 + gain})


def add_eval(writer: dict[str, list], rng, step: int, split: str, level: float, *, problems, samples, text) -> None:
    """One evaluation: `samples` sampled completions and a greedy one per problem, right with probability `level`."""
    for problem in range(problems):
        for decoding, count in ((schema.SAMPLED, samples), (schema.GREEDY, 1)):
            for index in range(count):
                writer["eval"].append(
                    {
                        "step": step,
                        "split": split,
                        "decoding": decoding,
                        "problem_id": f"{split.partition('@')[0]}-{problem:03d}",
                        "kind": "sum" if problem % 2 else "largest",
                        "index": index,
                        "text": text,
                        "answer": "5",
                        "accuracy": float(rng.random() < level),
                        "format": 1.0,
                        "grade_status": "ok",
                        "tokens": 30,
                        "finished": True,
                        "entropy": 0.2 - 0.1 * level,
                    }
                )


def add_attacked(writer: dict[str, list], rng, step: int, level: float, sizes: Sequence[int], **amounts) -> None:
    """Evaluations of the first test problems under attacks of so many grey levels; EgAS hurts more than noise."""
    for attack, harm in (("egas", 0.02), ("gaussian", 0.005)):
        for size in sizes:
            add_eval(writer, rng, step, f"test@{attack}:{size}", level - harm * size, **amounts)


def write_part(folder: Path, table: str, steps: tuple[int, int], rows: Sequence[dict[str, Any]]) -> None:
    """One parquet part with the schema's columns; columns a row lacks are zero or empty."""
    if not rows:
        return
    columns = schema.TABLES[table]
    full = [{name: row.get(name, EMPTY[kind]) for name, kind in columns.items()} for row in rows]
    arrow = pa.schema([(name, TYPES[kind]) for name, kind in columns.items()])
    (folder / table).mkdir(exist_ok=True)
    path = folder / table / f"part-{steps[0]:06d}-{steps[1]:06d}.parquet"
    pq.write_table(pa.Table.from_pylist(full, schema=arrow), path)


def write_strips(folder: Path, rng, done: int) -> None:
    """Grey clean | moved | difference strips at the first step and every tenth, with what the attack read."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_itxt(schema.ABOUT, json.dumps([{"tokens": ["<think>", "2", " + ", "3", "</think>"], "kept": [1, 3]}]))

    (folder / schema.IMAGES_FOLDER).mkdir(exist_ok=True)
    for step in range(0, done, 10):
        clean = rng.integers(32, 224, (56, 56), dtype=np.uint8)
        sign = rng.integers(-1, 2, (56, 56))
        white = np.full((56, 4), 255)
        parts = [clean, white, clean + 2 * sign, white, 128 + 63 * sign]
        strip = np.concatenate(parts, axis=1).astype(np.uint8)
        path = folder / schema.IMAGES_FOLDER / f"step-{step:06d}-egas-train%2F{step}.png"
        Image.fromarray(strip).save(path, pnginfo=about)


def write_papers(
    folder: Path, *, seed: int, done: int, steps: int, state: str, rows: Sequence[dict], filtered: bool = False
) -> None:
    """config.json, environment.json, status.json and, for a finished run, DONE."""
    config = {"seed": seed, "steps": steps, "data": {"source": "digits"}}
    config["filter"] = {"rule": "mixed_accuracy" if filtered else "none"}
    named = {"trial_id": folder.name}
    _write(folder / schema.CONFIG_FILE, {"schema_version": schema.SCHEMA_VERSION, **named, "config": config})
    packages = {"torch": "2.13.0", "transformers": "5.23.0"}
    commit = {"git_sha": "0123456789abcdef", "git_dirty": False, "python": "3.11.7", "host": "laptop"}
    _write(folder / schema.ENVIRONMENT_FILE, {**commit, "device": "cpu", "packages": packages})
    message = "RuntimeError: loss is not finite" if state == schema.FAILED else ""
    status = {"state": state, "step": done, "steps": steps, "heartbeat": time.time(), "message": message}
    _write(folder / schema.STATUS_FILE, status)
    if state == schema.FINISHED:
        test = [row["accuracy"] for row in rows if row["split"] == "test" and row["decoding"] == schema.SAMPLED]
        _write(folder / schema.DONE_FILE, {**named, "scores": {"test/mean@8": float(np.mean(test))}})


def _write(path: Path, tree: dict) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(tree))
    os.replace(temporary, path)


if __name__ == "__main__":
    print(write_sweep(Path(sys.argv[1]), *sys.argv[2:3]))
