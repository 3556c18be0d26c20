"""Figures of a search: its points in order, what their parameters explain, accuracy along each parameter.

All of the validation split. Style as in `plots`; a complete point is a filled dot, one that was given up a cross, one
that still trains an open dot, and the best complete one has a ring.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from analysis.lines import legend_below, legend_height, short, titled
from analysis.parameters import Parameter
from analysis.search import COMPLETE, FAILED, FIXED, OPEN, PRUNED, Search
from analysis.search_study import FORESTS, comparable, importances, points_needed
from analysis.style import STYLE, Sentence

BLUE, ORANGE = "#0173b2", "#de8f05"
LOOKS: dict[str, dict[str, Any]] = {
    COMPLETE: {"marker": "o", "color": BLUE, "markerfacecolor": BLUE},
    PRUNED: {"marker": "x", "color": "0.45", "markeredgewidth": 1.8},
    OPEN: {"marker": "o", "color": BLUE, "markerfacecolor": "white"},
    FAILED: {"marker": "v", "color": "0.45", "markerfacecolor": "white"},
}
NAMES = {
    COMPLETE: "complete",
    PRUNED: "given up (pruned)",
    OPEN: "not all seeds yet",
    FAILED: "failed after some seeds",
}
FIXED_LOOKS = (
    {"color": "black", "linestyle": (0, (4, 2)), "zorder": 1.2},
    {"color": ORANGE, "linestyle": "-", "zorder": 1.1},
)
MOST_NAMES = 40
"""More points than this have numbers on the axis, not names."""
COLUMNS, MOST_PANELS = 3, 12
"""Panels in a row, and in all: along one of more settings than that, everything else differs too."""


def history(found: Search) -> Figure | Sentence:
    """Points in the order they were chosen: mean of the seeds, a line from lowest to highest, best complete so far."""
    points = found.points.dropna(subset=["score"])
    tried, fixed = points[points["state"] != FIXED], points[points["state"] == FIXED]
    if tried.empty:
        return Sentence("No history yet: no point has a finished run.")
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4 + legend_height(5 + len(fixed))), layout="constrained")
        axes = figure.subplots()
        for row, look in zip(fixed.itertuples(), FIXED_LOOKS, strict=False):
            axes.axhline(row.score, label=f"{short(row.arm)}, beside the search", linewidth=1.4, **look)
        axes.vlines(tried["number"], tried["low"], tried["high"], color="0.6", linewidth=1.2, zorder=1.5)
        for state, look in LOOKS.items():
            own = tried[tried["state"] == state]
            if len(own):
                axes.plot(own["number"], own["score"], linestyle="", markersize=6, label=NAMES[state], **look)
        best = tried.assign(score=tried["score"].where(tried["state"] == COMPLETE)).sort_values("number")
        if best["score"].notna().any():
            steps = best["score"].cummax().ffill()
            axes.step(best["number"], steps, where="post", color=BLUE, linewidth=1.2, label="best complete so far")
            _ring(axes, found, "number")
        _number_points(axes, found, tried)
        axes.set_ylabel(accuracy_label(points))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        titled(axes, _seeds_note(tried), "validation split: the best of many is good in part by luck")
        legend_below(figure, axes)
    return figure


def importance(found: Search) -> Figure | Sentence:
    """fANOVA shares of the parameters: median and middle 95 % over forests, beside those of shuffled scores."""
    shares = importances(found)
    if shares.empty:
        return Sentence(_no_importance(found))
    wide = shares.groupby("parameter")[["importance", "shuffled"]]
    middle, low, high = (wide.quantile(share) for share in (0.5, 0.025, 0.975))
    order = list(middle.sort_values("importance", ascending=False).index)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.7 + 0.5 * len(order)), layout="constrained")
        axes = figure.subplots()
        looks = (
            ("importance", -0.14, BLUE, "o", "scores as measured"),
            ("shuffled", 0.18, "0.55", "s", "the same scores, shuffled"),
        )
        for column, shift, colour, marker, label in looks:
            rows = np.arange(len(order)) + shift
            axes.hlines(rows, low.loc[order, column], high.loc[order, column], color=colour, linewidth=2.2)
            values = middle.loc[order, column]
            axes.plot(values, rows, linestyle="", marker=marker, color=colour, markersize=6, label=label)
        axes.set_yticks(range(len(order)), [short(name) for name in order])
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(0, None)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("share of the explained variance of validation accuracy (fANOVA)")
        used = len(comparable(found))
        titled(axes, f"{used} {_noun(found, used)}, pruned ones too; lines: middle 95 % of {FORESTS} forests")
        legend_below(figure, axes)
    return figure


def slices(found: Search) -> Figure | Sentence:
    """A panel per parameter: a small dot per seed, a large one per point; later points are darker."""
    frame = found.slices()
    if frame.empty:
        return Sentence(
            "No slices yet: no point has a finished run."
            if found.parameters
            else "No slices: the arms do not differ in any setting, or nothing has run."
        )
    if len(found.parameters) > MOST_PANELS:
        return Sentence(
            f"No slices: {len(found.parameters)} settings differ between the {_noun(found, 2)}, and along each of them "
            "all the others differ too."
        )
    columns = min(COLUMNS, len(found.parameters))
    rows = -(-len(found.parameters) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(4.8, 2.9 * columns), 1.0 + 2.6 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, parameter in zip(grid, found.parameters, strict=False):
            _slice(axes, found, frame[frame["parameter"] == parameter.name], parameter)
        for axes in grid[len(found.parameters) :]:
            axes.set_visible(False)
        axes = grid[0]
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        figure.supylabel(accuracy_label(found.points), fontsize=10)
        legend_below(figure, axes)
    return figure


def _slice(axes: Axes, found: Search, frame: pd.DataFrame, parameter: Parameter) -> None:
    axes.plot(frame["value"], frame["accuracy"], linestyle="", marker=".", color="0.75", markersize=4, label="a seed")
    means = frame.groupby("arm").agg(
        number=("number", "first"), value=("value", "first"), score=("accuracy", "mean"), state=("state", "first")
    )
    last = max(1, int(found.points["number"].max()))
    present = set(found.points.loc[found.points["score"].notna(), "state"])  # in all panels: they share a legend
    for state, look in LOOKS.items():
        own = means[means["state"] == state]
        if state not in present:
            continue
        if state == COMPLETE:
            shades = 0.6 - 0.6 * own["number"].to_numpy(dtype=float) / last
            axes.scatter(own["value"], own["score"], c=shades, cmap="gray", vmin=0, vmax=1, s=30, zorder=2.5)
            axes.plot(
                [], [], linestyle="", marker="o", color="0.2", label=f"{_noun(found, 1)}, complete (later: darker)"
            )
        else:
            axes.plot(own["value"], own["score"], linestyle="", markersize=6, label=NAMES[state], **look)
    _ring(axes, found, parameter)
    _axis(axes, parameter)


def _ring(axes: Axes, found: Search, across: str | Parameter) -> None:
    """Around the best complete point."""
    best = found.complete.iloc[0] if len(found.complete) else None
    if best is None:
        return
    if isinstance(across, Parameter):
        x = across.place(found.choices.set_index("arm").loc[best["arm"], across.name])
    else:
        x = best[across]
    axes.plot(
        [x], [best["score"]], linestyle="", marker="o", markersize=13, markerfacecolor="none",
        markeredgecolor=ORANGE, markeredgewidth=2.0, zorder=3, label=f"best: {short(best['arm'])}",
    )  # fmt: skip


def _axis(axes: Axes, parameter: Parameter) -> None:
    """Label and ticks of a parameter's axis, on its own scale."""
    axes.set_xlabel("\n".join(textwrap.wrap(parameter.name, 30)))
    if parameter.categories:
        labels = [textwrap.shorten(text, 16, placeholder="…") for text in parameter.categories]
        turned = sum(map(len, labels)) > 18
        axes.set_xticks(range(len(labels)), labels, **({"rotation": 90} if turned else {}))
        axes.set_xlim(-0.5, len(labels) - 0.5)
        return
    low, high = parameter.low, parameter.high
    if parameter.log:
        axes.set_xscale("log", base=2)
        ticks = [2.0**power for power in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
        inside = [tick for tick in ticks if low <= tick <= high]
        axes.xaxis.set_major_locator(FixedLocator(inside[:: 1 + len(inside) // 7]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(low / 1.15, high * 1.15)
    else:
        margin = 0.05 * (high - low) or 0.5
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=parameter.whole))


def _number_points(axes: Axes, found: Search, tried: pd.DataFrame) -> None:
    """Names of the points under the axis where they can be read, else their numbers."""
    last = int(found.points["number"].max())
    axes.set_xlim(-0.6, last + 0.6)
    if found.is_search or len(tried) > MOST_NAMES:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        axes.set_xlabel("point, in the order they were chosen" if found.is_search else "arm, in the order of the plan")
        return
    axes.set_xticks(tried["number"], [short(arm) for arm in tried["arm"]], rotation=90, size=8)
    axes.set_xlabel("arm, in the order of the plan")


def _seeds_note(points: pd.DataFrame) -> str:
    most = int(points["seeds"].max())
    return "one seed each" if most == 1 else f"mean of up to {most} seeds, lines: lowest to highest"


def _no_importance(found: Search) -> str:
    points, needed = len(comparable(found)), points_needed(found)
    if not found.parameters:
        return "No importances: the arms do not differ in any setting, or nothing has run."
    if points >= needed:
        return "No importances: the points do not differ in their scores, or in their settings."
    return (
        f"No importances yet: {points} {_noun(found, points)} complete or pruned with a value for every parameter, and "
        f"a forest over {len(found.parameters)} needs {needed} at least."
    )


def _noun(found: Search, count: int) -> str:
    return found.noun + "s" * (count != 1)


def accuracy_label(points: pd.DataFrame) -> str:
    return f"validation accuracy, mean@{int(points['samples'].max())}"
