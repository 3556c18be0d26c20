"""What does the attack do to a policy, before any training? The same clean completions, attacked in several ways.

For every condition (ascend, descend, random sign) and step size: the share of problems whose kept entropy rises, the
mean gain teacher-forced on the clean completions, and the mean gain of fresh completions sampled on the moved image
over fresh clean ones with the same noise. Intervals are over problems (95 %).

    python -m saei.probe --problems 200 --step-sizes 1 2 4 8
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from saei.cli import bad_input, checked_command_line, run_main
from saei.config import Config, DataConfig, ModelConfig, with_overrides
from saei.data import load_problems
from saei.evaluate import first_problems
from saei.policy import Policy, load_policy
from saei.rollout import GroupsInProgress, fresh_entropies, make_view, sample_view
from saei.types import Problem
from saei.units import check_grey_levels

CONDITIONS: dict[str, dict[str, str]] = {
    "ascend": {"view.name": "egas", "view.direction": "ascend"},
    "descend": {"view.name": "egas", "view.direction": "descend"},
    "random_sign": {"view.name": "random_sign", "view.direction": "ascend"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Settings of a probe."""

    model: str = "tiny"
    """Policy: `tiny`, a folder in Hugging Face format, or a hub id."""
    problems: int = 200
    """Problems, the first ones of `data.train_split` (0: all): what is tuned by a probe may not read other splits."""
    completions: int = 6
    """Clean completions of each problem, and fresh completions on either image."""
    step_sizes: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Step sizes in grey levels."""
    chunk: int = 16
    """Problems handled at a time."""
    seed: int = 0
    """Seed of the sampling noise and of the random signs."""
    threads: int = 1
    """CPU threads of torch."""
    out: str = ""
    """Write one row per problem and condition to this parquet file."""
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        for name, least in {"problems": 0, "completions": 1, "chunk": 1, "seed": 0, "threads": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for levels in self.step_sizes:
            check_grey_levels("step_sizes", levels)


def probe(policy: Policy, problems: Sequence[Problem], settings: ProbeConfig) -> list[dict[str, Any]]:
    """One row per (problem, condition, step size): entropies before and after, teacher-forced and fresh."""
    base = with_overrides(
        Config(),
        {
            "seed": settings.seed,
            "rollout.n_clean": settings.completions,
            "rollout.n_view": settings.completions,
        },
    )
    rows: list[dict[str, Any]] = []
    for step, first in enumerate(range(0, len(problems), settings.chunk)):
        progress = GroupsInProgress.begin(policy, problems[first : first + settings.chunk])
        make_view(policy, progress, "clean", base, step)
        sample_view(policy, progress, "clean", settings.completions, base, step)
        clean = fresh_entropies(policy, progress, progress.images["clean"], settings.completions, base, step)
        for condition, overrides in CONDITIONS.items():
            for levels in settings.step_sizes:
                config = with_overrides(base, {**overrides, "view.step_size": levels})
                progress.ledger = []
                make_view(policy, progress, config.view.name, config, step)
                images = progress.images[config.view.name]
                moved = fresh_entropies(policy, progress, images, settings.completions, config, step)
                for row, fresh_clean, fresh_moved in zip(progress.ledger, clean, moved, strict=True):
                    rows.append(
                        {
                            "condition": condition,
                            "step_size": levels,
                            "problem_id": row.problem_id,
                            "linf": row.linf,
                            "moved": row.moved,
                            "tokens_kept": row.tokens_kept,
                            "entropy_before": row.entropy_before,
                            "entropy_after": row.entropy_after,
                            "fresh_entropy_clean": fresh_clean,
                            "fresh_entropy_moved": fresh_moved,
                        }
                    )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The probe's table: a line per condition and step size."""
    shown = Table(
        "direction",
        "step (/255)",
        "problems",
        "kept entropy rises",
        "gain, teacher-forced (nats)",
        "gain, fresh completions (nats)",
        title="Entropy of the kept tokens (teacher-forced) and of fresh completions, moved image minus clean image",
    )
    for condition, levels in dict.fromkeys((row["condition"], row["step_size"]) for row in rows):
        own = [row for row in rows if (row["condition"], row["step_size"]) == (condition, levels)]
        forced = np.array([row["entropy_after"] - row["entropy_before"] for row in own])
        fresh = np.array([row["fresh_entropy_moved"] - row["fresh_entropy_clean"] for row in own])
        rises = f"{np.mean(forced > 0):.1%}"
        shown.add_row(
            condition, f"{levels:g}", str(len(own)), rises, _mean_and_interval(forced), _mean_and_interval(fresh)
        )
    return shown


def _mean_and_interval(values: np.ndarray) -> str:
    # 1.96 standard errors over problems; with hundreds of problems t and normal agree to the printed digits
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():+.4f} ± {half:.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    settings = checked_command_line(ProbeConfig, arguments, prog="python -m saei.probe")
    torch.set_num_threads(settings.threads)
    with bad_input():
        policy = load_policy(ModelConfig(path=settings.model), settings.data)
        problems = first_problems(load_problems(settings.data, settings.data.train_split), settings.problems)
        if settings.out:
            Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
    rows = probe(policy, problems, settings)
    Console(width=140).print(table(rows))
    if settings.out:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(settings.out)
        print(f"rows: {settings.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
