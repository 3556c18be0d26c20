"""How arms look in a figure, where their names stand, and which may be compared over steps.

A frame's arms are an ordered categorical with the baseline first, and its columns load.ARM_FACTS say what else matters:
`in_contrast` (one of the planned pair) and `drops_groups` (see `SweepData.filtering`). A frame without them has none.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

BASELINE_COLOUR = "black"
OTHERS_COLOUR = "0.62"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = "osD^vP*XhP"
MOST_BANDS = 5
MOST_COLOURED = 10
"""With more arms than this only those that the question is about have a colour; the others are thin and grey."""
LABEL_INCHES = 0.15
"""Height of an arm's name beside the axes."""
MOST_LETTERS = 36
"""Longer names are cut in the middle where they are shown."""
DROPS = "drops groups"


def arm_styles(arms: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line colour, dashes, width and marker of each arm; the first arm is the baseline."""
    # without the palette's grey and its yellow, which vanishes on white paper
    colours = [colour for i, colour in enumerate(sns.color_palette("colorblind", 10)) if i not in (7, 8)]
    styles: dict[str, dict[str, Any]] = {}
    for i, arm in enumerate(arms):
        common = {"linewidth": 1.6, "zorder": 2.5}
        if i == 0:
            styles[arm] = {**common, "color": BASELINE_COLOUR, "linestyle": (0, (4, 2)), "marker": "o"}
        else:
            dashes = DASHES[(i - 1 + (i - 1) // len(colours)) % len(DASHES)]
            look = {"color": colours[(i - 1) % len(colours)], "linestyle": dashes, "marker": MARKERS[i % 10]}
            styles[arm] = {**common, **look}
    return styles


def styles_of(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """`arm_styles` of all arms of the sweep, those in the background thin and grey."""
    arms = arms_of(frame)
    if not crowded(frame):
        return arm_styles(arms)
    grey = {"color": OTHERS_COLOUR, "linestyle": "-", "marker": "", "linewidth": 0.8, "zorder": 2.0}
    own = arm_styles(arms)
    styles = {arm: own[arm] for arm in arms[:1] + arms_with(frame, "in_contrast")}
    taken = {style["color"] for style in styles.values()}
    free = [style for style in own.values() if style["color"] not in taken]
    # the pair looks as in every figure; two arms that drop groups could have one colour by their places
    dropping = [arm for arm in arms_with(frame, "drops_groups") if arm not in styles]
    styles |= dict(zip(dropping, free, strict=False))
    return {arm: styles.get(arm, grey) for arm in arms}


def background(frame: pd.DataFrame) -> set[str]:
    """In a crowd, the arms beside the baseline, the planned pair, and those that drop groups; else none."""
    if not crowded(frame):
        return set()
    return set(arms_of(frame)[1:]) - {*arms_with(frame, "in_contrast"), *arms_with(frame, "drops_groups")}


def arms_of(frame: pd.DataFrame) -> list[str]:
    """All arms in order, also those without rows yet, so that colours do not change as results arrive."""
    return list(frame["arm"].cat.categories)


def arms_with(frame: pd.DataFrame, fact: str) -> list[str]:
    """Arms of which a column of load.ARM_FACTS is true, in order."""
    if fact not in frame:
        return []
    holding = set(frame.loc[frame[fact].astype(bool), "arm"])
    return [arm for arm in arms_of(frame) if arm in holding]


def short(name: str, most: int = MOST_LETTERS) -> str:
    """A name on one line, its middle left out beyond `most` letters."""
    line = " ".join(name.split())
    return line if len(line) <= most else f"{line[: most // 2]}…{line[-(most - 1 - most // 2) :]}"


def crowded(frame: pd.DataFrame) -> bool:
    """Are there more arms with rows than colours can tell apart?"""
    return frame["arm"].nunique() > MOST_COLOURED


def banded(frame: pd.DataFrame) -> bool:
    """Bands of more arms than this hide each other."""
    return frame["arm"].nunique() <= MOST_BANDS


def by_steps(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows of the arms of which a step is a fair measure, and a sentence on the others ("" where there are none)."""
    dropping = arms_with(frame, "drops_groups")
    if not dropping:
        return frame, ""
    verb = "drops" if len(dropping) == 1 else "drop"
    note = f"without {', '.join(map(short, dropping))} ({verb} groups): see accuracy over generated tokens"
    return frame[~frame["arm"].isin(dropping)], note


def titled(axes: Axes, *notes: str) -> None:
    """Set the notes that are not empty as the title, in grey, wrapped to the width of the axes."""
    lines = [line for note in notes if note for line in textwrap.wrap(note, 76)]
    axes.set_title("\n".join(lines), loc="left", color="0.35", size=9 if len(lines) > 1 else None)


def single(frame: pd.DataFrame) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, as large as the names of the frame's arms need it."""
    names = frame["arm"].nunique()
    size = (7.2, max(4.2, 1.3 + LABEL_INCHES * names)) if crowded(frame) else (6.4, 4.2 + legend_height(names))
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def name_lines(figure: Figure, axes: Axes, frame: pd.DataFrame) -> None:
    """The names of all arms: a legend, or in a crowd each at the end of its line."""
    if crowded(frame):
        end_labels(figure, axes)
    else:
        legend_below(figure, axes)


def legend_below(figure: Figure, axes: Axes, behind: set[str] | None = None) -> None:
    """The arms under the axes, three in a row, those `behind` as one; give the figure `legend_height` for them."""
    shown: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        shown.setdefault("other arms" if label in (behind or ()) else label, handle)
    names = [short(label) for label in shown]
    # three long names are wider than the figure
    columns = 3 if max(map(len, names), default=0) <= 22 else 2
    figure.legend(
        list(shown.values()), names, loc="outside lower center", ncols=min(len(shown), columns), handlelength=2.8
    )


def legend_height(entries: int) -> float:
    """Inches that the rows of a legend take beyond the first two, which the usual figure has room for."""
    return 0.2 * max(0, -(-entries // 3) - 2)


def end_labels(figure: Figure, axes: Axes, inches: float = 0.0, letters: int = 24) -> None:
    """Each labelled line's name right of the axes, as near to the height of its last point as the others allow.

    `inches`: height of the axes, where they do not fill the figure; `letters`: most of a name.
    """
    ends = []
    for line in axes.get_lines():
        points = np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) and not str(line.get_label()).startswith("_"):
            ends.append((points[-1, 0], points[-1, 1], line))
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends.sort(key=lambda end: end[1])
    inches = inches or figure.get_size_inches()[1] - 1.0  # what title and ticks leave, about
    heights = spread_apart([y for _, y, _ in ends], (high - low) * LABEL_INCHES / inches, low, high)
    for (x, y, line), height in zip(ends, heights, strict=True):
        grey = line.get_color() == OTHERS_COLOUR
        axes.annotate(
            short(str(line.get_label()), letters),
            xy=(x, y),
            xytext=(1.04, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            size=8,
            color="0.35" if grey else line.get_color(),
            weight="normal" if grey else "bold",
            arrowprops={
                **{"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "zorder": 1},
                **{"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0},
            },
            annotation_clip=False,
        )


def spread_apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions nearest to the ascending `values` (least squares) that lie `gap` apart and within `low` to `high`.

    With more values than fit in the range, they start at `low` and leave it at the top.
    """
    if not len(values):
        return []
    steps = gap * np.arange(len(values))
    # free of the gaps, the positions only have to ascend
    free = isotonic_regression(np.asarray(values, dtype=float) - steps).x
    return (np.clip(free, low, max(low, high - steps[-1])) + steps).tolist()
