"""How an evaluation is cut into blocks, the least that a kill loses, and what is told while they are worked through."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from saei.benchmarks.record import ITEMS_FOLDER
from saei.config import Config
from saei.parts import part_ranges

TOLD_EVERY_S = 30
"""Seconds between two lines of progress where there is no terminal."""


def blocks(count: int, config: Config, samples: int) -> list[range]:
    """The numbers of `count` items, block by block.

    A block has about two batches of `rollout.batch_rows` sampled completions: less would leave the greedy batches
    small. None crosses a multiple of `batch_rows`, where the blocks of earlier versions began.
    """
    rows = config.rollout.batch_rows
    # an engine that batches by itself wants much at a time
    pieces = ceil(samples / 2) if config.rollout.engine == "transformers" and samples else 1
    size = ceil(rows / pieces)
    return [
        range(first, min(first + size, frame + rows, count))
        for frame in range(0, count, rows)
        for first in range(frame, min(frame + rows, count), size)
    ]


@contextmanager
def progress_of(title: str, count: int, kept: int, folder: Path) -> Iterator[Callable[[int], None]]:
    """Tell at once what begins and where it is kept, then how many items are done: call with that number.

    A bar on a terminal, else a line every TOLD_EVERY_S seconds.
    """
    if kept < count:
        before = f", {kept} of them kept before" if kept else ""
        print(f"{title}: {count} items{before}; finished ones are kept in {folder}", file=sys.stderr, flush=True)
    told = time.monotonic()
    bar = sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=not bar) as progress:
        task = progress.add_task(title, total=count, completed=kept)

        def done(items: int) -> None:
            nonlocal told
            progress.update(task, completed=items)
            if not bar and items < count and time.monotonic() - told >= TOLD_EVERY_S:
                told = time.monotonic()
                print(f"{title}: {items} of {count} items", file=sys.stderr, flush=True)

        yield done


def kept_items(folder: Path) -> int:
    """How many items of a benchmark are in its folder."""
    return sum(last - first + 1 for first, last in part_ranges(folder / ITEMS_FOLDER))


@contextmanager
def interrupted_words(out: Path, names: list[str]) -> Iterator[None]:
    """Ctrl-C inside says how many items are kept in `out`, and that they need not be asked again."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        kept = sum(kept_items(out / name) for name in names)
        raise KeyboardInterrupt(
            f"interrupted; {kept} finished items are kept in {out}; the same command goes on"
        ) from interrupt
