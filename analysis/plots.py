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

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.lines import (
    DROPS,
    arm_styles,
    arms_of,
    arms_with,
    background,
    banded,
    by_steps,
    crowded,
    legend_below,
    legend_height,
    name_lines,
    single,
    styles_of,
    titled,
)
from analysis.stats import t_interval

STYLE: dict[str, Any] = {
    **sns.axes_style("ticks"),
    "figure.dpi": 110,
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.9",
    "pdf.fonttype": 42,
}
CURVES_SMOOTHED_TO = 40
"""Curves longer than this are averaged over windows of about steps / 40 steps; the axis says so."""


class Sentence(str):
    """What stands in place of an empty plot."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<p><em>{html.escape(self)}</em></p>"


def _window(steps: int) -> int:
    return max(1, round(steps / CURVES_SMOOTHED_TO)) if steps > CURVES_SMOOTHED_TO else 1


def _curve(
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
    """What lines and bands are, for the title."""
    seeds = frame["seed"].nunique()
    if seeds == 1:
        return "one seed"
    return f"band: lowest to highest of {seeds} seeds" if banded(frame) else f"mean of {seeds} seeds"


def _over_steps(frame: pd.DataFrame, value: str, label: str, *, smooth: bool = True) -> Figure | Sentence:
    """A line per arm; arms that drop groups have no part in it, since their steps sample more."""
    frame, left_out = by_steps(frame.dropna(subset=[value]))
    if frame.empty:
        return Sentence(f"No {label} to draw {left_out or 'yet: no run has recorded a step'}.")
    with rc_context(STYLE):
        styles = styles_of(frame)
        figure, axes = single(frame)
        window = _window(frame["step"].nunique()) if smooth else 1
        for arm, rows in frame.groupby("arm", observed=True):
            _curve(axes, rows, value, styles[str(arm)], str(arm), window=window, band=banded(frame))
        _label_steps(axes, label, window)
        titled(axes, seed_note(frame), left_out)
        name_lines(figure, axes, frame)
    return figure


def _label_steps(axes: Axes, label: str, window: int) -> None:
    axes.set_xlabel("step" if window == 1 else f"step (mean of {window} steps)")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))


def accuracy_by_arm(final: pd.DataFrame) -> Figure | Sentence:
    """`stats.final_scores`: a point per seed, and the arm's mean with its 95 % t interval from two seeds on."""
    if final.empty:
        return Sentence("No accuracy to compare yet: no run has finished.")
    arms = [arm for arm in arms_of(final) if (final["arm"] == arm).any()]
    styles, dropping = styles_of(final), arms_with(final, "drops_groups")
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.4 + (0.24 if crowded(final) else 0.42) * len(arms)), layout="constrained")
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
        axes.set_yticks(range(len(arms)), [f"{arm} ({DROPS})" if arm in dropping else arm for arm in arms])
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
    figure = _over_steps(scored, "accuracy", label, smooth=False)
    if isinstance(figure, Figure):
        figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure


def reward_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: mean reward of the training rollouts, all views together, dropped groups included."""
    return _over_steps(steps, "reward", "reward of training rollouts")


def length_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: mean completion length."""
    return _over_steps(steps, "completion_length", "completion length (tokens)")


def entropy_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: token-weighted full-vocabulary entropy of the training rollouts."""
    return _over_steps(steps, "entropy", "entropy (nats per token)")


def entropy_by_view(views: pd.DataFrame) -> Figure | Sentence:
    """`views` table: a panel per arm, a line per view, on the image each completion was sampled on."""
    wording = "entropy (nats per token)"
    column = "entropy_sampled_image"
    names = list(pd.unique(views["view"]))
    lines = [(name, column, lambda rows, name=name: rows[rows["view"] == name]) for name in names]
    return _panels(views, lines, wording, "No entropy per view yet: no run has recorded a step.")


def entropy_by_band(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: a panel per arm; thirds of each completion's tokens by entropy, as TsEC ranks them.

    In groups that were trained on: bands are not known of dropped ones, and the arm's panel says so.
    """
    bands = {"high third": "entropy_high", "middle third": "entropy_middle", "low third": "entropy_low"}
    lines = [(name, column, lambda rows: rows) for name, column in bands.items()]
    empty = "No entropy per band yet: no run has recorded a step."
    notes = dict.fromkeys(arms_with(steps, "drops_groups"), "trained groups only")
    return _panels(steps, lines, "entropy (nats per token)", empty, notes)


Lines = Sequence[tuple[str, str, Callable[[pd.DataFrame], pd.DataFrame]]]
"""Name, column, and which rows of the arm."""


def _panels(
    frame: pd.DataFrame, lines: Lines, label: str, empty: str, notes: Mapping[str, str] | None = None
) -> Figure | Sentence:
    """Small multiples: one panel per arm with the same axes, the given lines in each; `notes` on some of the arms."""
    if frame.empty:
        return Sentence(empty)
    arms = [arm for arm in arms_of(frame) if (frame["arm"] == arm).any()]
    columns = min(3, len(arms))
    rows = -(-len(arms) // columns)
    styles = arm_styles([name for name, _, _ in lines])
    with rc_context(STYLE):
        figure = Figure(figsize=(max(6.4, 2.6 * columns), 0.9 + 2.1 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        window = _window(frame["step"].nunique())
        for axes, arm in zip(grid, arms, strict=False):
            own = frame[frame["arm"] == arm]
            for name, column, take in lines:
                chosen = take(own)
                if len(chosen):
                    _curve(axes, chosen, column, styles[name], name, window=window, band=True)
            axes.set_title(f"{arm} ({notes[arm]})" if notes and arm in notes else arm, loc="left")
            _label_steps(axes, "", window)
            axes.tick_params(labelbottom=True)
            axes.label_outer(remove_inner_ticks=False)
        for axes in grid[len(arms) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(arms) - columns) : len(arms)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step" if window == 1 else f"step (mean of {window})")
        fullest = max(grid[: len(arms)], key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        legend_below(figure, fullest)
        figure.supylabel(label, fontsize=10)
    return figure


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
            window = _window(frame["step"].nunique()) if column == "attack_gain" else 1
            for arm, rows in frame.dropna(subset=[column]).groupby("arm", observed=True):
                _curve(axes, rows, column, styles[str(arm)], str(arm), window=window, band=banded(frame))
            axes.axhline(0, color="0.6", linewidth=1, zorder=0)
            _label_steps(axes, "entropy, moved minus clean (nats)" if column == "attack_gain" else "", window)
            axes.set_title(title, loc="left")
        if left_out:
            figure.suptitle(left_out, color="0.35", size=9)
        legend_below(figure, panels[0], behind)
    return figure


def strip_gallery(strips: pd.DataFrame, most: int = 6) -> Figure | Sentence:
    """`SweepData.strips()`: clean | moved | amplified difference, spread over arms and steps."""
    chosen = spread(strips, most)
    if chosen.empty:
        return Sentence("No image strips: no run with a changed image has recorded one.")
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(6.4, 2.2 * len(chosen)), layout="constrained")
        for axes, strip in zip(
            figure.subplots(len(chosen), 1, squeeze=False).ravel(), chosen.itertuples(), strict=True
        ):
            axes.imshow(matplotlib.image.imread(strip.path), cmap="gray", interpolation="nearest")
            axes.set_title(
                f"{strip.arm}, seed {strip.seed}, step {strip.step}, {strip.view}, {strip.problem_id}",
                loc="left",
                size=9,
            )
            axes.set_axis_off()
    return figure


def spread(strips: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most `most` strips of the lowest seed of each arm: first and last step of every arm first."""
    if strips.empty:
        return strips
    lowest = strips.groupby("arm", observed=True)["seed"].transform("min")
    own = strips[strips["seed"] == lowest].sort_values(["arm", "step"])
    ends = own.groupby("arm", observed=True)["step"].agg(["min", "max"])
    of_end = own.join(ends, on="arm")
    rank = np.where(of_end["step"] == of_end["min"], 0, np.where(of_end["step"] == of_end["max"], 1, 2))
    return (
        own.assign(rank=rank).sort_values(["rank", "arm"]).head(most).sort_values(["arm", "step"]).drop(columns="rank")
    )
