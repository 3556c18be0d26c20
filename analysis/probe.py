"""What a moved image does to a policy without training: the folder that `python -m saei.probe` writes.

Every difference is a condition minus `clean_again`, further completions on the clean image with the same noise, paired
over problems (gradients: over chunks of problems); the interval is the probe's own, 95 %, t. One policy's problems:
no verdict on a training method.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.strip_text import plain
from analysis.style import STYLE, Sentence

DIFFERENCES, SETTINGS = "differences.parquet", "settings.json"
COLUMNS = {"step_size": "number", "condition": "text", "metric": "text", "mean": "number", "half": "number"}
MOST_BYTES, MOST_ROWS = 8 * 2**20, 20_000
CONTROL = "clean_again"
PANELS: dict[str, tuple[str, float]] = {
    "entropy_kept": ("entropy, same completions,\nkept tokens (nats)", 1),
    "entropy_all": ("entropy, same completions,\nall tokens (nats)", 1),
    "entropy_fresh": ("entropy, fresh completions\n(nats)", 1),
    "accuracy": ("accuracy (points)", 100),
    "distinct": ("distinct answers of\na condition", 1),
    "distinct_group": ("distinct answers of\na group", 1),
    "zero_signal_group": ("groups without signal\n(points)", 100),
    "new": ("solved, first clean draw\nnot (points)", 100),
    "tokens": ("tokens per completion", 1),
    "grad_norm": ("norm of a group's gradient", 1),
    "grad_cosine": ("cosine with a clean\ngroup's gradient", 1),
}
"""Metric -> title of its panel with the unit, and what the probe's number is multiplied by."""
NO_PROBE = "No probe here: python -m saei.probe --out results/probe writes one."
SURE, UNSURE = "#0173b2", "0.55"


def probes_in(results: Sequence[Path]) -> list[Path]:
    """Folders `probe*` of results folders, or one level below, that hold a probe's table, the newest first."""
    patterns = (f"probe*/{DIFFERENCES}", f"*/probe*/{DIFFERENCES}")
    found = {path.parent for folder in results for pattern in patterns for path in Path(folder).glob(pattern)}
    return sorted(found, key=lambda folder: (-(folder / DIFFERENCES).stat().st_mtime, str(folder)))


def read_probe(folder: Path) -> tuple[pd.DataFrame, str]:
    """The rows of PANELS and a sentence on policy and problems; NaN step sizes are conditions without one.

    Raises ValueError with a sentence for a table that is too large, damaged or not a probe's.
    """
    path = Path(folder) / DIFFERENCES
    again = "; run python -m saei.probe again"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, a probe's table has at most {MOST_BYTES}{again}")
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} cannot be read ({error}){again}") from error
    lacking = [column for column in COLUMNS if column not in table.column_names]
    if lacking or len(table) > MOST_ROWS:
        what = f"it lacks {', '.join(lacking)}" if lacking else f"it has {len(table)} rows, more than {MOST_ROWS}"
        raise ValueError(f"{path} is no table of differences: {what}{again}")
    frame = table.select(list(COLUMNS)).to_pandas()
    for column, kind in COLUMNS.items():
        if kind == "number" and not pd.api.types.is_numeric_dtype(frame[column]):
            raise ValueError(f"{path}: {column} holds no numbers{again}")
    frame = frame[frame["metric"].isin(list(PANELS)) & frame["condition"].notna() & np.isfinite(frame["mean"])]
    frame = frame.assign(half=frame["half"].where(np.isfinite(frame["half"]))).reset_index(drop=True)
    return frame, _about(Path(folder) / SETTINGS)


def effects(folders: Sequence[Path]) -> Figure | Sentence:
    """The newest of the folders that can be read: a panel per metric, a row per condition (and step size).

    Blue: the 95 % interval leaves out 0; some of many do by chance. Conditions without an interval are hollow.
    """
    if not folders:
        return Sentence(NO_PROBE)
    try:
        frame, about = read_probe(folders[0])
    except ValueError as error:
        return Sentence(f"{error}.")
    if frame.empty:
        return Sentence(f"{folders[0]} holds no difference that is drawn here.")
    metrics = [metric for metric in PANELS if (frame["metric"] == metric).any()]
    frame = _sized(frame)
    several = frame["step_size"].dropna().nunique() > 1
    frame = frame.assign(
        row=[_row(*pair, several) for pair in zip(frame["condition"], frame["step_size"], strict=True)]
    )
    names = list(dict.fromkeys(frame["row"]))
    across = min(4, len(metrics))
    down = math.ceil(len(metrics) / across)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.0 * across + 1.4, (0.95 + 0.24 * len(names)) * down + 0.5), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, metric in zip(grid, metrics, strict=False):
            title, factor = PANELS[metric]
            _panel(axes, frame[frame["metric"] == metric], names, factor)
            axes.set_title(title, loc="left", size=8)
        for axes in grid[len(metrics) :]:
            axes.set_visible(False)
        grid[0].set_yticks(range(len(names)), names)
        grid[0].set_ylim(len(names) - 0.5, -0.5)
        note = f"{about}condition minus {CONTROL}, 95 % intervals; blue: leaves out 0"
        figure.suptitle("\n".join(textwrap.wrap(note, 112)), size=9, color="0.35", x=0.01, ha="left")
    return figure


def _panel(axes: Axes, own: pd.DataFrame, names: Sequence[str], factor: float) -> None:
    for row in own.itertuples():
        place, mean = names.index(row.row), factor * row.mean
        known = not math.isnan(row.half)
        colour = SURE if known and abs(row.mean) > row.half else UNSURE
        half = factor * row.half if known else 0.0
        axes.plot([mean - half, mean + half], [place, place], color=colour, linewidth=1.4)
        face = colour if known else "white"
        axes.plot([mean], [place], "D" if colour == SURE else "o", color=colour, markersize=4, markerfacecolor=face)
    axes.axvline(0, color="0.6", linewidth=1, zorder=0)
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", labelsize=8)


def _sized(frame: pd.DataFrame) -> pd.DataFrame:
    """A condition without a size, whose rows the probe repeats for every step size, once and with no size."""
    rows = []
    for _, own in frame.groupby("condition", sort=False):
        sizes = [size.drop(columns="step_size").reset_index(drop=True) for _, size in own.groupby("step_size")]
        if len(sizes) > 1 and all(size.equals(sizes[0]) for size in sizes):
            rows.append(sizes[0].assign(step_size=math.nan))
        else:
            rows.append(own)
    return pd.concat(rows, ignore_index=True)


def _row(condition: object, step_size: float, several: bool) -> str:
    name = plain(str(condition), 24)
    return f"{name} {step_size:g}/255" if several and not math.isnan(step_size) else name


def _about(path: Path) -> str:
    """Model and number of problems from a probe's settings, "" where they cannot be read."""
    try:
        tree = json.loads(path.read_text()) if path.stat().st_size <= MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(tree, dict):
        return ""
    parts = [plain(str(tree["model"]), 60)] if "model" in tree else []
    parts += [f"{plain(str(tree['problems']), 12)} problems"] if "problems" in tree else []
    return f"{', '.join(parts)}: " if parts else ""
