"""Seconds of one training step of several presets, side by side in one process, and the share of each phase.

python -m benchmarks.step_time --steps 10
python -m benchmarks.step_time --presets grpo saei dapo kl_cov vepo papo --steps 10
"""

import sys
import tempfile
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.timing import Spread, machine, write_figures
from saei.batches import problem_batches
from saei.cli import run_main
from saei.config import Config, with_overrides
from saei.data import ProblemSet, load_problems
from saei.master_weights import optimizer_for
from saei.options import preset_or_refusal
from saei.policy import load_policy
from saei.presets import preset
from saei.recorder import Recorder
from saei.reward import Scorer
from saei.train import Run, train_step

TOKENS = ("generated", "forward", "backward")


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


def _training(config: Config) -> ProblemSet:
    return load_problems(config.data, config.data.train_split)


def main(settings: Settings) -> None:
    where = machine()
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
            optimizer = optimizer_for(policy.model, config.optim)
            reference = load_policy(config.model, config.data) if config.loss.kl_coef else None
            runs[name] = Run(config, policy, reference, optimizer, Scorer(config.reward), recorder)
        batches = {
            name: problem_batches(run.policy, run.recorder, _training(run.config), run.config)
            for name, run in runs.items()
        }
        for step in range(settings.steps + 1):
            for name, run in runs.items():
                rows[name].append(train_step(run, batches[name](step), step))
    report(settings, {name: timed[1:] for name, timed in rows.items()}, where)


def report(settings: Settings, rows: dict[str, list[dict[str, float]]], where: dict[str, Any]) -> None:
    """Print medians and phase shares, and write them as JSON."""
    phases = [name for name in rows[settings.presets[0]][0] if name.startswith("time_") and name != "time_step"]
    medians = {name: median(row["time_step"] for row in timed) for name, timed in rows.items()}
    shares = {
        name: {phase: sum(row[phase] for row in timed) / sum(row["time_step"] for row in timed) for phase in phases}
        for name, timed in rows.items()
    }
    title = f"One step on the tiny model, median of {settings.steps}, {settings.threads} thread(s); tokens a step"
    names = [phase.removeprefix("time_") for phase in phases]
    table = Table("preset", "seconds", "ratio", *names, *TOKENS, title=title)
    for name, timed in rows.items():
        tokens = [median(row[f"tokens_{kind}"] for row in timed) for kind in TOKENS]
        table.add_row(
            name,
            f"{medians[name]:.3f}",
            f"{medians[name] / medians[settings.presets[0]]:.2f}",
            *(f"{shares[name][phase]:.0%}" for phase in phases),
            *(f"{count:,.0f}" for count in tokens),
        )
    Console(width=140).print(table)
    figures = {
        name: {
            "seconds": asdict(Spread.of([row["time_step"] for row in timed])),
            "shares": shares[name],
            "tokens": {kind: median(row[f"tokens_{kind}"] for row in timed) for kind in TOKENS},
        }
        for name, timed in rows.items()
    }
    write_figures(settings.out, "step_time", where, {"threads": settings.threads, "presets": figures})


def command() -> int:
    settings = tyro.cli(Settings, prog="python -m benchmarks.step_time")
    for name in settings.presets:
        preset_or_refusal(name)
    main(settings)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(command))
