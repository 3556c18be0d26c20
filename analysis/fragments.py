"""Pieces of the report's page as HTML. Whatever is not ours (outputs, captions, model text) is escaped or cleaned."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import base64
import io
from typing import Any

import bleach
import nbformat
import pandas as pd
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from nbconvert.filters import markdown2html, strip_ansi

from analysis import plots
from analysis.tables import Table


def table(frame: pd.DataFrame) -> Markup:
    """A frame as an escaped HTML table, or nothing for an empty one."""
    if frame.empty:
        return Markup("")
    return Markup('<div class="wide">' + Table(frame).to_html() + "</div>")


def output(figure: Figure | plots.Sentence) -> Markup:
    """A figure as an embedded PNG, a sentence as a paragraph."""
    if isinstance(figure, plots.Sentence):
        return Markup(f"<p><em>{escape(str(figure))}</em></p>")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=180)
    return image(base64.b64encode(buffer.getvalue()).decode(), figure.axes[0].get_ylabel() or "accuracy by arm")


def image(data: str, label: str) -> Markup:
    return Markup('<img class="figure" src="data:image/png;base64,{}" alt="{}">').format(data, label)


def cells(notebook: nbformat.NotebookNode) -> list[Markup]:
    """The notebook's prose and outputs, its code folded away. The prose is ours; outputs are not trusted."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(Markup('<div class="prose">' + markdown2html(cell.source) + "</div>"))
        elif not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
            parts += [result(output) for output in cell.outputs]
            parts.append(Markup("<details><summary>code</summary><pre>{}</pre></details>").format(cell.source))
    return parts


def result(output: Any) -> Markup:
    """One output of a cell: an image, a table that pandas escaped, or text that is escaped here."""
    if output.output_type == "error":
        return Markup('<pre class="error">{}</pre>').format(f"{output.ename}: {strip_ansi(output.evalue)}")
    if output.output_type == "stream":
        return Markup("<pre>{}</pre>").format(strip_ansi(output.text))
    if "image/png" in output.data:
        return image(output.data["image/png"].replace("\n", ""), "figure")
    if "text/html" in output.data:
        return Markup('<div class="wide">' + clean(output.data["text/html"]) + "</div>")
    return Markup("<pre>{}</pre>").format(output.data.get("text/plain", ""))


def clean(html: str) -> str:
    """Keep the tags of a table; everything else becomes text."""
    tags = {"table", "thead", "tbody", "tr", "th", "td", "p", "em", "div", "caption"}
    html = html[: html.find("<style")] + html[html.find("</style>") + 8 :] if "<style" in html else html
    return bleach.clean(html, tags=tags, attributes={})
