"""What one prefix for all completions is worth: packed groups against plain rows, forward and forward + backward.

    python -m benchmarks.prefix
    python -m benchmarks.prefix --points 1024x12x300 --pack-tokens 16384

A point is prefix tokens (three quarters of them the image) x completions x tokens of a completion. `per row` is the
stock transformers forward over one right-padded row for each completion, image and prompt in every row. The floor is
the stock forward over as many tokens as the packed group has, in rows as long as a plain one, with the image once:
`over floor` says how much longer the packed group takes. All score the same number of tokens, log-probs and entropies;
equality of log-probs and gradients is asserted before the clock starts. Log-probs are those of random tokens.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.budget import Budget, rounds_within
from benchmarks.limits import check, run_benchmark
from benchmarks.packed_group import (
    FLOOR,
    ONE_ROW,
    PACKED,
    PER_ROW,
    GroupWork,
    Point,
    assert_equal_work,
    backward,
    contenders,
    forward,
    group_work,
)
from benchmarks.stock import stock_policy
from benchmarks.timing import Spread, machine, ratio, write_figures
from saei.cli import BadInput
from saei.config import Config
from saei.policy import load_policy

GRID = (
    "64x4x32", "64x16x32", "64x12x128", "256x12x32", "256x12x128", "256x4x512", "512x8x128",
    "1024x4x32", "1024x12x32", "1024x8x128", "2048x4x32", "64x4x2048",
)  # fmt: skip
QUICK = ("64x3x8", "64x8x48")
FORWARD = "forward"
PASSES = {FORWARD: "fwd", "forward + backward": "fwd+bwd"}
TOLERANCE = 1e-4
"""Nats by which a log-prob may differ between packed and plain rows, in float32."""
GRADIENT_TOLERANCE = 1e-3
"""The same for a weight's gradient, as a share of the largest gradient."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    points: tuple[str, ...] = GRID
    """Groups as PREFIXxCOMPLETIONSxLENGTH, in tokens, timed in this order."""
    shortest: float = 1.0
    """Length of the shortest completion as a share of the longest; below 1, plain rows are padded."""
    pack_tokens: int = 6144
    """Token budget of a packed pass, as optim.pack_tokens."""
    rounds: int = 20
    """At most so many rounds a point."""
    seconds: float = 85.0
    """Wall-clock seconds for all points; one that would begin later is left out, and the table says so."""
    threads: int = 1
    """CPU threads of torch."""
    quick: bool = False
    """Two small points, three rounds: seconds, for the test."""
    out: str = ""
    """Write the figures to this JSON file."""


def point_of(text: str) -> Point:
    """`1024x12x300` as a point. Raises BadInput for anything else."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise BadInput(f"--points has {text!r}; a point is PREFIXxCOMPLETIONSxLENGTH in tokens, such as 1024x12x300")
    prefix, completions, length = map(int, parts)
    if prefix < 16:
        raise BadInput(f"--points has {text!r}; a prefix with an image has at least 16 tokens")
    return Point(prefix, completions, length)


def measure(work: GroupWork, rounds: int, budget: Budget) -> dict[str, dict[str, list[float]]]:
    """Seconds of every contender by pass and round."""
    ways = contenders(work)
    passes = {
        f"{kind}: {name}": partial(forward, way) if kind == FORWARD else partial(backward, work, way)
        for name, way in ways.items()
        for kind in PASSES
    }
    timed = rounds_within(budget, passes, rounds)
    work.policy.model.zero_grad(set_to_none=True)
    return {kind: {name: timed[f"{kind}: {name}"] for name in ways} for kind in PASSES}


def figures_of(point: Point, work: GroupWork, seconds: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """The JSON of a point. The floor is scaled to the packed group's tokens: its rows round them up."""
    found: dict[str, Any] = {
        **asdict(point),
        "packed_tokens": work.packed_tokens,
        "rows_chosen": work.rows,
        "tokens_chosen": work.row_tokens,
        "per_row_tokens": sum(rows.tokens for rows in work.plain),
        "floor_tokens": work.floor.tokens,
    }
    for kind, timed in seconds.items():
        floor = [value * work.packed_tokens / work.floor.tokens for value in timed[FLOOR]]
        found[kind] = {
            "seconds": {name: asdict(Spread.of(values)) for name, values in timed.items()},
            "floor_seconds": asdict(Spread.of(floor)),
            "per_row_over_packed": asdict(ratio(timed[PER_ROW], timed[PACKED])),
            "packed_over_floor": asdict(ratio(timed[PACKED], floor)),
        }
        if ONE_ROW in timed:
            found[kind]["one_row_over_packed"] = asdict(ratio(timed[ONE_ROW], timed[PACKED]))
    return found


def table_of(figures: list[dict[str, Any]], left_out: str | None, settings: Settings) -> Table:
    """One line for each point and pass."""
    title = f"One group on the tiny model, {settings.threads} thread(s): medians in ms, ratios of rounds"
    table = Table(title=title, caption=left_out)
    for column in ("point", "pass", "tokens", "rows", "packed", "one row", "per row", "floor"):
        table.add_column(column, justify="left" if column in ("point", "pass") else "right")
    for column in ("per row / packed", "packed / floor", "rounds"):
        table.add_column(column, justify="right")
    for row in figures:
        name = f"{row['prefix']}x{row['completions']}x{row['length']}"
        for kind, shown in PASSES.items():
            timed = row[kind]
            ms = {way: f"{spread['median'] * 1000:.0f}" for way, spread in timed["seconds"].items()}
            same = "as packed" if row["rows_chosen"] == 1 else "too long"
            table.add_row(
                name if kind == FORWARD else "",
                shown,
                f"{row['packed_tokens']:,}" if kind == FORWARD else "",
                str(row["rows_chosen"]) if kind == FORWARD else "",
                ms[PACKED],
                ms.get(ONE_ROW, same),
                ms[PER_ROW],
                f"{timed['floor_seconds']['median'] * 1000:.0f}",
                f"{timed['per_row_over_packed']['median']:.2f}",
                f"{timed['packed_over_floor']['median']:.2f}",
                str(timed["packed_over_floor"]["rounds"]),
            )
    return table


def main(settings: Settings) -> int:
    check(settings)
    torch.set_num_threads(settings.threads)
    where = machine()
    names, most = (QUICK, 3) if settings.quick else (settings.points, settings.rounds)
    points = {name: point_of(name) for name in names}
    config = Config()
    policy = load_policy(config.model, config.data)
    stock = stock_policy(policy)
    figures: list[dict[str, Any]] = []
    budget = Budget(settings.seconds)
    for name, share in budget.shares(names):
        work = group_work(policy, stock, points[name], shortest=settings.shortest, pack_tokens=settings.pack_tokens)
        nats, gradient = assert_equal_work(work, TOLERANCE, GRADIENT_TOLERANCE)
        seconds = measure(work, most, share)
        differ = {"logprobs_differ": nats, "gradients_differ": gradient}
        figures.append(figures_of(points[name], work, seconds) | differ)
    Console(width=120).print(table_of(figures, budget.told(), settings))
    tree = {"settings": asdict(settings), "tolerance": TOLERANCE, "points": figures, "skipped": budget.skipped}
    write_figures(settings.out, "prefix", where, tree)
    return 0


def command(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return main(tyro.cli(Settings, args=arguments, prog="python -m benchmarks.prefix"))


if __name__ == "__main__":
    sys.exit(run_benchmark(command))
