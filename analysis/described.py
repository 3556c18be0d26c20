"""What a figure shows, in words: for those who cannot see it, and where only text is shown."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

NAMED = 12
"""Most panels, lines or ticks that are named."""


def described(figure: Figure) -> str:
    """Titles, axes with their units, and the names in the legend or beside the lines, in one line."""
    panels = [axes for axes in figure.axes if axes.get_visible()]
    main = [axes for axes in panels if axes.get_label() != "<colorbar>"]
    titles = [figure.get_suptitle(), *(axes.get_title(loc) for axes in main for loc in ("left", "center", "right"))]
    upright = [axes.get_ylabel() for axes in main] + [figure.get_supylabel()]
    level = [axes.get_xlabel() for axes in main] + [figure.get_supxlabel()]
    parts = [
        ("Figure", _listed(titles)),
        ("upright", _listed(upright) or _listed(name for axes in main for name in _names(axes, "y"))),
        ("across", _listed(level)),
        ("shown", _listed(_shown(figure, main))),
        ("colour", _listed(axes.get_ylabel() for axes in panels if axes not in main)),
    ]
    text = "; ".join(f"{name}: {value}" for name, value in parts if value)
    return text if text.startswith("Figure") else f"Figure; {text}" if text else "Figure without text"


def _shown(figure: Figure, panels: list[Axes]) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in panels)]
    named = [text.get_text() for legend in legends if legend is not None for text in legend.get_texts()]
    beside = [text.get_text() for axes in panels for text in axes.texts]
    rows = [name for axes in panels if axes.get_ylabel() == "" for name in _names(axes, "y")]
    return named or beside or rows


def _names(axes: Axes, which: str) -> list[str]:
    """Tick labels that are names and no numbers."""
    labels = axes.get_yticklabels() if which == "y" else axes.get_xticklabels()
    return [label.get_text() for label in labels if any(letter.isalpha() for letter in label.get_text())]


def _listed(names: Iterable[str]) -> str:
    """Each name once, in order, without line breaks; the rest as a count."""
    distinct = list(dict.fromkeys(", ".join(name.strip().splitlines()) for name in names if name.strip()))
    more = [f"and {len(distinct) - NAMED} more"] if len(distinct) > NAMED else []
    return ", ".join([*distinct[:NAMED], *more])


def in_plain_text(shell: Any) -> None:
    """Have an IPython shell say what a figure shows in the text that goes with its picture."""
    # before each cell: the choice of picture formats forgets what was registered for figures
    shell.events.register("pre_run_cell", _register)


def _register(_: object) -> None:
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    formatter = shell.display_formatter.formatters["text/plain"]
    formatter.for_type(Figure, lambda figure, printer, cycle: printer.text(described(figure)))
