"""How many clean completions make GRPO cost what another preset costs? Measured on real steps, sampling included.

The cost of a step is the token positions that went through a forward pass without backward (sampling, old log-probs
that the first update does not find by itself, the attack's ledger) plus those through a forward and backward pass
(update, the attack's gradient).
GRPO's cost is affine in its number of completions, so two sizes of it tell the one that is asked for.

    python -m sweeps.match --preset saei
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from saei.cli import bad_input, checked_command_line, run_main
from saei.config import with_overrides
from saei.presets import preset

QUICK: dict[str, Any] = {
    "eval.every": 0,
    "eval.problems": 1,
    "eval.samples": 1,
    "eval.test_problems": 1,
    "eval.shifted_problems": 0,
    "record.fresh_every": 0,
    "record.strips_per_step": 0,
}
SIZES = (12, 24)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig:
    """Measure the cost of a preset's steps and the size of GRPO that costs the same."""

    preset: str = "saei"
    """The preset to match."""
    model: str = "tiny"
    """Policy: `tiny`, a folder in Hugging Face format, or a hub id."""
    steps: int = 6
    """Steps measured of each run."""
    seed: int = 0
    """Training seed."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


def step_cost(name: str, settings: MatchConfig, **changed: Any) -> tuple[float, float]:
    """Mean (forward-only, forward-and-backward) token positions of a step of preset `name`."""
    from saei.train import train

    with tempfile.TemporaryDirectory() as folder:
        fixed = {"steps": settings.steps, "seed": settings.seed, "model.path": settings.model, "out": folder}
        train(with_overrides(preset(name), {**QUICK, **fixed, **changed}))
        rows = [
            row
            for part in sorted((Path(folder) / "steps").glob("*.parquet"))
            for row in pq.read_table(part, columns=["tokens_forward", "tokens_backward"]).to_pylist()
        ]
    return tuple(sum(row[name] for row in rows) / len(rows) for name in ("tokens_forward", "tokens_backward"))  # pyright: ignore[reportReturnType]


def matched_completions(target: float, small: float, large: float) -> int:
    """The number of completions whose cost is nearest `target`, given the costs of SIZES completions."""
    slope = (large - small) / (SIZES[1] - SIZES[0])
    return max(2, round(SIZES[0] + (target - small) / slope))


def main(arguments: Sequence[str] | None = None) -> int:
    settings = checked_command_line(MatchConfig, arguments, prog="python -m sweeps.match")
    with bad_input():
        preset(settings.preset)
        wanted = step_cost(settings.preset, settings)
        costs = [step_cost("grpo", settings, **{"rollout.n_clean": size, "rollout.n_view": 0}) for size in SIZES]
        size = matched_completions(sum(wanted), *(sum(cost) for cost in costs))
        reached = step_cost("grpo", settings, **{"rollout.n_clean": size, "rollout.n_view": 0})
    table = Table("arm", "forward", "backward", "sum", "against the preset", title="token positions a step")
    shown = [(settings.preset, wanted), *((f"grpo ({n})", cost) for n, cost in zip(SIZES, costs, strict=True))]
    for name, cost in [*shown, (f"grpo_matched ({size})", reached)]:
        ratio = sum(cost) / sum(wanted)
        table.add_row(name, *(f"{value:,.0f}" for value in (*cost, sum(cost))), f"{ratio:.3f}")
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
