"""What an attack gained against how far it moved the image: `attack_gains.gains`."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false, reportIndexIssue=false

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.attack_gains import GAINS
from analysis.lines import arm_styles, arms_of, crowded, legend_below, legend_height, short, styles_of
from analysis.stats import t_interval
from analysis.style import STYLE, Sentence

WIDE = 20.0
"""Largest size over smallest: above it the axis of sizes is logarithmic but for 0."""
MOST_ALONE = 6
"""Arms beside the curves that are drawn; with more only their number is told."""
ALIKE = 0.05
"""Sizes of arms that differ by less than this share would hide each other on the axis."""
NOTHING = 1e-6
"""Nats: smaller gains are rounding, and drawn as the 0 that they are."""
GAIN_LABEL = "entropy, moved minus clean (nats)"


def gain_by_size(gained: pd.DataFrame) -> Figure | Sentence:
    """`attack_gains.gains`: gain over the realised size; a dot per run, a line through the means of a family's arms.

    A family is the arms that differ in nothing but how far the image may move. Where no family has two sizes above 0,
    or most arms are in none and would hide each other, the arms themselves are the axis (`gain_by_arm`). Arms that move
    text have no place on an axis of grey levels.
    """
    frame = gained[~gained["text"].astype(bool)]
    places = frame.assign(arm=frame["arm"].astype(str)).groupby(["family", "arm"], sort=False)["levels"].mean()
    sizes = places[places > 0].astype(float).round(1).groupby("family").nunique()
    curves = {one: [arm for family, arm in places.index if family == one] for one in sizes.index[sizes > 1]}
    if not curves:
        return gain_by_arm(gained)
    alone = [arm for family, arm in places.index if family not in curves]
    drawn = alone if len(alone) <= MOST_ALONE and not _hide_each_other(places.droplevel("family")[alone]) else []
    if len(alone) - len(drawn) > sum(map(len, curves.values())):
        return gain_by_arm(gained)
    lines = {", ".join(arms): arms for arms in curves.values()} | {arm: [arm] for arm in drawn}
    styles = dict(zip(lines, list(arm_styles(["", *lines]).values())[1:], strict=True))
    notes = [_runs_note(frame)]
    notes += [f"{len(alone)} arms that differ in more than the size are in the table"] * (len(alone) > len(drawn))
    notes += ["arms that move text are in the table"] * bool(gained["text"].any())
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.2 + legend_height(len(styles))), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True)
        for axes, (column, title) in zip(panels, GAINS.items(), strict=True):
            for label, arms in lines.items():
                own = frame[frame["arm"].isin(arms)]
                _line(axes, own, column, styles[label], label)
            axes.axhline(0, color="0.6", linewidth=1, zorder=0)
            axes.set_title(title, loc="left")
            axes.set_xlabel("realised size, L∞ (grey levels)")
            _reach(axes, frame[column])
        _scale(panels[0], frame)
        panels[0].set_ylabel(GAIN_LABEL)
        figure.suptitle("\n".join(textwrap.wrap("; ".join(notes), 110)), color="0.35", size=9, x=0.01, ha="left")
        legend_below(figure, panels[0])
    return figure


def gain_by_arm(gained: pd.DataFrame) -> Figure | Sentence:
    """`attack_gains.gains`: a row per arm; a dot per run, the mean with its 95 % t interval from two seeds on."""
    if gained.empty:
        return Sentence("No gain to show: no run with a changed input has recorded a step.")
    arms = [arm for arm in arms_of(gained) if (gained["arm"] == arm).any()]
    styles = styles_of(gained)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.5 + (0.26 if crowded(gained) else 0.4) * len(arms)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (column, title) in zip(panels, GAINS.items(), strict=True):
            for row, arm in enumerate(arms):
                values = gained.loc[gained["arm"] == arm, column].dropna().to_numpy(dtype=float)
                colour, interval = styles[arm]["color"], t_interval(values.tolist())
                axes.plot(values, np.full(len(values), row), "o", color=colour, alpha=0.45, markersize=5, linewidth=0)
                axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=1.6)
                axes.plot([interval.mean], [row], "|", color=colour, markersize=14, markeredgewidth=2.2)
                if not len(values):
                    axes.annotate("not measured", (0.02, row), xycoords=axes.get_yaxis_transform(), size=8, va="center")
            axes.axvline(0, color="0.6", linewidth=1, zorder=0)
            axes.grid(axis="x")
            axes.grid(visible=False, axis="y")
            axes.set_title(title, loc="left")
            axes.set_xlabel(GAIN_LABEL)
            axes.locator_params(axis="x", nbins=5)
            if gained[column].abs().max() < NOTHING:
                axes.set_xlim(-1000 * NOTHING, 1000 * NOTHING)
        panels[0].set_yticks(range(len(arms)), [_with_size(gained, arm) for arm in arms])
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        figure.suptitle(_runs_note(gained), color="0.35", size=9, x=0.01, ha="left")
    return figure


def _line(axes: Axes, own: pd.DataFrame, column: str, style: dict[str, Any], label: str) -> None:
    """Runs, means and intervals of the arms of `own`, in order of size; the dots of one size are the seeds."""
    own, look, means = own.dropna(subset=[column]), {"color": style["color"]}, []
    for _, runs in own.groupby("arm", observed=True):
        interval = t_interval(runs[column].tolist())
        level = float(runs["levels"].mean())
        axes.plot(runs["levels"], runs[column], "o", alpha=0.4, markersize=4, linewidth=0, **look)
        axes.plot([level, level], [interval.low, interval.high], linewidth=1.4, **look)
        means.append((level, interval.mean))
    means.sort()
    axes.plot(
        [level for level, _ in means],
        [mean for _, mean in means],
        marker=style["marker"],
        markersize=6,
        linestyle=style["linestyle"] if len(means) > 1 else "",
        linewidth=1.4,
        label=short(label),
        **look,
    )


def _hide_each_other(sizes: pd.Series) -> bool:
    """Are two of these sizes too near to be told apart on the axis?"""
    ordered = np.sort(sizes.to_numpy(dtype=float))
    return bool((np.diff(ordered) <= ALIKE * ordered[1:]).any())


def _reach(axes: Axes, values: pd.Series) -> None:
    """Limits around the runs and 0: an interval of two seeds is 13 deviations wide and may leave the picture."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if high - low < NOTHING:
        low, high = -1000 * NOTHING, 1000 * NOTHING
    if high > low:
        axes.set_ylim(low - 0.25 * (high - low), high + 0.25 * (high - low))


def _scale(axes: Axes, frame: pd.DataFrame) -> None:
    levels = frame["levels"].astype(float)
    positive = levels[levels > 0]
    if len(positive) and positive.max() > WIDE * positive.min():
        axes.set_xscale("symlog", linthresh=max(0.5, float(positive.min())))
        ticks = [0, *(2.0**k for k in range(-1, 9) if positive.min() / 2 <= 2.0**k <= positive.max() * 2)]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlim(-0.3 * max(0.5, float(positive.min())), positive.max() * 1.5)


def _with_size(gained: pd.DataFrame, arm: str) -> str:
    own = gained[gained["arm"] == arm]
    size = "text" if own["text"].any() else f"{own['levels'].mean():.3g} levels"
    return f"{short(arm)} ({size})"


def _runs_note(frame: pd.DataFrame) -> str:
    """What dots and bars are, and how many runs are still under way."""
    seeds = frame["seed"].nunique()
    note = "dots: seeds; bars: mean with 95 % t interval" if seeds > 1 else "one seed, no interval"
    running = int((~frame["finished"].astype(bool)).sum())
    return note + (f"; {running} of {len(frame)} runs have not finished: their steps so far" if running else "")
