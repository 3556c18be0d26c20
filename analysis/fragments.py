"""Pieces of the report's page as HTML. Whatever is not ours (outputs, captions, model text) is escaped or cleaned."""

import base64
import io
import re
import struct
from typing import Any
from xml.etree import ElementTree

import bleach
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from nbconvert.filters import strip_ansi

from analysis import plots
from analysis.described import described
from analysis.executed import Executed
from analysis.prose import first_heading, renderer
from analysis.tables import EMPTY, Table

TAGS = {"table", "thead", "tbody", "tr", "th", "td", "p", "em", "div", "caption"}
SCREEN_DPI, SHARPNESS = 110, 2
"""A figure's inch is so many CSS pixels, and so many times as many in the file."""
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, half surrogates, and those that turn the direction of what follows."""
WORD_END = re.compile(r"(?<=[A-Za-z_][._])(?=\w)")
"""Within a name of code, not within an amount."""
NUMBER = re.compile(
    r"(?:[<>≈] ?|about |more than )?[+\-−±]?(?:\d[\d.,]*(?:e[+-]?\d+)?|nan|inf)(?!\w)"
    r"(?:[ %×()+\-−–/.,;\d]|to|s|min|h|k|M|G|paired|levels)*"
)
"""A cell that reads as an amount: `12.5 %`, `+1.2 to +3.4`, `60 k (1.00×)`, `5 paired`."""


def printable(text: str) -> str:
    """The text with a replacement sign for each character that nobody could see, or that HTML may not hold."""
    return UNSEEN.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def shown(value: Any) -> Any:
    """For Jinja's `finalize`: `printable` for text that is not HTML yet."""
    return printable(value) if type(value) is str else value


def table(frame: pd.DataFrame) -> Markup:
    """A frame as an escaped HTML table in a box of its own to scroll in, or nothing for an empty one."""
    return Markup("") if frame.empty else boxed(Table(frame).to_html())


def boxed(html: str) -> Markup:
    """A table from pandas, cleaned, amounts to the right, in a box that scrolls by itself and by keyboard.

    Its caption goes above the box, where it does not scroll away.
    """
    text = clean(html)
    tree = _table_in(text)
    if tree is None:
        return _box("table", Markup(text))
    caption = tree.find("caption")
    words = "".join(caption.itertext()) if caption is not None else ""
    if caption is not None:
        tree.remove(caption)
    align(tree)
    above = Markup('<p class="caption">{}</p>').format(words) if words else Markup("")
    inner = ElementTree.tostring(tree, encoding="unicode", method="html", short_empty_elements=False)
    return above + _box(words or "table", Markup(inner))


def _box(label: str, inner: Markup) -> Markup:
    return Markup('<div class="wide" role="region" aria-label="{}" tabindex="0">{}</div>').format(label, inner)


def _table_in(html: str) -> ElementTree.Element | None:
    """The cleaned HTML as one table; None where it is anything else."""
    try:
        tree = ElementTree.fromstring(html)
    except ElementTree.ParseError:
        return None
    return tree if tree.tag == "table" else None


def clean(html: str) -> str:
    """Keep the tags of a table; everything else becomes text."""
    html = html[: html.find("<style")] + html[html.find("</style>") + 8 :] if "<style" in html else html
    return bleach.clean(printable(html), tags=TAGS, attributes={})


def align(tree: ElementTree.Element) -> None:
    """Mark the cells of columns that hold amounts only, so that they line up at the right; heads say their scope.

    Names, in heads and in the first column, may break where their words end.
    """
    body = [list(row) for row in tree.iterfind("tbody/tr")]
    head = [list(row) for row in tree.iterfind("thead/tr")]
    for column in range(max((len(row) for row in body), default=0)):
        cells = [row[column] for row in body if column < len(row)]
        texts = [(cell.text or "").strip() for cell in cells]
        told = [text for text in texts if text not in ("", EMPTY)]
        if told and all(NUMBER.fullmatch(text) for text in told):
            for cell in [*cells, *(row[column] for row in head if column < len(row))]:
                cell.set("class", "amount")
    for cell in (cell for row in head for cell in row):
        cell.set("scope", "col")
    for cell in (cell for row in [*head, *(cells[:1] for cells in body)] for cell in row):
        cell.text, *others = WORD_END.split(cell.text or "")
        for number, other in enumerate(others):
            breaking = ElementTree.Element("wbr")
            breaking.tail = other
            cell.insert(number, breaking)


def output(figure: Figure | plots.Sentence, about: str = "") -> Markup:
    """A figure as an embedded PNG, a sentence as a paragraph. `about`: what it is of, before what it shows."""
    if isinstance(figure, plots.Sentence):
        return Markup("<p><em>{}</em></p>").format(printable(str(figure)))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=SHARPNESS * SCREEN_DPI)
    return image(base64.b64encode(buffer.getvalue()).decode(), ". ".join(filter(None, (about, described(figure)))))


def image(data: str, label: str, width: int | None = None) -> Markup:
    """An embedded PNG (base64), `width` CSS pixels wide [its own by SHARPNESS], with a text in its place."""
    # the header of a PNG: 8 bytes of signature, 8 of chunk, then width and height
    own, height = struct.unpack(">II", base64.b64decode(data[:44])[16:24])
    width = width or max(1, round(own / SHARPNESS))
    return Markup('<img class="figure" src="data:image/png;base64,{}" alt="{}" width="{}" height="{}">').format(
        data, printable(label), width, max(1, round(height * width / own))
    )


def cells(name: str, executed: Executed) -> list[Markup]:
    """The notebook's prose and outputs, its code folded away. The prose is ours; outputs are not trusted."""
    parts, about, to_html = [], "", renderer(name)
    for cell in executed.notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "markdown":
            about = first_heading(cell.source) or about
            parts.append(Markup('<div class="prose">{}</div>').format(to_html(cell.source)))
        elif cell.cell_type == "code" and not {"parameters", "injected-parameters"} & tags:
            parts += [result(output, about) for output in cell.outputs]
            parts.append(
                Markup('<details class="code"><summary>code</summary><pre>{}</pre></details>').format(cell.source)
            )
    return parts


def result(output: Any, about: str = "figure") -> Markup:
    """One output of a cell: an image, a table that pandas escaped, or text that is escaped here."""
    if output.output_type == "error":
        told = printable(f"{output.ename}: {strip_ansi(output.evalue)}")
        return Markup('<pre class="error">{}</pre>').format(told)
    if output.output_type == "stream":
        return Markup("<pre>{}</pre>").format(printable(strip_ansi(output.text)))
    text = output.data.get("text/plain", "")
    if "image/png" in output.data:
        size = output.get("metadata", {}).get("image/png", {})
        return image(output.data["image/png"].replace("\n", ""), f"{about}. {text}".strip(), size.get("width"))
    if "text/html" in output.data:
        return boxed(output.data["text/html"])
    return Markup("<pre>{}</pre>").format(printable(text))


def failures(notebooks: dict[str, Executed]) -> list[tuple[str, str]]:
    """(notebook, sentence) of those that were not executed to their end."""
    return [(name, printable(executed.failure)) for name, executed in notebooks.items() if executed.failure]


def escaped(text: str) -> Markup:
    """Text as HTML."""
    return escape(printable(text))
