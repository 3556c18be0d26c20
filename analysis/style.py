"""How every figure looks, what stands in place of an empty one, and the files that it is saved to."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure

STYLE: dict[str, Any] = {
    **sns.axes_style("ticks"),
    "figure.dpi": 110,
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.9",
    # names of arms and values of settings are text: a dollar in one starts no formula
    "text.parse_math": False,
    "pdf.fonttype": 42,
    # outlines, so that a figure looks the same where the font is missing
    "svg.fonttype": "path",
}
DOTS_PER_INCH = 180


class Sentence(str):
    """What stands in place of an empty plot."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p><em>{html.escape(self)}</em></p>"


def save(figure: Figure, stem: Path, kinds: Sequence[str] = ("png", "svg", "pdf")) -> list[Path]:
    """Write `stem`.png, `stem`.svg (text as outlines) and `stem`.pdf (fonts embedded); returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in kinds]
    # fonts are chosen when a file is written, not when the figure is drawn
    with rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        for path in paths:
            figure.savefig(path, dpi=DOTS_PER_INCH)
            figure.set_layout_engine("none")  # laid out once: the other kinds have the same places
    return paths
