"""The mechanism without training: what does a moved image do to a policy, and would any noise of that size do the same?

For every problem: clean completions, which the attack reads; then as many again under each condition, all with the
same sampling noise, as the second half of a training group. `clean_again` is what GRPO would have sampled there, with
the same noise too, and every difference is taken from it, paired over problems. `saei/probe/rows.py` says what is
measured, `saei/probe/conditions.py` under what, `saei/probe/gradient.py` what a first update would learn from it.

    python -m saei.probe --problems 500
    python -m saei.probe --conditions egas descend random_sign --step-sizes 1 2 4 8 --gradient-problems 0
    python -m saei.probe --model Qwen/Qwen2.5-VL-3B-Instruct --dtype bfloat16 --max-new-tokens 1024 \
        --data.source local --data.path DIR --data.max-pixels 1000000 --chunk 4 --pack-tokens 16384
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from saei.atomic import write_atomically, write_json
from saei.cli import bad_input, checked_command_line
from saei.config import Config, to_dict, with_overrides
from saei.data import load_problems
from saei.evaluate import first_problems
from saei.make_view import make_view
from saei.policy import Policy, load_policy
from saei.probe.conditions import ATTACK, CLEAN, CONDITIONS, CONTROL, derived, mean_l2
from saei.probe.config import ProbeConfig
from saei.probe.gradient import Control, gradient_figures
from saei.probe.rows import STREAM, Masks, kept_tokens, problem_rows, teacher_forced
from saei.probe.summary import as_rows, differences
from saei.probe.tables import WIDTH, difference_tables, figure, level_table, size_sentence
from saei.reward import Scorer
from saei.rollout import GroupsInProgress, grade_view, sample_view
from saei.seeding import torch_generator
from saei.types import ByteImages, Problem

LEGEND = (
    "clean_again: further completions on the clean image with the same noise, what all are compared with. noise: the "
    "diffusion's residual scaled to EgAS's size (L2); noise_500: at its own. kept: tokens of the attack's objective. "
    "alone: the condition's completions; group: those with the first clean ones, as in training. First clean draw: the "
    "completions that the attack read. Blue in the figure: the interval leaves out 0."
)

Images = list[Sequence[ByteImages]]
"""By problem: one entry for all completions, or one for each."""


@dataclass(slots=True)
class Chunk:
    """Some problems with their first clean completions and what every condition is compared with.

    `attacked[step size]`: EgAS's images; `control`: the gradients of clean groups.
    """

    policy: Policy
    scorer: Scorer
    clean: GroupsInProgress
    kept: Masks
    attacked: dict[float, Images] = field(default_factory=dict)
    control: Control | None = None


def probe(
    policy: Policy, scorer: Scorer, problems: Sequence[Problem], settings: ProbeConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for every (problem, condition, step size), and one for every (chunk, condition, step size): gradients.

    `step_size` is NaN for conditions that have none.
    """
    base = settings.base()
    rows: list[dict[str, Any]] = []
    gradients: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, len(problems), settings.chunk)):
        chunk, before = _begin(policy, scorer, problems[first : first + settings.chunk], base)
        rows += before
        for name in dict.fromkeys((CONTROL, *settings.conditions)):
            condition = CONDITIONS[name]
            for levels in settings.sizes() if condition.sized else (nan,):
                size = {"view.step_size": levels} if condition.sized else {}
                config = with_overrides(base, {**condition.settings, **size})
                labels = {"condition": name, "step_size": levels}
                progress, measured = _measure(chunk, name, config)
                rows += [{**labels, **row} for row in measured]
                if first < settings.gradient_problems:
                    found, chunk.control = gradient_figures(policy, progress, chunk.control, config)
                    gradients.append({**labels, "chunk": number, "problems": len(progress.problems), **found})
    return rows, gradients


def _begin(
    policy: Policy, scorer: Scorer, problems: Sequence[Problem], config: Config
) -> tuple[Chunk, list[dict[str, Any]]]:
    """The first clean completions, and a row for each problem."""
    progress = GroupsInProgress.begin(policy, problems)
    images: Images = [[prompt.images] for prompt in progress.prompts]
    _sample(policy, scorer, progress, CLEAN, images, config.rollout.n_clean, config)
    entropies = teacher_forced(policy, progress, images, config)
    kept = kept_tokens(progress, entropies, config)
    rows = problem_rows(progress, entropies, kept, config, first=True)
    labels = {"condition": CLEAN, "step_size": nan, "l2": 0.0}
    return Chunk(policy, scorer, progress, kept), [{**labels, **row} for row in rows]


def _sample(
    policy: Policy,
    scorer: Scorer,
    progress: GroupsInProgress,
    name: str,
    images: Images,
    count: int,
    config: Config,
) -> None:
    """Sample and grade further completions, the condition's name for a view."""
    progress.images[name] = images
    sample_view(policy, progress, name, count, config, STREAM)
    grade_view(scorer, progress, name, config)


def _measure(chunk: Chunk, name: str, config: Config) -> tuple[GroupsInProgress, list[dict[str, Any]]]:
    """Groups of the first clean completions and as many under the condition, and a row for each."""
    clean = chunk.clean
    progress = replace(
        clean,
        rollouts=[list(rollouts) for rollouts in clean.rollouts],
        images={},
        grades=dict(clean.grades),
        penalties=dict(clean.penalties),
        rewards=dict(clean.rewards),
    )
    images = _images(chunk, name, config)
    _sample(chunk.policy, chunk.scorer, progress, name, images, config.rollout.n_view, config)
    entropies = teacher_forced(chunk.policy, clean, images, config)
    rows = problem_rows(progress, entropies, chunk.kept, config, first=False)
    sizes = mean_l2([prompt.images for prompt in clean.prompts], images)
    return progress, [{"l2": l2, **row} for l2, row in zip(sizes, rows, strict=True)]


def _images(chunk: Chunk, name: str, config: Config) -> Images:
    """What the completions of a condition see; EgAS's images of a step size are made once."""
    condition, levels = CONDITIONS[name], config.view.step_size
    if condition.derive is None and name != ATTACK:
        return _viewed(chunk, condition.view, config)
    if levels not in chunk.attacked:
        chunk.attacked[levels] = _viewed(chunk, ATTACK, config)
    if condition.derive is None:
        return chunk.attacked[levels]
    images: Images = []
    for prompt, attacked in zip(chunk.clean.prompts, chunk.attacked[levels], strict=True):
        generator = torch_generator(config.seed, "attack", STREAM, prompt.problem_id)
        images.append(derived(condition.derive, prompt.images, attacked, generator))
    return images


def _viewed(chunk: Chunk, view: str, config: Config) -> Images:
    progress = replace(chunk.clean, images={}, text_shifts={}, ledger=[])
    make_view(chunk.policy, progress, view, config.rollout.n_view, config, STREAM)
    return progress.images[view]


def report(rows: list[dict[str, Any]], gradients: list[dict[str, Any]], settings: ProbeConfig, seconds: float) -> None:
    """Print the tables; write the folder."""
    console = Console(width=WIDTH)
    found = []
    for levels in settings.sizes():
        own = differences(rows, levels, "problem_id")
        own += differences(gradients, levels, "chunk") if gradients else []
        found += own
        console.print(level_table(rows, gradients, levels))
        console.print(*difference_tables(own, levels), sep="\n")
        console.print(size_sentence(rows, levels))
    console.print(LEGEND)
    count = len({row["problem_id"] for row in rows})
    console.print(
        f"model {settings.model}, {count} problems of {settings.data.source}/{settings.data.train_split}, "
        f"{settings.completions} + {settings.completions} completions a group, {seconds:.0f} s; gradients of the first "
        f"{min(count, settings.gradient_problems)} problems, by chunk of {settings.chunk}"
    )
    folder = Path(settings.out)
    tables = {"problems": rows, "gradients": gradients, "differences": as_rows(found)}
    for name, content in tables.items():
        if content:
            write_atomically(folder / f"{name}.parquet", pd.DataFrame(content).to_parquet())
    title = f"{settings.model}, {count} problems: condition minus {CONTROL}, paired, 95 % intervals"
    write_atomically(folder / "probe.png", figure(found, title))
    write_json(folder / "settings.json", {**settings.own(), "seconds": seconds, "config": to_dict(settings.base())})
    console.print(f"tables, figure and settings: {folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    settings = checked_command_line(ProbeConfig, arguments, prog="python -m saei.probe")
    torch.set_num_threads(settings.threads)
    with bad_input():
        if find_spec("matplotlib") is None:
            raise ValueError("a probe draws a figure and matplotlib is missing: pip install 'saei-workbench[report]'")
        Path(settings.out).mkdir(parents=True, exist_ok=True)
        config = settings.base()
        problems = first_problems(load_problems(settings.data, settings.data.train_split), settings.problems)
        policy = load_policy(config.model, settings.data)
    started = time.perf_counter()
    with Scorer(settings.reward) as scorer:
        rows, gradients = probe(policy, scorer, problems, settings)
    report(rows, gradients, settings, time.perf_counter() - started)
    return 0
