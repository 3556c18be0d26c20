"""Figures that compare arms on another axis than the step: tokens generated, strength of an attack on what they became.

Style as in `plots`: the baseline is black and dashed, a line is the mean over seeds, a band reaches from the lowest to
the highest seed.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from analysis import lines
from analysis.curves import seed_note
from analysis.style import STYLE, Sentence


def accuracy_over_tokens(scored: pd.DataFrame) -> Figure | Sentence:
    """`costs.accuracy_by_tokens`: validation accuracy against the tokens generated until then.

    Seeds are averaged evaluation by evaluation, tokens too. Arms that drop groups are marked.
    """
    if scored.empty:
        return Sentence("No accuracy against tokens yet: no run has been evaluated.")
    styles, dropping = lines.styles_of(scored), lines.arms_with(scored, "drops_groups")
    with rc_context(STYLE):
        figure, axes = lines.single(scored)
        for arm, rows in scored.groupby("arm", observed=True):
            points = rows.groupby("step").agg(tokens=("tokens", "mean"), accuracy=("accuracy", "mean"))
            seeds = rows.groupby("step")["accuracy"].agg(["min", "max"])
            label = f"{arm} ({lines.DROPS})" if arm in dropping else str(arm)
            axes.plot(points["tokens"], points["accuracy"], label=label, markersize=4, **styles[str(arm)])
            if rows["seed"].nunique() > 1 and lines.banded(scored):
                colour = styles[str(arm)]["color"]
                axes.fill_between(points["tokens"], seeds["min"], seeds["max"], color=colour, alpha=0.12, linewidth=0)
        axes.set_xlabel("tokens generated")
        axes.set_ylabel(f"validation accuracy, mean@{int(scored['samples'].max())}")
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_title(seed_note(scored), loc="left", color="0.35")
        lines.name_lines(figure, axes, scored)
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
