"""Test accuracy over what a sweep varies: curves over one setting, heat maps over two (found by `swept`).

A point is an arm: the mean over its seeds with its 95 % t interval, a dot per seed. The baseline is the black dashed
line; arms that differ from a curve in another setting are no points of it, but grey lines at their own height.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import lines, swept
from analysis.settings import Cell, is_number
from analysis.stats import t_interval
from analysis.style import STYLE, Sentence
from analysis.swept import Family

LABELS = {
    "view.step_size": "attack step (grey levels)",
    "view.epsilon": "radius of the attack's ball (grey levels)",
    "view.iterations": "attack iterations",
    "view.text_radius": "radius of the attack on the text",
    swept.CLEAN: "completions on the clean image",
    swept.MOVED: "completions on the changed image",
    swept.KEPT: "share of the tokens that the attack acts on",
    swept.PLACE: "place of the share kept (0: lowest entropies dropped last)",
    swept.GROUP: "completions of a group",
}
MOST_PANELS, MOST_CURVES, MOST_BANDS, MOST_MARKS = 3, 6, 2, 5
CLOSEST = 1 / 14
"""Values that would lie closer than this on an axis of length 1 are spread by their logarithm, or evenly."""


def label_of(setting: str) -> str:
    """A setting as an axis names it, with its unit where we know one."""
    return LABELS.get(setting, setting)


def value_texts(values: Sequence[Cell]) -> list[str]:
    """Values of one setting as its ticks name them; where one is a share such as 1/3, all that can be are fractions."""
    numbers = [float(value) if is_number(value) else math.nan for value in values]
    near = [Fraction(number).limit_denominator(20) if math.isfinite(number) else Fraction(0) for number in numbers]
    exact = [abs(float(share) - number) < 1e-6 for share, number in zip(near, numbers, strict=True)]
    rounded = [f"{number:.3g}" for number in numbers]
    # 1/3 is no decimal of three digits
    shares = any(
        fits and abs(float(text) - number) > 1e-9 for fits, text, number in zip(exact, rounded, numbers, strict=True)
    )
    texts = []
    for value, share, fits, text in zip(values, near, exact, rounded, strict=True):
        texts.append(lines.short(str(value), 18) if not is_number(value) else str(share) if shares and fits else text)
    return texts


def told_apart(family: Family, others: Sequence[Family]) -> str:
    """What a family has in another way than the others: `iterations 2, ball of one step`."""
    differing = [name for name in family.fixed if any(other.fixed.get(name) != family.fixed[name] for other in others)]
    return ", ".join(
        f"{name.rpartition('.')[2].replace('_', ' ')} {value_texts([family.fixed[name]])[0]}" for name in differing
    )


def spaced(values: Sequence[float]) -> tuple[list[float], str]:
    """Where ascending values stand on an axis, and what to say of its scale: true, logarithmic, or even spacing."""
    for place, note in ((float, ""), (lambda value: math.log2(value), "log scale")):
        if note and values[0] <= 0:
            continue
        places = [place(value) for value in values]
        if len(values) < 3 or np.diff(places).min() >= CLOSEST * (places[-1] - places[0]):
            return places, note
    return [float(i) for i in range(len(values))], "not to scale"


def accuracy_by_setting(final: pd.DataFrame, settings: pd.DataFrame) -> Figure | Sentence:
    """`stats.final_scores` over every setting that `settings.varied` says takes three or more values by itself."""
    if final.empty:
        return Sentence("No accuracy over a setting yet: no run has finished.")
    found = swept.curves(settings)
    if not found:
        return Sentence(
            "No setting takes three or more values while all others stay as they are: accuracy by arm shows these arms."
        )
    finished = set(final["arm"].astype(str))
    begun = [curve for curve in found if len(finished & set(curve.places)) > 1]
    if not begun:
        names = ", ".join(dict.fromkeys(curve.axes[0] for curve in found))
        return Sentence(f"No curve over {names} yet: fewer than two of its arms have a finished run.")
    by_axis: dict[str, list[Family]] = {}
    for curve in begun:
        by_axis.setdefault(curve.axes[0], []).append(curve)
    whole = [
        Family(axes=(name,), places={arm: () for curve in own for arm in curve.places}, fixed={})
        for name, own in by_axis.items()
    ]
    whole.sort(key=lambda family: -len(family.places))
    chosen = [family.axes[0] for family in swept.covering(whole, MOST_PANELS)]
    with rc_context(STYLE):
        height = 3.3
        figure = Figure(figsize=(6.4, 0.5 + height * len(chosen)), layout="constrained")
        drawn = {arm for name in chosen for curve in by_axis[name] for arm in curve.places}
        for axes, name in zip(figure.subplots(len(chosen), 1, squeeze=False)[:, 0], chosen, strict=True):
            note = _draw_curves(axes, by_axis[name], final, settings, drawn)
            lines.end_labels(figure, axes, height - 1.0, letters=34)
            known = f"dots: seeds; line and {_interval_look(len(by_axis[name]))}: mean with 95 % t interval"
            lines.titled(axes, known, seeds_so_far(final, drawn), note)
    return figure


def _interval_look(curves: int) -> str:
    """Bands of several curves hide each other."""
    return "band" if curves <= MOST_BANDS else "bar"


def seeds_so_far(final: pd.DataFrame, arms: set[str]) -> str:
    """How many finished seeds these arms have, where they differ in it or have no interval."""
    counts = final[final["arm"].isin(list(arms))].groupby("arm", observed=True)["seed"].nunique()
    fewest, most = int(counts.min()), int(counts.max())
    if fewest == most:
        return "one seed, no interval" if most == 1 else ""
    return f"so far {fewest} to {most} finished seeds an arm{', no interval with one' if fewest == 1 else ''}"


def _draw_curves(
    axes: Axes, found: Sequence[Family], final: pd.DataFrame, settings: pd.DataFrame, drawn: set[str]
) -> str:
    """The curves of one setting, the baseline and the arms beside them; what was left out, for the title."""
    shown, setting = list(found[:MOST_CURVES]), found[0].axes[0]
    values = sorted({place[0] for curve in shown for place in curve.places.values()})
    places, scale = spaced(values)
    at = dict(zip(values, places, strict=True))
    span = (places[-1] - places[0]) or 1.0
    low, high = places[0] - 0.05 * span, places[-1] + 0.05 * span
    styles = list(lines.arm_styles([str(i) for i in range(len(shown) + 1)]).values())[1:]
    baseline = lines.arms_of(final)[0]
    for number, (curve, look) in enumerate(zip(shown, styles, strict=True)):
        aside = (number - (len(shown) - 1) / 2) * 0.012 * span
        label = told_apart(curve, shown) if len(shown) > 1 else "_curve"
        _draw_curve(
            axes,
            final,
            [(arm, at[place[0]] + aside) for arm, place in curve.places.items()],
            look,
            label,
            _interval_look(len(found)),
        )
    _draw_level(axes, final, baseline, (low, high), lines.arm_styles([baseline])[baseline], lines.short(baseline))
    beside = [arm for arm in lines.arms_of(final) if arm not in drawn | {baseline} and (final["arm"] == arm).any()]
    if len(beside) <= MOST_MARKS:
        for number, arm in enumerate(beside):
            look = {"color": lines.OTHERS_COLOUR, "linestyle": lines.DASHES[number % len(lines.DASHES)]}
            _draw_level(axes, final, arm, (low, high), {**look, "linewidth": 1.0, "zorder": 1.5}, lines.short(arm))
    axes.set_xlim(low, high)
    axes.set_ylim(*_reach(final[final["arm"].isin([*drawn, baseline, *(beside if len(beside) <= MOST_MARKS else [])])]))
    axes.set_xticks(places, value_texts(values))
    axes.set_xlabel(f"{label_of(setting)}{f' ({scale})' if scale else ''}")
    axes.set_ylabel(f"test accuracy, mean@{int(final['samples'].max())}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if np.ptp(axes.get_ylim()) > 0.05 else 1))
    hidden = (
        f"{len(beside)} arms that differ in other settings: see accuracy by arm" if len(beside) > MOST_MARKS else ""
    )
    more = f"{len(found) - len(shown)} more curves are not drawn" if len(found) > len(shown) else ""
    return "; ".join(note for note in (hidden, more) if note)


def _draw_curve(
    axes: Axes, final: pd.DataFrame, points: Sequence[tuple[str, float]], look: dict, label: str, known: str
) -> None:
    rows = []
    for arm, x in sorted(points, key=lambda point: point[1]):
        accuracies = final.loc[final["arm"] == arm, "accuracy"].tolist()
        if accuracies:
            interval = t_interval(accuracies)
            rows.append((x, interval.mean, interval.low, interval.high))
            axes.plot([x] * len(accuracies), accuracies, "o", color=look["color"], alpha=0.4, markersize=3.5)
    if not rows:
        return
    x, mean, low, high = np.array(rows, dtype=float).T
    axes.plot(x, mean, label=label, markersize=6, **look)
    if known == "band":
        axes.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
    else:
        axes.vlines(x, low, high, color=look["color"], linewidth=1.0, alpha=0.7)


def _draw_level(axes: Axes, final: pd.DataFrame, arm: str, ends: tuple[float, float], look: dict, label: str) -> None:
    """An arm without a place on the axis: its mean from end to end, the baseline's interval as a band."""
    accuracies = final.loc[final["arm"] == arm, "accuracy"].tolist()
    if not accuracies:
        return
    interval = t_interval(accuracies)
    axes.plot(ends, [interval.mean] * 2, label=label, **{**look, "marker": ""})
    if look["color"] == lines.BASELINE_COLOUR and not math.isnan(interval.low):
        axes.fill_between(ends, interval.low, interval.high, color="0.5", alpha=0.12, linewidth=0, zorder=0.5)


def _reach(shown: pd.DataFrame) -> tuple[float, float]:
    """Ends of the accuracy axis: around the seeds, for the interval of two seeds is 13 standard errors wide."""
    low, high = shown["accuracy"].min(), shown["accuracy"].max()
    room = max(0.01, 0.2 * (high - low))
    return max(0.0, low - room), min(1.0, high + room)
