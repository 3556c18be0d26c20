"""A probe's tables in the terminal (140 columns) and its figure."""

import io
from collections.abc import Sequence
from math import isnan

from rich.table import Table

from saei.probe.conditions import ATTACK, CLEAN, CONTROL
from saei.probe.summary import Difference, Row, by_condition, columns, level, metrics, new_share

WIDTH = 140
_CONDITIONS_ACROSS = 5


def level_table(problems: Sequence[Row], gradients: Sequence[Row], step_size: float) -> Table:
    """Means by condition; the line on new solutions gives their number of all problems solved."""
    found, chunks = by_condition(problems, step_size), by_condition(gradients, step_size)
    shown = Table(title=f"Means, step {step_size:g}/255", title_justify="left")
    shown.add_column("")
    for name in found:
        shown.add_column(name, justify="right")
    shown.add_row("L2 of the move, [0, 1] units", *[_number(level(rows, "l2")) for rows in found.values()])
    for metric, label in metrics(columns(problems)).items():
        shown.add_row(label, *[_number(level(rows, metric)) for rows in found.values()])
    new = [(name, *new_share(rows)) for name, rows in found.items() if name != CLEAN]
    shown.add_row(
        "of the problems solved, new", *["" for _ in range(len(found) - len(new))], *[f"{n} of {s}" for _, s, n in new]
    )
    for metric, label in metrics(columns(gradients)).items():
        shown.add_row(label, *[_number(level(chunks.get(name, []), metric)) for name in found])
    return shown


def difference_tables(found: Sequence[Difference], step_size: float) -> list[Table]:
    """Paired differences from the second clean draw, five conditions a table; bold where the interval leaves out 0."""
    own = [difference for difference in found if difference.step_size == step_size]
    names = list(dict.fromkeys(difference.condition for difference in own))
    cells = {(difference.metric, difference.condition): difference for difference in own}
    title = f"Paired differences from {CONTROL}, step {step_size:g}/255 (mean ± 95 % interval)"
    tables = []
    for first in range(0, len(names), _CONDITIONS_ACROSS):
        across = names[first : first + _CONDITIONS_ACROSS]
        shown = Table("", title=title, title_justify="left")
        for name in across:
            shown.add_column(name, justify="right")
        for metric, label in metrics([difference.metric for difference in own]).items():
            shown.add_row(label, *[_cell(cells[metric, name]) for name in across])
        tables.append(shown)
    return tables


def size_sentence(problems: Sequence[Row], step_size: float) -> str:
    """For how many problems the controls' L2 is EgAS's: what the comparison with them is worth."""
    found = {
        name: {row["problem_id"]: row["l2"] for row in rows if row["step_size"] == step_size}
        for name, rows in by_condition(problems, step_size).items()
    }
    attack = found.pop(ATTACK, {})
    parts = []
    for name, sizes in found.items():
        if sizes and attack:
            near = sum(abs(l2 - attack[problem_id]) <= 0.02 * attack[problem_id] for problem_id, l2 in sizes.items())
            parts.append(f"{name} {near} of {len(sizes)}")
    return f"L2 within 2 % of {ATTACK}'s, problems: {', '.join(parts)}" if parts else ""


def figure(found: Sequence[Difference], title: str) -> bytes:
    """PNG: a panel for each metric, a point with its interval for each condition (and step size)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = metrics([difference.metric for difference in found])
    several = len({difference.step_size for difference in found}) > 1
    across = 4
    down = -(-len(labels) // across)
    arms = list(dict.fromkeys(_arm(difference, several) for difference in found))
    page = Figure(figsize=(3.6 * across, (0.8 + 0.24 * len(arms)) * down + 0.5), layout="constrained")
    axes = page.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axis in axes[len(labels) :]:
        axis.set_axis_off()
    for axis, (metric, label) in zip(axes, labels.items(), strict=False):
        for difference in found:
            if difference.metric != metric:
                continue
            sure = abs(difference.mean) > difference.half
            half = 0.0 if isnan(difference.half) else difference.half
            y = arms.index(_arm(difference, several))
            axis.errorbar(difference.mean, y, xerr=half, fmt="o", ms=4, capsize=2, color="C0" if sure else "0.55")
        axis.axvline(0, color="0.3", linewidth=0.8)
        axis.set_title(label, fontsize=9)
        axis.set_yticks(range(len(arms)), arms, fontsize=8)
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.tick_params(axis="x", labelsize=7)
        axis.locator_params(axis="x", nbins=4)
    page.suptitle(title, fontsize=9)
    data = io.BytesIO()
    FigureCanvasAgg(page).print_png(data)
    return data.getvalue()


def _arm(difference: Difference, several: bool) -> str:
    return f"{difference.condition} {difference.step_size:g}/255" if several else difference.condition


def _number(value: float) -> str:
    return "" if isnan(value) else f"{value:.4f}"


def _cell(difference: Difference) -> str:
    if isnan(difference.mean):
        return ""
    if difference.mean == difference.half == 0:
        return "0"
    digits = 5 if difference.half < 5e-4 else 4
    text = f"{difference.mean:+.{digits}f} ± {difference.half:.{digits}f}"
    return f"[bold]{text}[/bold]" if abs(difference.mean) > difference.half else text
