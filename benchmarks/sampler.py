"""Our sampler against the stock `generate(num_return_sequences=n)`, over batch, length and size of the image.

    python -m benchmarks.sampler
    python -m benchmarks.sampler --points 448x8x64 --completions 16

A point is pixels (side of the image) x problems x tokens of a completion. Both suppress the same tokens and the end, so
that all completions have the full length; greedy decoding is asserted to agree token for token before the clock starts.
Ours returns log-probs, entropies and the removed mass of every token beside it, `generate` tokens only. The floor is
the stock forward over each prompt once, then over as many rows of one token as there are completions, once a token: no
cache is read or written, nothing is drawn.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.budget import Budget, rounds_within
from benchmarks.decoding import GENERATE, OURS, SamplingWork, assert_equal_work, contenders, floor
from benchmarks.limits import check, run_benchmark
from benchmarks.stock import stock_policy
from benchmarks.timing import Spread, machine, ratio, write_figures
from saei.cli import BadInput
from saei.config import Config, with_overrides
from saei.data import load_problems
from saei.policy import Policy, load_policy
from saei.types import Prompt

GRID = (
    "84x1x128", "84x8x32", "448x1x32", "448x4x32", "84x4x128", "448x8x32", "84x8x128", "448x4x128", "84x8x256",
)  # fmt: skip
QUICK = ("84x1x8", "168x2x8")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    points: tuple[str, ...] = GRID
    """PIXELSxPROBLEMSxLENGTH: side of the image, problems of a batch, tokens of every completion."""
    completions: int = 12
    """Completions of each problem."""
    greedy_tokens: int = 64
    """Tokens of the greedy completions that are compared first."""
    rounds: int = 20
    """At most so many rounds a point."""
    seconds: float = 60.0
    """Wall-clock seconds for all points; one that would begin later is left out, and the table says so."""
    threads: int = 1
    """CPU threads of torch."""
    quick: bool = False
    """Two small points, three rounds: seconds, for the test."""
    out: str = ""
    """Write the figures to this JSON file."""


class Point(NamedTuple):
    """Side of the image in pixels, problems, tokens of a completion."""

    pixels: int
    problems: int
    length: int


def point_of(text: str) -> Point:
    """`448x8x64` as a point. Raises BadInput for anything else."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts) or int(parts[0]) % 28:
        raise BadInput(
            f"--points has {text!r}; a point is PIXELSxPROBLEMSxLENGTH, pixels a multiple of 28, such as 448x8x64"
        )
    return Point(*map(int, parts))


def prompts_of(side: int, count: int) -> tuple[Policy, tuple[Prompt, ...]]:
    """The shipped model and the first training problems, every image resized to `side` x `side` pixels."""
    config = with_overrides(Config(), {"data.min_pixels": side * side, "data.max_pixels": side * side})
    policy = load_policy(config.model, config.data)
    problems = load_problems(config.data, config.data.train_split)
    return policy, tuple(policy.encode(problems[i]) for i in range(count))


def figures_of(point: Point, work: SamplingWork, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The JSON of a point."""
    least = floor(work, seconds)
    return {
        **point._asdict(),
        "rows": work.rows,
        "prompt_tokens": sum(len(prompt.token_ids) for prompt in work.prompts),
        "seconds": {name: asdict(Spread.of(values)) for name, values in seconds.items()},
        "floor_seconds": asdict(Spread.of(least)),
        "tokens_per_second": {
            name: asdict(Spread.of([work.tokens / value for value in seconds[name]])) for name in (OURS, GENERATE)
        },
        "generate_over_ours": asdict(ratio(seconds[GENERATE], seconds[OURS])),
        "ours_over_floor": asdict(ratio(seconds[OURS], least)),
    }


def table_of(figures: list[dict[str, Any]], left_out: str | None, settings: Settings) -> Table:
    """One line for each point."""
    title = f"Sampling {settings.completions} completions a problem on the tiny model, {settings.threads} thread(s)"
    table = Table(title=title, caption=left_out)
    for column in ("image (px)", "prompts", "rows", "length", "ours (s)", "generate (s)", "floor (s)"):
        table.add_column(column, justify="right")
    for column in ("ours (tok/s)", "generate / ours", "ours / floor", "rounds"):
        table.add_column(column, justify="right")
    for row in figures:
        seconds = {name: f"{spread['median']:.3f}" for name, spread in row["seconds"].items()}
        table.add_row(
            str(row["pixels"]),
            str(row["problems"]),
            str(row["rows"]),
            str(row["length"]),
            seconds[OURS],
            seconds[GENERATE],
            f"{row['floor_seconds']['median']:.3f}",
            f"{row['tokens_per_second'][OURS]['median']:,.0f}",
            f"{row['generate_over_ours']['median']:.2f}",
            f"{row['ours_over_floor']['median']:.2f}",
            str(row["ours_over_floor"]["rounds"]),
        )
    return table


def main(settings: Settings) -> int:
    check(settings)
    torch.set_num_threads(settings.threads)
    where = machine()
    names, most = (QUICK, 3) if settings.quick else (settings.points, settings.rounds)
    points = {name: point_of(name) for name in names}
    figures: list[dict[str, Any]] = []
    budget = Budget(settings.seconds)
    for name, share in budget.shares(names):
        point = points[name]
        policy, prompts = prompts_of(point.pixels, point.problems)
        work = SamplingWork(
            policy=policy,
            stock=stock_policy(policy),
            prompts=prompts,
            completions=settings.completions,
            length=point.length,
            batch_rows=Config().rollout.batch_rows,
        )
        agreed = assert_equal_work(work, settings.greedy_tokens)
        seconds = rounds_within(share, contenders(work), most)
        figures.append(figures_of(point, work, seconds) | agreed)
    Console(width=120).print(table_of(figures, budget.told(), settings))
    tree = {"settings": asdict(settings), "points": figures, "skipped": budget.skipped}
    write_figures(settings.out, "sampler", where, tree)
    return 0


def command(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return main(tyro.cli(Settings, args=arguments, prog="python -m benchmarks.sampler"))


if __name__ == "__main__":
    sys.exit(run_benchmark(command))
