"""Accuracy against entropy: where each arm goes, evaluation by evaluation, from the policy that all start from."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false, reportIndexIssue=false

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import lines, stats
from analysis.load import SweepData
from analysis.problems import mean_entropy
from analysis.style import STYLE, Sentence
from saei.schema import SAMPLED


def evaluations(data: SweepData) -> pd.DataFrame:
    """`stats.scores` on the validation split with `entropy`: nats, mean over the tokens of the sampled completions."""
    items = data.table("problems")
    scored = stats.scores(items, data.validation_split)
    own = items[(items["split"] == data.validation_split) & (items["decoding"] == SAMPLED)]
    entropy = mean_entropy(own.astype({"trial_id": "str"}), ["trial_id", "step"])
    return scored.merge(entropy.reset_index(), on=["trial_id", "step"], how="left")


def accuracy_against_entropy(scored: pd.DataFrame) -> Figure | Sentence:
    """`evaluations`: a line per arm through the means over its seeds, a ring where it starts, its marker where it ends.

    Small dots are the seeds at their own last evaluation. Steps are no axis here, so arms that drop groups are in it.
    """
    known = scored.dropna(subset=["entropy", "accuracy"])
    if known.empty:
        return Sentence("No accuracy against entropy yet: no run has been evaluated.")
    styles, behind = lines.styles_of(known), lines.background(known)
    with rc_context({**STYLE, "axes.grid.axis": "both"}):
        named = known["arm"].nunique() - len(behind)
        figure = Figure(figsize=(6.4, 4.2 + lines.legend_height(named + bool(behind))), layout="constrained")
        axes = figure.subplots()
        for arm, rows in known.groupby("arm", observed=True):
            look = {**styles[str(arm)], "markersize": 5}
            path = rows.groupby("step")[["entropy", "accuracy"]].mean().sort_index()
            axes.plot(path["entropy"], path["accuracy"], label=str(arm), markevery=[-1], **look)
            if arm not in behind:
                last = rows.loc[rows.groupby("seed")["step"].idxmax()]
                axes.plot(last["entropy"], last["accuracy"], ".", color=look["color"], alpha=0.45, markersize=4)
        start = known[known["step"] == known["step"].min()]
        axes.plot(
            start["entropy"].mean(), start["accuracy"].mean(), "o", markersize=9, label="_start", zorder=4,
            markerfacecolor="white", markeredgecolor="black", markeredgewidth=1.2,
        )  # fmt: skip
        axes.set_xlabel("validation entropy (nats per token)")
        axes.set_ylabel(f"validation accuracy, mean@{int(known['samples'].max())}")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        seeds = known["seed"].nunique()
        mean = "one seed" if seeds == 1 else f"line: mean of up to {seeds} seeds; dots: their ends"
        lines.titled(axes, f"ring: start; marker: end; {mean}")
        lines.legend_below(figure, axes, behind)
    return figure
