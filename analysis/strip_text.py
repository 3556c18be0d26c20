"""A completion's tokens in lines of fixed width, those that the attack acted on marked; nothing in them is obeyed.

Model text may hold control characters, writing directions, mathematics signs and anything else; what is drawn is the
characters alone, one cell each.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.patches import Rectangle

from analysis.strip_files import Completion

FONT = "DejaVu Sans Mono"
"""Comes with matplotlib; all its glyphs have one width, 0.602 of the size."""
GLYPH_WIDTH = 0.602
VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "␣"}
WITHOUT_TEXT = "∅"
"""A token that decodes to nothing, such as the end of the completion."""
WITHOUT_GLYPH = "□"
MOST_OF_A_TOKEN = 120
"""Characters of one token that are shown."""
DRAWN_AT_ONCE = 6
"""Characters: a picture's glyphs are a little wider than their cells, as pixels have it, and must not run away."""
MARK, UNDERLINE = "#ffd98a", "#8a4b00"


@dataclass(frozen=True, slots=True)
class Piece:
    """A token, or the part of one that a line has room for, in its first cell."""

    text: str
    kept: bool
    line: int
    column: int


def visible(token: str) -> str:
    """The token as drawn: line ends and tabs as signs, control and direction characters gone, one cell a character."""
    shown = []
    for character in unicodedata.normalize("NFC", token[:MOST_OF_A_TOKEN]):
        if character in VISIBLE:
            shown.append(VISIBLE[character])
        elif unicodedata.category(character)[0] == "C":
            continue
        elif unicodedata.category(character)[0] == "Z":
            shown.append(" ")
        else:
            shown.append(character if _has_glyph(character) else WITHOUT_GLYPH)
    return "".join(shown) + ("…" if len(token) > MOST_OF_A_TOKEN else "") or WITHOUT_TEXT


def plain(text: str, most: int) -> str:
    """A name from data in one line of at most `most` characters, without control and direction characters."""
    kept = "".join(" " if c in "\n\r\t" else c for c in text[: 4 * most] if c in "\n\r\t" or c.isprintable())
    return kept if len(kept) <= most else kept[: most - 1] + "…"


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    # a mark that combines with the character before it has no cell of its own
    if unicodedata.category(character)[0] == "M":
        return False
    return all(font.get_char_index(ord(character)) for font in _fonts())


@lru_cache(maxsize=1)
def _fonts() -> tuple[FT2Font, ...]:
    return tuple(FT2Font(findfont(FontProperties(family=FONT, weight=weight))) for weight in ("normal", "bold"))


def laid_out(completion: Completion, width: int, most_lines: int) -> tuple[list[Piece], str]:
    """Pieces in lines of `width` cells, and how many tokens did not fit in `most_lines` ("" where all did).

    A token that fits in a line is not divided; after a line end a new line begins.
    """
    pieces: list[Piece] = []
    line = column = 0
    for position, token in enumerate(completion.tokens):
        text, kept = visible(token), position in completion.kept
        if column and column + len(text) > width:
            line, column = line + 1, 0
        parts = [text[start : start + width] for start in range(0, len(text), width)]
        if line + len(parts) > most_lines:
            left = range(position, len(completion.tokens))
            marked = sum(other in completion.kept for other in left)
            return pieces, f"… {len(left)} more tokens, {marked} of them marked"
        for number, part in enumerate(parts):
            line, column = (line + 1, 0) if number else (line, column)
            pieces.append(Piece(part, kept, line, column))
            column += len(part)
        if text.endswith(VISIBLE["\n"]):
            line, column = line + 1, 0
    return pieces, ""


def lines_of(pieces: list[Piece]) -> int:
    """How many lines the pieces take."""
    return 1 + max((piece.line for piece in pieces), default=-1)


def draw_pieces(axes: Axes, pieces: list[Piece], *, size: float, first_line: float = 0.0) -> None:
    """Draw into axes whose unit is a cell across and a line down (y grows downwards).

    Marked tokens have a background, an underline and bold type: in grey print the last two remain.
    """
    for piece in pieces:
        top = first_line + piece.line
        if piece.kept:
            end = piece.column + len(piece.text)
            box = (piece.column + 0.06, top + 0.06)
            axes.add_patch(Rectangle(box, len(piece.text) - 0.12, 0.86, facecolor=MARK, linewidth=0, zorder=1))
            axes.plot(
                [piece.column + 0.06, end - 0.06], [top + 0.92] * 2, color=UNDERLINE, linewidth=1.1, zorder=2,
                solid_capstyle="butt",
            )  # fmt: skip
        look: dict[str, Any] = {"weight": "bold" if piece.kept else "normal", "color": "black" if piece.kept else "0.3"}
        for start in range(0, len(piece.text), DRAWN_AT_ONCE):
            axes.text(
                piece.column + start,
                top + 0.72,
                piece.text[start : start + DRAWN_AT_ONCE],
                family=FONT,
                size=size,
                va="baseline",
                ha="left",
                parse_math=False,
                zorder=3,
                **look,
            )
