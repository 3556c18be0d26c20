"""The reproduction card as a forest plot: our estimates with their intervals beside the effects that papers print."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.card_tolerance import printed_effects
from analysis.claims import CLAIMS
from analysis.stats import SEEDS_FOR_P
from analysis.style import STYLE, Sentence

ROW_INCHES = 0.31
OURS, CLAIMED_SIDE = "black", "0.93"
PAPERS = sns.color_palette("colorblind")[0]
LEAST_REACH = {"points": 4.0, "nats": 0.02}
"""Half of the axis at least: a figure of tiny differences should look like one."""
SHOWN = {"points": 100.0, "nats": 1.0}
LONGEST_NAME, LONGEST_LIST = 46, 96


def forest(evidence: pd.DataFrame) -> Figure | Sentence:
    """`card_evidence.evidence`: a row per contrast that has a pair, nats above and points below.

    A claim with a printed effect has its row even without a pair of ours. Under three pairs there is no interval.
    """
    effects = printed_effects()
    has_pair = (evidence["pairs"] > 0).to_numpy(dtype=bool)
    shown = evidence[has_pair | evidence["id"].isin(list(effects)).to_numpy()]
    if not has_pair.any():
        return Sentence("No claim to draw: no sweep at hand has a finished pair of the arms that any claim needs.")
    groups = [(unit, list(rows.itertuples())) for unit, rows in shown.groupby("unit", sort=True)]
    heights = [len(rows) + 1.6 for _, rows in groups]
    silent = [claim.id for claim in CLAIMS if claim.id not in set(shown["id"])]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 1.5 + ROW_INCHES * sum(heights)), layout="constrained")
        panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False).ravel()
        for axes, (unit, rows) in zip(panels, groups, strict=True):
            _panel(axes, rows, unit, effects)
        note = "dot: mean over paired seeds, bar: 95 % t interval; hollow: under three pairs, no interval"
        lacking = f"no pair to draw for {', '.join(silent)}" if silent else ""
        lines = [line for text in (note, lacking) if text for line in textwrap.wrap(text, LONGEST_LIST)]
        panels[0].set_title("\n".join(lines), loc="left", color="0.35", size=9)
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3, handlelength=2.4)
    return figure


def _panel(axes: Axes, rows: Sequence[Any], unit: str, effects: dict[str, list[tuple[str, float, float]]]) -> None:
    scale = SHOWN[unit]
    reach = _reach(rows, unit, effects)
    drawn: set[str] = set()
    for y, row in enumerate(rows):
        if row.sign:
            axes.barh(y, row.sign * 2 * reach, height=0.92, color=CLAIMED_SIDE, zorder=0)
        if row.pairs:
            _ours(axes, y, row, scale)
        if row.id not in drawn:
            _papers(axes, y, effects.get(row.id, []), scale)
        drawn.add(row.id)
        source = (
            f"{_short(row.sweep, 24)}, {row.pairs} {'seed' if row.pairs == 1 else 'seeds'}"
            if row.pairs
            else "none of ours"
        )
        axes.annotate(
            source,
            xy=(1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            size=8,
            color="0.35",
            annotation_clip=False,
        )
    axes.axvline(0, color="0.4", linewidth=1, zorder=1)
    axes.set_xlim(-reach, reach)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [f"{row.id}  {_short(row.contrast, LONGEST_NAME)}" for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    kind = "accuracy" if unit == "points" else "entropy"
    axes.set_xlabel(f"difference in {kind} ({unit}{'' if unit == 'points' else ' per token'})")


def _ours(axes: Axes, y: float, row: Any, scale: float) -> None:
    enough = row.pairs >= SEEDS_FOR_P
    if enough:
        axes.plot(
            [scale * row.low, scale * row.high], [y, y], color=OURS, linewidth=1.8, zorder=3, solid_capstyle="butt"
        )
    face = OURS if enough else "white"
    axes.plot([scale * row.difference], [y], "o", color=OURS, markerfacecolor=face, markersize=6, zorder=4)


def _papers(axes: Axes, y: float, effects: Sequence[tuple[str, float, float]], scale: float) -> None:
    """Diamonds under our dot, thin bars for what sampling error alone does to them, each named."""
    for number, (_, gain, half) in enumerate(effects):
        height = y + 0.2 + 0.17 * number
        if not np.isnan(half):
            ends = [scale * (gain - half), scale * (gain + half)]
            axes.plot(ends, [height, height], color=PAPERS, linewidth=1, linestyle=(0, (4, 1.5)), zorder=2)
        axes.plot([scale * gain], [height], "D", color=PAPERS, markerfacecolor="white", markersize=4.5, zorder=3)


def _reach(rows: Sequence[Any], unit: str, effects: dict[str, list[tuple[str, float, float]]]) -> float:
    """Half of the axis: all dots and diamonds, and intervals as far as that leaves the dots apart."""
    scale = SHOWN[unit]
    ids = {row.id for row in rows}
    dots = [abs(row.difference) for row in rows if row.pairs]
    dots += [abs(gain) for claim in ids for _, gain, _ in effects.get(claim, [])]
    ends = [max(abs(row.low), abs(row.high)) for row in rows if row.pairs >= SEEDS_FOR_P]
    ends += [abs(gain) + half for claim in ids for _, gain, half in effects.get(claim, []) if not np.isnan(half)]
    middle = scale * max(dots, default=0.0)
    far = scale * max(ends, default=0.0)
    return 1.08 * max(LEAST_REACH[unit], middle, min(far, 4 * max(middle, LEAST_REACH[unit])))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _legend() -> list[Any]:
    return [
        Line2D([], [], color=OURS, marker="o", linewidth=1.8, markersize=6, label="ours"),
        Line2D(
            [], [], color=PAPERS, marker="D", markerfacecolor="white", markersize=4.5, linewidth=1,
            linestyle=(0, (4, 1.5)), label="the paper's, ± sampling error",
        ),
        Patch(color=CLAIMED_SIDE, label="side that is claimed"),
    ]  # fmt: skip
