"""Seconds of one training step, GRPO(12) and SaEI(6+6) side by side in one process, and the share of each phase.

python -m benchmarks.step_time --steps 10
"""

import json
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.optim import AdamW

from saei.config import with_overrides
from saei.data import load_problems
from saei.order import problem_indices
from saei.policy import load_policy
from saei.presets import preset
from saei.recorder import Recorder
from saei.reward import Scorer
from saei.train import Run, train_step


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    presets: tuple[str, ...] = ("grpo", "saei")
    """Presets compared; their steps alternate."""
    steps: int = 10
    """Timed steps of each, after one step of warm-up."""
    threads: int = 1
    """CPU threads of torch."""
    out: str = ""
    """Write the figures to this JSON file."""


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in settings.presets}
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Run] = {}
        for name in settings.presets:
            overrides = {"out": f"{folder}/{name}", "steps": settings.steps + 1, "record.fresh_every": 0}
            config = with_overrides(preset(name), overrides)
            policy = load_policy(config.model, config.data)
            recorder = Recorder(config)
            recorder.folder.mkdir(parents=True)
            recorder.claim()
            optimizer = AdamW(policy.model.parameters(), lr=config.optim.lr)
            runs[name] = Run(config, policy, None, optimizer, Scorer(config.reward), recorder)
        for step in range(settings.steps + 1):
            for name, run in runs.items():
                problems = load_problems(run.config.data, run.config.data.train_split)
                indices = problem_indices(0, step, run.config.rollout.problems_per_step, len(problems))
                rows[name].append(train_step(run, [problems[i] for i in indices], step))
    report(settings, {name: timed[1:] for name, timed in rows.items()})


def report(settings: Settings, rows: dict[str, list[dict[str, float]]]) -> None:
    """Print medians and phase shares, and write them as JSON."""
    phases = [name for name in rows[settings.presets[0]][0] if name.startswith("time_") and name != "time_step"]
    medians = {name: median(row["time_step"] for row in timed) for name, timed in rows.items()}
    shares = {
        name: {phase: sum(row[phase] for row in timed) / sum(row["time_step"] for row in timed) for phase in phases}
        for name, timed in rows.items()
    }
    table = Table(
        "", *rows, title=f"One step on the tiny model, median of {settings.steps}, {settings.threads} thread(s)"
    )
    table.add_row("seconds a step", *(f"{medians[name]:.3f}" for name in rows))
    table.add_row(
        f"relative to {settings.presets[0]}", *(f"{medians[n] / medians[settings.presets[0]]:.2f}" for n in rows)
    )
    for phase in phases:
        table.add_row(phase.removeprefix("time_"), *(f"{shares[name][phase]:.0%}" for name in rows))
    for tokens in ("tokens_generated", "tokens_forward", "tokens_backward"):
        table.add_row(f"{tokens} a step", *(f"{median(row[tokens] for row in timed):.0f}" for timed in rows.values()))
    Console().print(table)
    if settings.out:
        tree = {"machine": platform.platform(), "torch": torch.__version__, "threads": settings.threads}
        Path(settings.out).write_text(json.dumps({**tree, "median_s": medians, "shares": shares}, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m benchmarks.step_time"))
