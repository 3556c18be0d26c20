"""Figures. Each function takes a frame (see `load`, `stats`) and returns a Figure; nothing is saved or shown here.

Where there is nothing to draw a function returns a Sentence that says why. Arms come as an ordered categorical whose
first entry is the baseline: it is black and dashed. Other arms differ in colour and in line style or marker, so the
figures survive grey print and colour blindness; what happens with many arms is in `lines`. Over steps, a line is the
mean over seeds and its band reaches from the lowest to the highest seed; the interval of a difference is in the verdict
table, not in a curve. Arms that drop groups are left out over steps, and the title says so.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.curves import curve, label_steps, over_steps, panels, window_of
from analysis.lines import (
    DROPS,
    arms_of,
    arms_with,
    background,
    banded,
    by_steps,
    crowded,
    legend_below,
    legend_height,
    short,
    styles_of,
    titled,
)
from analysis.stats import t_interval
from analysis.style import STYLE, Sentence


def accuracy_by_arm(final: pd.DataFrame) -> Figure | Sentence:
    """`stats.final_scores`: a point per seed, and the arm's mean with its 95 % t interval from two seeds on."""
    if final.empty:
        return Sentence("No accuracy to compare yet: no run has finished.")
    arms = [arm for arm in arms_of(final) if (final["arm"] == arm).any()]
    styles, dropping = styles_of(final), arms_with(final, "drops_groups")
    with rc_context(STYLE):
        names = [f"{short(arm, 24)} ({DROPS})" if arm in dropping else short(arm) for arm in arms]
        # long names beside the axes leave it room
        width = 6.4 + 0.07 * max(0, max(map(len, names)) - 20)
        figure = Figure(figsize=(width, 1.4 + (0.24 if crowded(final) else 0.42) * len(arms)), layout="constrained")
        axes = figure.subplots()
        for row, arm in enumerate(arms):
            values = final.loc[final["arm"] == arm, "accuracy"].to_numpy(dtype=float)
            interval, colour = t_interval(values.tolist()), styles[arm]["color"]
            axes.plot(values, np.full(len(values), row), "o", color=colour, alpha=0.45, markersize=5, linewidth=0)
            axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=1.6)
            axes.plot([interval.mean], [row], "|", color=colour, markersize=16, markeredgewidth=2.4)
        axes.axvline(final.loc[final["arm"] == arms[0], "accuracy"].mean(), color="0.75", linewidth=1, zorder=0)
        spread = final["accuracy"].max() - final["accuracy"].min()
        middle = (final["accuracy"].max() + final["accuracy"].min()) / 2
        # two seeds have an interval 13 deviations wide: let it run out of the picture rather than squeeze the points
        reach = max(0.02, 1.2 * spread)
        axes.set_xlim(max(0.0, middle - reach), min(1.0, middle + reach))
        axes.set_yticks(range(len(arms)), names)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel(f"test accuracy, mean@{int(final['samples'].max())}, last step")
        unfair = (
            ("arms that drop groups sample more per step:", "see accuracy over generated tokens") if dropping else ()
        )
        titled(axes, "dots: seeds; bar: mean with 95 % t interval", *unfair)
    return figure


def accuracy_over_steps(scored: pd.DataFrame) -> Figure | Sentence:
    """`stats.scores` on the validation split: accuracy at each evaluation."""
    if scored.empty:
        return Sentence("No validation accuracy yet: no run has been evaluated.")
    label = f"validation accuracy, mean@{int(scored['samples'].max())}"
    figure = over_steps(scored, "accuracy", label, smooth=False)
    if isinstance(figure, Figure):
        figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def reward_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: mean reward of the training rollouts, all views together, dropped groups included."""
    return over_steps(steps, "reward", "reward of training rollouts")


def length_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: mean completion length."""
    return over_steps(steps, "completion_length", "completion length (tokens)")


def entropy_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: token-weighted full-vocabulary entropy of the training rollouts."""
    return over_steps(steps, "entropy", "entropy (nats per token)")


def entropy_by_view(views: pd.DataFrame) -> Figure | Sentence:
    """`views` table: a panel per arm, a line per view, on the image each completion was sampled on."""
    wording = "entropy (nats per token)"
    column = "entropy_sampled_image"
    names = list(pd.unique(views["view"]))
    lines = [(name, column, lambda rows, name=name: rows[rows["view"] == name]) for name in names]
    return panels(views, lines, wording, "No entropy per view yet: no run has recorded a step.")


def entropy_by_band(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: a panel per arm; thirds of each completion's tokens by entropy, as TsEC ranks them; log scale.

    In groups that were trained on: bands are not known of dropped ones, and the arm's panel says so.
    """
    bands = {"high third": "entropy_high", "middle third": "entropy_middle", "low third": "entropy_low"}
    lines = [(name, column, lambda rows: rows) for name, column in bands.items()]
    empty = "No entropy per band yet: no run has recorded a step."
    notes = dict.fromkeys(arms_with(steps, "drops_groups"), "trained groups only")
    return panels(steps, lines, "entropy (nats per token, log scale)", empty, notes, log=True)


def attack_gain_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: what the attack did to entropy, on the same completions and on fresh ones with the same noise."""
    frame, left_out = by_steps(steps.dropna(subset=["attack_gain"]))
    if frame.empty:
        why = f" {left_out}" if left_out else ": no run with a changed image has recorded a step"
        return Sentence(f"No attack to show{why}.")
    with rc_context(STYLE):
        styles, behind = styles_of(frame), background(frame)
        entries = frame["arm"].nunique() - len(behind)
        figure = Figure(figsize=(8.4, 4.0 + legend_height(entries)), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True)
        titles = {"attack_gain": "same completions, kept tokens", "fresh_gain": "fresh completions, all tokens"}
        for axes, (column, title) in zip(panels, titles.items(), strict=True):
            window = window_of(frame["step"].nunique()) if column == "attack_gain" else 1
            for arm, rows in frame.dropna(subset=[column]).groupby("arm", observed=True):
                curve(axes, rows, column, styles[str(arm)], str(arm), window=window, band=banded(frame))
            axes.axhline(0, color="0.6", linewidth=1, zorder=0)
            label_steps(axes, "entropy, moved minus clean (nats)" if column == "attack_gain" else "", window)
            axes.set_title(title, loc="left")
        if left_out:
            figure.suptitle(left_out, color="0.35", size=9)
        legend_below(figure, panels[0], behind)
    return figure
