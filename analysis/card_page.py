"""The reproduction card on paper: one self-contained HTML page without scripts, and a table for the terminal."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jinja2
import pandas as pd
from rich.table import Table as TerminalTable
from rich.text import Text

from analysis import card, card_figure, card_tolerance, fragments
from analysis.card_words import SILENT
from analysis.load import SweepData
from analysis.tables import EMPTY
from analysis.whole import write_whole

IN_TERMINAL = ("id", "claim", "ours", "verdict")


def write(
    path: Path, sweeps: Sequence[SweepData], found: pd.DataFrame, frame: pd.DataFrame, sentences: Sequence[str] = ()
) -> Path:
    """Write the card of `sweeps` to `path`, whole or not at all; `found` and `frame` are their evidence and card."""
    loader = jinja2.FileSystemLoader(Path(__file__).resolve().parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=fragments.shown
    )
    recipe, left_open = card.recipe_of(sweeps, found)
    page = environment.get_template("card.html.j2").render(
        summary=card.summary(frame),
        sentences=sentences,
        forest=fragments.output(card_figure.forest(found), "Our estimates beside the papers' effects"),
        rows=[{**row, "spoken": not row["verdict"].startswith(SILENT)} for row in frame.to_dict("records")],
        shown=[name for name in frame.columns if name not in ("id", "claim", "verdict")],
        empty=EMPTY,
        tolerances=fragments.table(card_tolerance.table()),
        spread=card_tolerance.spread_of_readings(),
        readings=fragments.table(card_tolerance.readings(found)),
        recipe=fragments.table(recipe),
        open=fragments.table(left_open),
        built=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    write_whole(path, page)
    return path


def in_terminal(frame: pd.DataFrame) -> TerminalTable:
    """IN_TERMINAL of the card; cells are plain text, whatever they look like."""
    table = TerminalTable(show_lines=True, expand=True)
    for name, ratio in zip(IN_TERMINAL, (None, 7, 10, 12), strict=True):
        table.add_column(Text(name), ratio=ratio, no_wrap=ratio is None)
    for row in frame[list(IN_TERMINAL)].to_dict("records"):
        table.add_row(*(Text(str(row[name])) for name in IN_TERMINAL))
    return table
