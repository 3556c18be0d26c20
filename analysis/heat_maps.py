"""Test accuracy over two settings that a sweep varies together (found by `swept`): a cell per arm.

Colour runs from the lowest to the highest mean, however close they are; the title says how well a cell is known.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
import textwrap
from collections.abc import Iterable, Sequence
from statistics import median

import matplotlib
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from analysis import lines, swept
from analysis.settings import Cell, is_number
from analysis.stats import Interval, t_interval
from analysis.style import STYLE, Sentence
from analysis.swept import Family
from analysis.swept_figures import label_of, told_apart, value_texts

COLOURS = "cividis"
"""Even steps of lightness, and nearly alike to all kinds of colour vision."""
MOST_MAPS = 3


def accuracy_by_two_settings(final: pd.DataFrame, settings: pd.DataFrame) -> Figure | Sentence:
    """`stats.final_scores` over each pair of settings that `settings.varied` says a sweep varies together.

    A cell has the mean over the seeds in %, and in small print how many there are and from where to where they reach.
    Cells without a finished run are hatched; "planned" are those that the sweep has an arm for.
    """
    if final.empty:
        return Sentence("No accuracy over two settings yet: no run has finished.")
    found = swept.grids(settings)
    if not found:
        return Sentence("No two settings are varied together, all others staying as they are.")
    finished = set(final["arm"].astype(str))
    chosen = [grid for grid in swept.covering(found, MOST_MAPS) if finished & set(grid.places)]
    if not chosen:
        return Sentence(f"No cell over {' and '.join(found[0].axes)} yet: none of its arms has a finished run.")
    intervals = {
        str(arm): t_interval(rows["accuracy"].tolist())
        for arm, rows in final.groupby("arm", observed=True)
        if any(str(arm) in grid.places for grid in chosen)
    }
    means = [interval.mean for interval in intervals.values()]
    middle, half = (max(means) + min(means)) / 2, max(0.005, (max(means) - min(means)) / 2)
    scale, colours = Normalize(middle - half, middle + half), matplotlib.colormaps[COLOURS]
    with rc_context({**STYLE, "axes.grid": False}):
        heights = [0.9 + 0.5 * len(_sides(grid)[1]) for grid in chosen]
        figure = Figure(figsize=(6.4, 0.6 + sum(heights)), layout="constrained")
        panels = figure.subplots(len(chosen), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, grid in zip(panels, chosen, strict=True):
            same = [other for other in chosen if other.axes == grid.axes]
            _draw_map(axes, grid, final, scale, colours)
            axes.set_title(told_apart(grid, same), loc="left")
        bar = figure.colorbar(matplotlib.cm.ScalarMappable(scale, colours), ax=list(panels), pad=0.02, shrink=0.9)
        bar.set_label(f"test accuracy, mean@{int(final['samples'].max())}")
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if half > 0.03 else 1))
        figure.suptitle("\n".join(_notes(final, intervals.values())), color="0.35", size=9)
    return figure


def _notes(final: pd.DataFrame, intervals: Iterable[Interval]) -> list[str]:
    halves = [(interval.high - interval.low) / 2 for interval in intervals if not math.isnan(interval.low)]
    known = f"95 % t interval of a cell: ±{100 * median(halves):.1f} points (median)" if halves else "one seed a cell"
    baseline = lines.arms_of(final)[0]
    own = final.loc[final["arm"] == baseline, "accuracy"]
    return [known, f"{lines.short(baseline)}: {100 * own.mean():.1f} %"] if len(own) else [known]


def _sides(grid: Family) -> tuple[list[Cell], list[Cell]]:
    """The values along and up, numbers ascending, words in plan order; the setting with more of them goes along."""
    sides = []
    for place in (0, 1):
        values = list(dict.fromkeys(pair[place] for pair in grid.places.values()))
        sides.append(sorted(values) if all(is_number(value) for value in values) else values)
    along, up = sides
    return (up, along) if _turned(grid) else (along, up)


def _turned(grid: Family) -> bool:
    distinct = [len({pair[place] for pair in grid.places.values()}) for place in (0, 1)]
    return distinct[1] > distinct[0]


def _draw_map(axes: Axes, grid: Family, final: pd.DataFrame, scale: Normalize, colours: Colormap) -> None:
    along, up = _sides(grid)
    names = grid.axes[::-1] if _turned(grid) else grid.axes
    arms = {(pair[::-1] if _turned(grid) else pair): arm for arm, pair in grid.places.items()}
    for column, x in enumerate(along):
        for row, y in enumerate(up):
            arm = arms.get((x, y))
            accuracies = final.loc[final["arm"] == arm, "accuracy"].tolist() if arm else []
            _draw_cell(axes, column, row, accuracies, planned=arm is not None, scale=scale, colours=colours)
    axes.set_xlim(-0.5, len(along) - 0.5)
    axes.set_ylim(-0.5, len(up) - 0.5)
    axes.set_xticks(range(len(along)), value_texts(along))
    axes.set_yticks(range(len(up)), value_texts(up))
    axes.tick_params(length=0)
    axes.set_xlabel(label_of(names[0]))
    axes.set_ylabel("\n".join(textwrap.wrap(label_of(names[1]), 9 + 5 * len(up))))
    axes.spines[:].set_visible(False)


def _draw_cell(
    axes: Axes,
    column: int,
    row: int,
    accuracies: Sequence[float],
    *,
    planned: bool,
    scale: Normalize,
    colours: Colormap,
) -> None:
    corner = (column - 0.5, row - 0.5)
    if not accuracies:
        look = {"facecolor": "white", "edgecolor": "0.75", "hatch": "////", "linewidth": 0.0}
        axes.add_patch(Rectangle(corner, 1, 1, **look))
        if planned:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            axes.text(column, row, "planned", ha="center", va="center", size=7, color="0.35", bbox=box)
        return
    mean = sum(accuracies) / len(accuracies)
    colour = colours(scale(mean))
    axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=1.0))
    ink = "white" if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.5 else "black"
    axes.text(column, row + 0.12, f"{100 * mean:.1f}", ha="center", va="center", size=10, color=ink)
    reach = f"{100 * min(accuracies):.0f}–{100 * max(accuracies):.0f}, " if len(accuracies) > 1 else ""
    small = f"{reach}{len(accuracies)} seed{'s' * (len(accuracies) > 1)}"
    axes.text(column, row - 0.26, small, ha="center", va="center", size=6.5, color=ink)
