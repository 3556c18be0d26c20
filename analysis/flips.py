"""Which problems changed between two arms: `items.paired_items` as pictures and a table.

Over items, and never a verdict: a method is judged over seeds (`stats`). Problems that both arms meet by chance on
either side of a coin flip, too; how many gained and how many lost is what to read, not how many moved.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import textwrap

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.items import ITEM_COLUMNS, paired_items
from analysis.lines import short
from analysis.load import SweepData
from analysis.strip_text import plain
from analysis.style import STYLE, Sentence

CELLS = 9
"""Cells of the histogram across and down, as mean@8 has values."""
OUTCOMES = {
    "kept": ("0.82", ""),
    "gained": ("#0173b2", "//"),
    "lost": ("#de8f05", "\\\\"),
    "never": ("white", ""),
}
"""Of a problem's greedy answers: right in both arms, only in the arm, only in the other, in neither. Colour, hatch."""
LEGEND = {"kept": "kept (right in both)", "never": "never (wrong in both)"}
NOT_A_VERDICT = "over problems of a few seeds: no verdict on a method"


def pair_of(data: SweepData) -> tuple[str, str] | None:
    """The planned pair, or the first two arms of a sweep without one; None under two arms."""
    planned = [str(arm) for arm in data.plan.get("primary_contrast") or []]
    if len(set(planned)) == 2 and set(planned) <= set(data.arms):
        return planned[0], planned[1]
    return (data.arms[1], data.arms[0]) if len(data.arms) > 1 else None


def planned_items(data: SweepData) -> pd.DataFrame:
    """`paired_items` of `pair_of`; no rows where there is no pair or no seed that both finished."""
    pair = pair_of(data)
    return paired_items(data, *pair) if pair else pd.DataFrame(columns=list(ITEM_COLUMNS))


def accuracy_by_item(items: pd.DataFrame, arm: str, against: str) -> Figure | Sentence:
    """`paired_items`: problems by their accuracy under both arms, mean over samples and seeds, with marginal counts.

    Cells count problems; on the diagonal nothing changed.
    """
    if items.empty:
        return Sentence("No items to compare yet: no seed has finished both arms.")
    means = items.groupby("problem_id")[["against_accuracy", "arm_accuracy"]].mean().dropna()
    if means.empty:
        return Sentence("No items to compare: no sampled completions were graded.")
    # cells are centred on the values of one seed's mean@8, so that those never lie on a border
    borders = (np.arange(CELLS + 1) - 0.5) / (CELLS - 1)
    counts, _, _ = np.histogram2d(means["against_accuracy"], means["arm_accuracy"], bins=[borders, borders])
    above = int((means["arm_accuracy"] > means["against_accuracy"]).sum())
    below = int((means["arm_accuracy"] < means["against_accuracy"]).sum())
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5.6, 5.7), layout="constrained")
        grid = figure.subplots(2, 2, width_ratios=(5, 1), height_ratios=(1, 5), sharex="col", sharey="row")
        top, middle, right = grid[0, 0], grid[1, 0], grid[1, 1]
        grid[0, 1].set_visible(False)
        _cells(middle, counts, borders)
        middle.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1.5)
        middle.set_xlabel(f"{short(against)}: accuracy of a problem")
        middle.set_ylabel(f"{short(arm)}: accuracy of a problem")
        for axis in (middle.xaxis, middle.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
            axis.set_ticks([0, 0.25, 0.5, 0.75, 1])
        centres, thickness = (borders[1:] + borders[:-1]) / 2, 0.8 / (CELLS - 1)
        top.bar(centres, counts.sum(axis=1), thickness, color="0.6")
        right.barh(centres, counts.sum(axis=0), thickness, color="0.6")
        for axis in (top.yaxis, right.xaxis):
            axis.set_major_locator(MaxNLocator(nbins=3, integer=True))
            axis.set_tick_params(labelsize=8)
        top.set_ylabel("problems", size=8)
        seeds = items["seed"].nunique()
        notes = (
            f"{len(means)} problems, mean over samples and {seeds} seed{'s' * (seeds > 1)}; {above} better under "
            f"{short(arm)}, {below} worse; {NOT_A_VERDICT}"
        )
        figure.suptitle("\n".join(textwrap.wrap(notes, 78)), size=9, color="0.35", x=0.01, ha="left")
    return figure


def _cells(axes: Axes, counts: np.ndarray, borders: np.ndarray) -> None:
    """Counts in cells, darker with more; the shade goes by the root, since most problems never or always succeed."""
    shade = np.sqrt(counts.T / max(1.0, counts.max()))
    axes.pcolormesh(borders, borders, np.ma.masked_equal(shade, 0), cmap="Blues", vmin=0, vmax=1.15)
    centres = (borders[1:] + borders[:-1]) / 2
    for x, y in np.argwhere(counts > 0):
        colour = "white" if shade[y, x] > 0.7 else "black"
        axes.text(centres[x], centres[y], f"{int(counts[x, y])}", ha="center", va="center", size=7.5, color=colour)
    axes.set_xlim(borders[0], borders[-1])
    axes.set_ylim(borders[0], borders[-1])


def outcomes(items: pd.DataFrame) -> pd.DataFrame:
    """`paired_items`: per seed, how many problems' greedy answers are in each of OUTCOMES; problems without are not."""
    asked = items.dropna(subset=["arm_greedy", "against_greedy"])
    arm, against = asked["arm_greedy"] >= 0.5, asked["against_greedy"] >= 0.5
    names = np.select([arm & against, arm & ~against, ~arm & against], ["kept", "gained", "lost"], "never")
    counted = asked.assign(outcome=names).groupby(["seed", "outcome"]).size().unstack(fill_value=0)
    return counted.reindex(columns=list(OUTCOMES), fill_value=0).astype(int)


def flips_by_seed(items: pd.DataFrame, arm: str, against: str) -> Figure | Sentence:
    """`paired_items`: a bar per seed of OUTCOMES, the seed with the largest net gain on top."""
    if items.empty:
        return Sentence("No flips to show yet: no seed has finished both arms.")
    counted = outcomes(items)
    if counted.empty:
        return Sentence("No flips to show: no greedy completions were graded.")
    counted = counted.assign(net=counted["gained"] - counted["lost"]).sort_values("net", ascending=False, kind="stable")
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.7 + 0.34 * len(counted)), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(counted))
        for name, (colour, hatch) in OUTCOMES.items():
            widths = counted[name].to_numpy()
            look = {"color": colour, "hatch": hatch, "edgecolor": "0.25", "linewidth": 0.6}
            axes.barh(range(len(counted)), widths, 0.72, left=left, label=LEGEND.get(name, name), **look)
            for row, width in enumerate(widths):
                if width >= 0.035 * counted.iloc[row][list(OUTCOMES)].sum():
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
                    middle = left[row] + width / 2
                    axes.text(middle, row, str(width), ha="center", va="center", size=8, bbox=box if hatch else None)
            left += widths
        labels = [f"seed {seed} ({_net(net)})" for seed, net in counted["net"].items()]
        axes.set_yticks(range(len(counted)), labels)
        axes.set_ylim(len(counted) - 0.5, -0.5)
        axes.set_xlim(0, left.max())
        axes.set_xlabel("problems, by the greedy answer")
        axes.grid(visible=False)
        title = f"{short(arm)} against {short(against)}; in brackets gained minus lost; {NOT_A_VERDICT}"
        axes.set_title("\n".join(textwrap.wrap(title, 84)), loc="left", color="0.35", size=9)
        figure.legend(loc="outside lower center", ncols=len(OUTCOMES))
    return figure


def most_flipped(items: pd.DataFrame, most: int = 10) -> pd.DataFrame:
    """`paired_items`: the problems whose mean accuracy differs most between the arms, both ways, as text.

    Chosen for their size, they regress: further seeds will show smaller differences of these problems.
    """
    if items.empty:
        return pd.DataFrame({"question": ["no seed has finished both arms"]})
    columns = ["arm_accuracy", "against_accuracy"]
    means = items.groupby(["problem_id", "kind"], dropna=False)[columns].mean().reset_index()
    means["difference"] = means["arm_accuracy"] - means["against_accuracy"]
    means = means[means["difference"].abs() > 0]
    if means.empty:
        return pd.DataFrame({"question": ["no problem differs between the two arms"]})
    size = means["difference"].abs()
    means = means.assign(size=size).sort_values(["size", "problem_id"], ascending=[False, True]).head(most)
    means = means.sort_values(["difference", "problem_id"], ascending=[False, True])
    wins = (
        items.assign(up=items["arm_accuracy"] > items["against_accuracy"]).groupby("problem_id")["up"].sum().to_dict()
    )
    seeds = items.groupby("problem_id")["seed"].nunique().to_dict()
    return pd.DataFrame(
        {
            "question": [plain(str(problem), 60) for problem in means["problem_id"]],
            "kind": [plain(str(kind), 30) for kind in means["kind"]],
            "arm": [f"{100 * value:.0f} %" for value in means["arm_accuracy"]],
            "against": [f"{100 * value:.0f} %" for value in means["against_accuracy"]],
            "difference (points)": [_net(round(100 * value)) for value in means["difference"]],
            "seeds in which the arm is better": [
                f"{wins[problem]} of {seeds[problem]}" for problem in means["problem_id"]
            ],
        }
    )


def _net(value: float) -> str:
    return f"{int(value):+d}".replace("-", "−")
