"""How a frame is shown: without row numbers, long texts whole, everything escaped, its caption above it."""

import html

import pandas as pd

from analysis.cells import EMPTY

CAPTION = "caption"


def captioned(frame: pd.DataFrame, caption: str) -> pd.DataFrame:
    """The frame with a caption for `Table`, in `frame.attrs`."""
    frame.attrs[CAPTION] = caption
    return frame


class Table:
    """A frame to be read."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self.caption: str = frame.attrs.get(CAPTION, "")

    def to_html(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            text = self.frame.to_html(index=False, border=0, na_rep=EMPTY)
        if not self.caption:
            return text
        opening, rest = text.split("\n", 1)
        return f"{opening}\n<caption>{html.escape(self.caption)}</caption>\n{rest}"

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        shown = self.frame.to_string(index=False)
        return f"{self.caption}\n{shown}" if self.caption else shown
