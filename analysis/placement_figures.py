"""`placement` as a picture and a table, by arm.

A figure's row is an arm, the random control among them where there is one: what its maps and bars show is chance.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import math
import textwrap

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.lines import short
from analysis.placement import DAMAGED, REGIONS
from analysis.strip_text import plain
from analysis.style import STYLE, Sentence

MOST_ARMS = 6
NOTHING = "No strips to look at: no run with a changed image has recorded one."
ALL_TOUCHED = 0.995
"""Where each cell of each strip has more of its pixels touched, that is said and not drawn."""
CHANCE = "random_sign"
"""The view that keeps the size of EgAS's change at every pixel and draws its sign."""


def where_on_the_image(measured: pd.DataFrame) -> Figure | Sentence:
    """`placement.placements`: an arm a row; share of touched pixels (where not all are), signed change, that by region.

    Averages over an arm's strips. At most MOST_ARMS arms, the random control last; the title names how many are left
    out.
    """
    damaged = measured.attrs.get(DAMAGED, 0)
    if measured.empty:
        return Sentence(f"No strip can be read: {damaged} damaged." if damaged else NOTHING)
    arms = _arms(measured)
    shown = arms[:MOST_ARMS]
    if len(arms) > MOST_ARMS and _is_chance(measured, arms[-1]):
        shown = [*arms[: MOST_ARMS - 1], arms[-1]]
    maps = {arm: [row.change for row in measured.loc[measured["arm"] == arm, "placement"]] for arm in shown}
    means = {arm: np.mean(changes, axis=0) for arm, changes in maps.items()}
    reach = max(0.01, *(float(np.abs(mean).max()) for mean in means.values()))
    everywhere = bool(min(row.touched.min() for row in measured["placement"]) > ALL_TOUCHED)
    left_out = len(arms) - len(shown)
    notes = [f"dots: strips; bar: their mean; violet: lighter; orange: darker; {len(measured)} strips in all"]
    notes += ["every pixel is touched"] * everywhere
    notes += [f"{left_out} more arm{'s are' if left_out > 1 else ' is'} in the table"] * bool(left_out)
    notes += [f"{damaged} damaged strips left out"] * bool(damaged)
    with rc_context({**STYLE, "axes.grid": False, "text.parse_math": False}):
        ratios = (1, 1.6) if everywhere else (1, 1, 1.5)
        figure = Figure(figsize=(6.4 if everywhere else 7.6, 1.1 + 1.75 * len(shown)), layout="constrained")
        grid = figure.subplots(len(shown), len(ratios), squeeze=False, width_ratios=ratios)
        if not everywhere:
            touches = [_touched(axes, measured, arm) for axes, arm in zip(grid[:, 0], shown, strict=True)]
            grid[0, 0].set_title("share of pixels touched", loc="left", size=9)
            figure.colorbar(touches[0], ax=list(grid[:, 0]), location="bottom", shrink=0.9, pad=0.02)
        signs = []
        for axes, arm in zip(grid[:, -2], shown, strict=True):
            signs.append(axes.imshow(means[arm], cmap="PuOr", vmin=-reach, vmax=reach, interpolation="nearest"))
            _frame(axes)
        for axes, arm in zip(grid[:, 0], shown, strict=True):
            _name(axes, measured[measured["arm"] == arm], arm)
        for axes, arm in zip(grid[:, -1], shown, strict=True):
            _by_region(axes, measured[measured["arm"] == arm])
        _share_x(grid[:, -1])
        figure.colorbar(signs[0], ax=list(grid[:, -2]), location="bottom", shrink=0.9, pad=0.02)
        grid[0, -2].set_title("mean change (grey levels)", loc="left", size=9)
        grid[0, -1].set_title("change (grey levels) by what is there", loc="left", size=9)
        figure.suptitle("\n".join(textwrap.wrap("; ".join(notes), 95)), size=9, color="0.35", x=0.01, ha="left")
    return figure


def where_table(measured: pd.DataFrame) -> pd.DataFrame:
    """`placement.placements`: a row per arm and view, means over strips; counts of strips and seeds beside them."""
    rows = []
    for (arm, view), own in measured.groupby(["arm", "view"], observed=True, sort=True):
        facts = pd.DataFrame([row.facts for row in own["placement"]]).mean()
        rows.append(
            {
                "arm": str(arm),
                "view": str(view),
                "strips": len(own),
                "seeds": own["seed"].nunique(),
                "pixels touched": _percent(facts["touched"]),
                "mean size (levels)": f"{facts['size']:.2f}",
                "neighbours alike": _percent(facts["alike"]),
                **{
                    f"{region}: change (levels)": f"{_signed(facts[f'change {region}'])} "
                    f"on {_percent(facts[f'share {region}'])}"
                    for region in REGIONS
                },
            }
        )
    return pd.DataFrame(rows) if rows else pd.DataFrame({"strips": [NOTHING]})


def _arms(measured: pd.DataFrame) -> list[str]:
    """Arms with strips in order, the random control last."""
    if isinstance(measured["arm"].dtype, pd.CategoricalDtype):
        arms = [str(arm) for arm in measured["arm"].cat.categories if (measured["arm"] == arm).any()]
    else:
        arms = [str(arm) for arm in dict.fromkeys(measured["arm"])]
    return sorted(arms, key=lambda arm: _is_chance(measured, arm))


def _is_chance(measured: pd.DataFrame, arm: str) -> bool:
    return bool((measured.loc[measured["arm"] == arm, "view"] == CHANCE).all())


def _touched(axes: Axes, measured: pd.DataFrame, arm: str) -> object:
    own = measured[measured["arm"] == arm]
    mean = np.mean([row.touched for row in own["placement"]], axis=0)
    picture = axes.imshow(mean, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    _frame(axes)
    return picture


def _name(axes: Axes, own: pd.DataFrame, arm: str) -> None:
    alike = float(pd.Series([row.facts["alike"] for row in own["placement"]]).mean())
    count = f"{len(own)} strip{'s' * (len(own) != 1)}"
    axes.set_ylabel(f"{short(plain(arm, 200), 24)}\n{count}\nneighbours {_percent(alike)} alike", size=8)


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color="0.8", linewidth=0.5)


def _by_region(axes: Axes, own: pd.DataFrame) -> None:
    facts = pd.DataFrame([row.facts for row in own["placement"]])
    for place, region in enumerate(REGIONS):
        values = facts[f"change {region}"].dropna().to_numpy()
        if len(values):
            # strips beside each other in the order recorded, so that equal values do not hide
            spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(values, place + spread, "o", color="0.6", markersize=2.5, linewidth=0)
            axes.plot([values.mean()] * 2, [place - 0.36, place + 0.36], color="black", linewidth=2)
    axes.axvline(0, color="0.75", linewidth=1, zorder=0)
    labels = [f"{region} ({_percent(facts[f'share {region}'].mean())})" for region in REGIONS]
    axes.set_yticks(range(len(REGIONS)), labels, size=8)
    axes.set_ylim(len(REGIONS) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)


def _share_x(column: np.ndarray) -> None:
    """One scale around 0 for all arms, labelled at the bottom."""
    reach = max(abs(limit) for axes in column for limit in axes.get_xlim())
    for axes in column:
        axes.set_xlim(-reach, reach)
        axes.label_outer()
        axes.tick_params(labelleft=True)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def _signed(levels: float) -> str:
    return "–" if math.isnan(levels) else f"{levels:+.2f}".replace("-", "−")
