"""How the looking commands print: short durations, tables that fit a terminal, plain columns in a pipe."""

import shutil
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

STYLES = {
    "failed": "bold red",
    "running": "green",
    "starting": "green",
    "evaluating": "green",
    "queued": "cyan",
    "submitted": "cyan",
    "stopped": "yellow",
    "cancelled": "yellow",
    "missing": "dim",
    "pruned": "dim",
    "finished": "dim green",
}


def short(seconds: float | None) -> str:
    """90 -> "90 s", 600 -> "10 min", 7,200 -> "2.0 h", 200,000 -> "2.3 d"; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def counted(number: int, thing: str, things: str = "") -> str:
    """ "1 job", "2 jobs"; `things`: a plural that is not formed with -s."""
    return f"{number} {thing}" if number == 1 else f"{number} {things or thing + 's'}"


def console() -> Console:
    """Standard output; in a pipe as wide as any line."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=1000)


def width(of: Console) -> int:
    """Columns of the terminal; very many in a pipe."""
    return of.width if of.is_terminal else 1000


def terminal_lines() -> int:
    return shutil.get_terminal_size().lines


def grid(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), may_shrink: str = ""
) -> Table:
    """A table for a terminal. No cell is wrapped; the column `may_shrink` gives way, with an ellipsis."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for head in heads:
        justify = "right" if head in right else "left"
        widest = max([len(head), *(len(row[heads.index(head)]) for row in rows)])
        least = min(widest, 8) if head == may_shrink else widest
        table.add_column(head, no_wrap=True, overflow="ellipsis", justify=justify, min_width=least)
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def print_grid(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), may_shrink: str = ""
) -> None:
    """`grid` in a terminal; elsewhere columns of plain text, a line a row, nothing cut."""
    out = console()
    if out.is_terminal:
        out.print(grid(heads, rows, right=right, may_shrink=may_shrink))
        return
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = [cell.rjust(size) if head in right else cell.ljust(size)
                 for cell, size, head in zip(line, widths, heads, strict=True)]  # fmt: skip
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def print_lines(lines: Sequence[str]) -> None:
    """Sentences, as they are: no markup, wrapped by the terminal only."""
    for line in lines:
        sys.stdout.write(line + "\n")
