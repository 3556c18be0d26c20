"""Lines over the steps of training: one axis for all arms, or a panel each. What they look like is in `lines`.

A line is the mean over seeds, its band reaches from the lowest to the highest seed. Long curves are averaged over
windows of steps, and the axis says so.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator

from analysis.lines import (
    arm_styles,
    arms_of,
    background,
    banded,
    by_steps,
    legend_below,
    legend_height,
    name_lines,
    short,
    single,
    styles_of,
    titled,
)
from analysis.style import STYLE, Sentence

SMOOTHED_TO = 40
"""Curves longer than this are averaged over windows of about steps / 40 steps."""

MOST_PANELS = 12
"""Small multiples of more arms than this are no longer read side by side."""

Lines = Sequence[tuple[str, str, Callable[[pd.DataFrame], pd.DataFrame]]]
"""Name, column, and which rows of the arm."""


def window_of(steps: int) -> int:
    """Steps to average over in a curve of so many."""
    return max(1, round(steps / SMOOTHED_TO)) if steps > SMOOTHED_TO else 1


def curve(
    axes: Axes, frame: pd.DataFrame, value: str, style: dict[str, Any], label: str, *, window: int, band: bool
) -> None:
    """Mean over seeds of one arm's `value` over steps, with the band of all seeds."""
    by_seed = frame.pivot_table(index="step", columns="seed", values=value, observed=True).sort_index()
    if window > 1:
        by_seed = by_seed.rolling(window, min_periods=1, center=True).mean()
    mean = by_seed.mean(axis=1)
    sparse = len(mean) <= 12
    line = {**style, "marker": style["marker"] if sparse else "", "markersize": 4}
    axes.plot(mean.index, mean, label=label, **line)
    if band and by_seed.shape[1] > 1:
        low, high = by_seed.min(axis=1), by_seed.max(axis=1)
        axes.fill_between(mean.index, low, high, color=style["color"], alpha=0.12, linewidth=0)


def seed_note(frame: pd.DataFrame) -> str:
    """What lines and bands are, for the title; while a sweep runs, its arms have other numbers of seeds."""
    counts = frame.groupby("arm", observed=True)["seed"].nunique()
    fewest, most = int(counts.min()), int(counts.max())
    if most == 1:
        return "one seed"
    seeds = f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"
    return f"band: lowest to highest of {seeds}" if banded(frame) else f"mean of {seeds}"


def label_steps(axes: Axes, label: str, window: int) -> None:
    """Name both axes; `window` as in `curve`."""
    axes.set_xlabel("step" if window == 1 else f"step (mean of {window} steps)")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def over_steps(frame: pd.DataFrame, value: str, label: str, *, smooth: bool = True) -> Figure | Sentence:
    """A line per arm; arms that drop groups have no part in it, since their steps sample more."""
    frame, left_out = by_steps(frame.dropna(subset=[value]))
    if frame.empty:
        return Sentence(f"No {label} to draw {left_out or 'yet: no run has recorded a step'}.")
    with rc_context(STYLE):
        styles = styles_of(frame)
        figure, axes = single(frame)
        window = window_of(frame["step"].nunique()) if smooth else 1
        for arm, rows in frame.groupby("arm", observed=True):
            curve(axes, rows, value, styles[str(arm)], str(arm), window=window, band=banded(frame))
        label_steps(axes, label, window)
        titled(axes, seed_note(frame), left_out)
        name_lines(figure, axes, frame)
    return figure


def parts_over_steps(
    frame: pd.DataFrame, parts: Mapping[str, str], label: str, empty: str, form: Formatter | None = None
) -> Figure | Sentence:
    """A panel per part of a quantity, a line per arm in each; `parts` maps a column to the panel's title.

    Columns without a number have no panel. Arms that drop groups are left out, and the title says so; `empty` is the
    sentence where nothing is left, `form` writes the numbers of the y axis.
    """
    shown = {column: title for column, title in parts.items() if column in frame and frame[column].notna().any()}
    frame, left_out = by_steps(frame.dropna(subset=list(shown), how="all") if shown else frame.iloc[:0])
    if frame.empty:
        return Sentence(f"No {label} to draw {left_out}." if left_out else empty)
    with rc_context(STYLE):
        styles, behind = styles_of(frame), background(frame)
        entries = frame["arm"].nunique() - len(behind)
        size = (6.4 if len(shown) < 3 else 8.4, 3.4 + legend_height(entries))
        figure = Figure(figsize=size, layout="constrained")
        window = window_of(frame["step"].nunique())
        for axes, (column, title) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            for arm, rows in frame.dropna(subset=[column]).groupby("arm", observed=True):
                curve(axes, rows, column, styles[str(arm)], str(arm), window=window, band=banded(frame))
            label_steps(axes, "", window)
            axes.set_xlabel("step" if window == 1 else f"step (mean of {window})")
            highest = frame.groupby("arm", observed=True)[column].mean().idxmax()
            axes.set_title(f"{title} (highest: {short(str(highest), 20)})" if behind else title, loc="left")
            axes.set_ylim(0, 1.04 * axes.dataLim.ymax if axes.dataLim.ymax > 0 else 0.01)
            if form is not None:
                axes.yaxis.set_major_formatter(form)
        figure.axes[0].set_ylabel(label)
        notes = [line for note in (seed_note(frame), left_out) if note for line in textwrap.wrap(note, 76)]
        figure.suptitle("\n".join(notes), color="0.35", size=9)
        fullest = max(figure.axes, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        legend_below(figure, fullest, behind)
    return figure


def panels(
    frame: pd.DataFrame,
    lines: Lines,
    label: str,
    empty: str,
    notes: Mapping[str, str] | None = None,
    *,
    log: bool = False,
) -> Figure | Sentence:
    """Small multiples: one panel per arm with the same axes, the given lines in each; `notes` on some of the arms.

    Of many arms, MOST_PANELS: those that the question is about, then in the order of the plan; the title says so.
    `log`: the y axis is logarithmic, where there is a number above 0; what is 0 falls out of it.
    """
    if frame.empty:
        return Sentence(empty)
    there = [arm for arm in arms_of(frame) if (frame["arm"] == arm).any()]
    behind = background(frame)
    first = sorted(there, key=lambda arm: arm in behind)[:MOST_PANELS]
    arms = [arm for arm in there if arm in first]
    frame = frame.loc[frame["arm"].isin(arms)]
    columns = min(3, len(arms))
    rows = -(-len(arms) // columns)
    styles = arm_styles([name for name, _, _ in lines])
    with rc_context(STYLE):
        figure = Figure(figsize=(max(6.4, 2.6 * columns), 0.9 + 2.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        window = window_of(frame["step"].nunique())
        for axes, arm in zip(grid, arms, strict=False):
            own = frame[frame["arm"] == arm]
            for name, column, take in lines:
                chosen = take(own)
                if len(chosen):
                    curve(axes, chosen, column, styles[name], name, window=window, band=True)
            gap = " " if len(arm) < 12 else "\n"
            title = f"{short(arm, 24)}{gap}({notes[arm]})" if notes and arm in notes else short(arm, 24)
            axes.set_title(title, loc="left")
            label_steps(axes, "", window)
            axes.tick_params(labelbottom=True)
            axes.label_outer(remove_inner_ticks=False)
        for axes in grid[len(arms) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(arms) - columns) : len(arms)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step" if window == 1 else f"step (mean of {window})")
        if log and (frame[list({column for _, column, _ in lines})] > 0).any(axis=None):
            grid[0].set_yscale("log", nonpositive="clip")
            # the usual one writes powers as formulas
            grid[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        fullest = max(grid[: len(arms)], key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        legend_below(figure, fullest)
        figure.supylabel(label, fontsize=10)
        if len(arms) < len(there):
            figure.suptitle(f"{len(arms)} of {len(there)} arms", color="0.35", size=9)
    return figure
