"""Pictures of strips: clean | moved | amplified difference, and below them what the attack read.

The lowest seed of each arm, spread over arms and steps.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis.strip_files import Strip, read_strip
from analysis.strip_text import GLYPH_WIDTH, Piece, draw_pieces, laid_out, lines_of, plain
from analysis.style import STYLE, Sentence

WIDTH, MARGIN = 6.4, 0.1
"""Inches of the figure, and beside everything in it."""
PANEL_GAP = 0.12
HIGHEST = 3.0
"""Inches of a picture at most; a panel is as wide as a third of the figure."""
TEXT_SIZE = 7.0
LINE = 0.145
"""Inches of a line of text."""
MOST_LINES = 7
"""Of one completion."""
COLUMNS = int((WIDTH - 2 * MARGIN) / (TEXT_SIZE * GLYPH_WIDTH / 72))
TITLE, HEADS, BETWEEN = 0.2, 0.2, 0.22
"""Inches of a strip's title, of the panels' titles, and between strips."""
GREY = 128


@dataclass(frozen=True, slots=True)
class _Block:
    """A strip with its texts laid out; `height`: of its pictures, `texts`: (heading, pieces, what is left out)."""

    title: str
    strip: Strip
    height: float
    texts: list[tuple[str, list[Piece], str]]

    @property
    def lines(self) -> int:
        own = sum(1 + lines_of(pieces) + bool(rest) for _, pieces, rest in self.texts)
        return own or bool(self.strip.note)

    @property
    def inches(self) -> float:
        return TITLE + HEADS + self.height + 0.06 + LINE * self.lines + BETWEEN


def strip_gallery(strips: pd.DataFrame, most: int = 6) -> Figure | Sentence:
    """`SweepData.strips()`: at most `most` strips, the tokens that the attack acted on marked in the completions.

    A file that is no strip is left out, and the last line of the figure says how many were.
    """
    chosen = spread(strips, most)
    if chosen.empty:
        return Sentence("No image strips: no run with a changed image has recorded one.")
    blocks, damaged = [], []
    for row in chosen.itertuples():
        try:
            blocks.append(_block(row, read_strip(row.path)))
        except ValueError as error:
            damaged.append(str(error))
    left_out = f"{len(damaged)} of {len(chosen)} strips cannot be shown: {plain(damaged[0], 200)}" if damaged else ""
    if not blocks:
        return Sentence(f"{left_out}.")
    height = sum(block.inches for block in blocks) + (0.2 if left_out else 0.0)
    with rc_context({**STYLE, "axes.grid": False, "text.parse_math": False}):
        figure = Figure(figsize=(WIDTH, height))
        top = height
        for block in blocks:
            _draw(figure, block, top)
            top -= block.inches
        if left_out:
            figure.text(MARGIN / WIDTH, 0.06 / height, plain(left_out, 110), size=7, color="0.35", va="bottom")
    return figure


def spread(strips: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` strips of the lowest seed of each arm: first and last step of every arm first."""
    if strips.empty:
        return strips
    lowest = strips.groupby("arm", observed=True)["seed"].transform("min")
    own = strips[strips["seed"] == lowest].sort_values(["arm", "step"])
    ends = own.groupby("arm", observed=True)["step"].agg(["min", "max"])
    of_end = own.join(ends, on="arm")
    rank = np.where(of_end["step"] == of_end["min"], 0, np.where(of_end["step"] == of_end["max"], 1, 2))
    return (
        own.assign(rank=rank).sort_values(["rank", "arm"]).head(most).sort_values(["arm", "step"]).drop(columns="rank")
    )


def _block(row: object, strip: Strip) -> _Block:
    texts = []
    for number, completion in enumerate(strip.completions, start=1):
        pieces, rest = laid_out(completion, COLUMNS, MOST_LINES)
        count = f"{len(completion.kept)} of {len(completion.tokens)} tokens"
        texts.append((f"clean completion {number}; marked: the {count} that the attack acted on", pieces, rest))
    height, width = strip.clean.shape[:2]
    arm, problem = plain(str(row.arm), 32), plain(str(row.problem_id), 32)
    title = f"{arm}, seed {row.seed}, step {row.step}, view {plain(str(row.view), 16)}, {problem}"
    return _Block(title, strip, min(HIGHEST, _panel_width() * height / width), texts)


def _panel_width() -> float:
    return (WIDTH - 2 * MARGIN - 2 * PANEL_GAP) / 3


def _draw(figure: Figure, block: _Block, top: float) -> None:
    height = figure.get_size_inches()[1]
    figure.text(MARGIN / WIDTH, (top - 0.14) / height, block.title, size=9, weight="bold", va="baseline")
    change = block.strip.change
    largest = int(np.abs(change).max())
    factor = 127 / max(1, largest)
    amplified = (GREY + change * factor).round().clip(0, 255).astype(np.uint8)
    levels = f"{largest} grey level{'s' * (largest != 1)}"
    pictures = {
        "clean": block.strip.clean,
        f"moved by up to {levels}" if largest else "not moved": block.strip.moved,
        f"difference × {factor:.3g}" if largest else "no difference": amplified,
    }
    bottom = top - TITLE - HEADS - block.height
    for number, (name, pixels) in enumerate(pictures.items()):
        left = MARGIN + number * (_panel_width() + PANEL_GAP)
        axes = figure.add_axes((left / WIDTH, bottom / height, _panel_width() / WIDTH, block.height / height))
        axes.imshow(pixels, interpolation="nearest")
        axes.set_anchor("NW")
        axes.set_title(name, loc="left", size=8, pad=3, color="0.25")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(visible=True, color="0.8", linewidth=0.5)
    _write(figure, block, bottom - 0.06)


def _write(figure: Figure, block: _Block, top: float) -> None:
    """The completions, or the note on why there are none."""
    if not block.lines:
        return
    height = figure.get_size_inches()[1]
    tall = LINE * block.lines
    axes = figure.add_axes(((MARGIN / WIDTH), (top - tall) / height, 1 - 2 * MARGIN / WIDTH, tall / height))
    axes.set_xlim(0, (WIDTH - 2 * MARGIN) / (TEXT_SIZE * GLYPH_WIDTH / 72))
    axes.set_ylim(block.lines, 0)
    axes.set_axis_off()
    line = 0
    for heading, pieces, rest in block.texts:
        axes.text(0, line + 0.72, heading, size=7, style="italic", color="0.35")
        draw_pieces(axes, pieces, size=TEXT_SIZE, first_line=line + 1)
        line += 1 + lines_of(pieces)
        if rest:
            axes.text(0, line + 0.72, rest, size=7, style="italic", color="0.35")
            line += 1
    if not block.texts:
        axes.text(0, 0.72, block.strip.note, size=7, style="italic", color="0.35")
