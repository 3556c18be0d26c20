"""Figures that compare arms on another axis than the step: tokens, time, strength of an attack on what they became.

Style as in `plots`: the baseline is black and dashed, a line is the mean over seeds, a band reaches from the lowest to
the highest seed.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, PercentFormatter

from analysis import lines
from analysis.curves import seed_note, window_of
from analysis.style import STYLE, Sentence


def accuracy_over_tokens(scored: pd.DataFrame) -> Figure | Sentence:
    """`costs.accuracy_by_tokens`: validation accuracy against the tokens generated until then.

    Seeds are averaged evaluation by evaluation, tokens too. Arms that drop groups are marked.
    """
    if scored.empty:
        return Sentence("No accuracy against tokens yet: no run has been evaluated.")
    return _over_spent(scored, "tokens", "accuracy", _scored_label(scored), PercentFormatter(1.0))


def accuracy_over_time(scored: pd.DataFrame) -> Figure | Sentence:
    """`costs.accuracy_by_tokens`: validation accuracy against the time that training took until then.

    Evaluation and what only measures are left out. Seeds are averaged evaluation by evaluation, times too.
    """
    timed = scored.dropna(subset=["seconds"])
    if timed.empty:
        return Sentence("No accuracy against time yet: no run with recorded times has been evaluated.")
    return _over_spent(timed, "seconds", "accuracy", _scored_label(timed), PercentFormatter(1.0))


def entropy_over_tokens(frame: pd.DataFrame) -> Figure | Sentence:
    """`costs.entropy_by_tokens`: entropy against the tokens generated until then, all arms on one fair axis."""
    if frame.empty:
        return Sentence("No entropy against tokens yet: no run has recorded a step.")
    return _over_spent(frame, "tokens", "entropy", "entropy (nats per token)")


def _scored_label(scored: pd.DataFrame) -> str:
    return f"validation accuracy, mean@{int(scored['samples'].max())}"


SPENT = {
    "tokens": (1.0, "tokens generated"),
    "seconds": (60.0, "minutes of training"),
    "hours": (3600.0, "hours of training"),
}
"""Column, how much of it one unit of the axis is, and the axis's name."""
HOURS_FROM = 3 * 3600.0


def _over_spent(frame: pd.DataFrame, spent: str, value: str, label: str, form: Formatter | None = None) -> Figure:
    """A line per arm: mean over seeds of `value` and of what was `spent`, step by step, over each other."""
    styles, dropping = lines.styles_of(frame), lines.arms_with(frame, "drops_groups")
    long = spent == "seconds" and frame["seconds"].max() > HOURS_FROM
    unit, name = SPENT["hours" if long else spent]
    window = window_of(frame["step"].nunique())
    with rc_context(STYLE):
        figure, axes = lines.single(frame)
        for arm, rows in frame.groupby("arm", observed=True):
            by_seed = rows.pivot_table(index="step", columns="seed", values=value, observed=True).sort_index()
            at = rows.groupby("step")[spent].mean().reindex(by_seed.index) / unit
            if window > 1:
                by_seed = by_seed.rolling(window, min_periods=1, center=True).mean()
            look, labelled = styles[str(arm)], f"{arm} ({lines.DROPS})" if arm in dropping else str(arm)
            marker = look["marker"] if len(by_seed) <= 12 else ""
            axes.plot(at, by_seed.mean(axis=1), label=labelled, **{**look, "marker": marker, "markersize": 4})
            if by_seed.shape[1] > 1 and lines.banded(frame):
                low, high = by_seed.min(axis=1), by_seed.max(axis=1)
                axes.fill_between(at, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axes.set_xlabel(name)
        axes.set_ylabel(label)
        if spent == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        if form is not None:
            axes.yaxis.set_major_formatter(form)
        lines.titled(axes, seed_note(frame) + (f"; points: means of {window} steps" if window > 1 else ""))
        lines.name_lines(figure, axes, frame)
    return figure


def accuracy_under_attack(frame: pd.DataFrame) -> Figure | Sentence:
    """`attacked.robustness`: a panel per attack, accuracy of the trained policies over its size in grey levels."""
    if frame.empty:
        return Sentence("No accuracy under attack: no finished run was evaluated on attacked images.")
    attacks = list(pd.unique(frame["attack"]))
    styles, behind = lines.styles_of(frame), lines.background(frame)
    columns = min(2, len(attacks))
    rows_of_panels = -(-len(attacks) // columns)
    with rc_context(STYLE):
        height = 0.9 + 2.6 * rows_of_panels + lines.legend_height(frame["arm"].nunique() - len(behind))
        figure = Figure(figsize=(6.4 if columns == 1 else 8.4, height), layout="constrained")
        grid = figure.subplots(rows_of_panels, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, attack in zip(grid, attacks, strict=False):
            own = frame[frame["attack"] == attack]
            for arm, rows in own.groupby("arm", observed=True):
                levels = rows.groupby("level")["accuracy"].agg(["mean", "min", "max"])
                style = styles[str(arm)]
                axes.plot(levels.index, levels["mean"], label=str(arm), markersize=4, **style)
                if rows["seed"].nunique() > 1 and lines.banded(frame):
                    axes.fill_between(
                        levels.index, levels["min"], levels["max"], color=style["color"], alpha=0.12, linewidth=0
                    )
            axes.set_title(attack, loc="left")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.tick_params(labelbottom=True)
        for axes in grid[len(attacks) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(attacks) - columns) : len(attacks)]:
            axes.set_xlabel("size of the attack (grey levels)")
        figure.supylabel(f"accuracy, mean@{int(frame['samples'].max())}", fontsize=10)
        lines.legend_below(figure, grid[0], behind)
    return figure
