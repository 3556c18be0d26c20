"""Where on the image a perturbation goes, from the recorded strips.

With sign steps every pixel moves by the same amount, so the size of the change says nothing: what is looked at is its
sign. *Mean signed change* averages it over channels; *alike* is the share of neighbouring pixel channels (right and
below, both moved) that moved the same way, 50 % for independent signs. The image is divided by what the clean picture
shows there (`regions`). Pictures of any size are brought to one grid by area averaging.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from analysis.strip_files import read_strip

GRID = 24
"""Cells of the common grid, down and across."""
REGIONS = ("strokes", "edges", "background")
EDGE = 0.25
"""A pixel is at an edge where the brightness within one pixel of it spans this share of the image's whole range."""
LEAST = 0.01
"""Share of the pixels: the mean over a smaller region is that of single pixels."""
MOST_STRIPS = 60
"""Of an arm, that are read: large images take a tenth of a second each."""
DAMAGED = "damaged"
FLAT = 8
"""Grey levels: an image that spans less shows nothing, and all of it is background."""
COLUMNS = ("touched", "size", "alike", *(f"{what} {region}" for region in REGIONS for what in ("share", "change")))


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """One strip measured. `facts`: COLUMNS; `touched`, `change`: GRID x GRID, share of pixels and grey levels."""

    facts: dict[str, float]
    touched: np.ndarray
    change: np.ndarray


def placements(strips: pd.DataFrame) -> pd.DataFrame:
    """`SweepData.strips()` -> its columns with `placement` for `path`: at most MOST_STRIPS of an arm, over its run.

    Files that are no strips are left out; `frame.attrs[DAMAGED]` is how many.
    """
    rows, damaged = [], 0
    for row in _thinned(strips).itertuples(index=False):
        try:
            strip = read_strip(row.path)
        except ValueError:
            damaged += 1
            continue
        kept = {key: value for key, value in row._asdict().items() if key != "path"}
        rows.append({**kept, "placement": placement(strip.clean, strip.moved)})
    frame = pd.DataFrame(rows, columns=[*(c for c in strips.columns if c != "path"), "placement"])
    if isinstance(strips["arm"].dtype, pd.CategoricalDtype):
        frame["arm"] = frame["arm"].astype(strips["arm"].dtype)
    frame.attrs[DAMAGED] = damaged
    return frame


def _thinned(strips: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_STRIPS rows of each arm, equally far apart in the order of steps and seeds."""
    ordered = strips.sort_values(["step", "seed"], kind="stable")
    place = ordered.groupby("arm", observed=True).cumcount()
    count = ordered.groupby("arm", observed=True)["step"].transform("size").clip(lower=1)
    most = np.minimum(count, MOST_STRIPS)
    # the first row of each of `most` equal parts
    return ordered[(place * most) // count != ((place - 1) * most) // count].sort_index()


def placement(clean: np.ndarray, moved: np.ndarray) -> Placement:
    """Measure moved - clean (uint8, height x width x 3).

    `touched`: share of pixels of which a channel moved. `size`: mean |change| over pixel channels, grey levels.
    `share`/`change` of a region: of the pixels, and mean signed change in grey levels (NaN below LEAST of the pixels).
    """
    change = moved.astype(np.int16) - clean.astype(np.int16)
    touched = (change != 0).any(axis=2)
    signed = change.mean(axis=2)
    facts = {"touched": float(touched.mean()), "size": float(np.abs(change).mean()), "alike": _alike(change)}
    for name, mask in regions(clean).items():
        facts[f"share {name}"] = float(mask.mean())
        facts[f"change {name}"] = float(signed[mask].mean()) if mask.mean() >= LEAST else float("nan")
    return Placement(facts, on_grid(touched), on_grid(signed))


def regions(clean: np.ndarray) -> dict[str, np.ndarray]:
    """REGIONS of a clean image as masks, height x width, that cover each pixel once.

    By brightness (mean of the channels): `edges` where a pixel's 3 x 3 neighbourhood spans more than EDGE of the range
    of the whole image; of the rest the half of the range with more pixels is `background`, the other one `strokes`,
    dark on light paper and light on dark.
    """
    brightness = clean.mean(axis=2)
    low, high = brightness.min(), brightness.max()
    if high - low < FLAT:
        everything = np.ones(brightness.shape, dtype=bool)
        return {"strokes": ~everything, "edges": ~everything, "background": everything}
    local = ndimage.maximum_filter(brightness, 3) - ndimage.minimum_filter(brightness, 3)
    edges = local > EDGE * (high - low)
    light = brightness > (low + high) / 2
    background = light if (light & ~edges).sum() >= (~light & ~edges).sum() else ~light
    return {"strokes": ~edges & ~background, "edges": edges, "background": ~edges & background}


def on_grid(values: np.ndarray, cells: int = GRID) -> np.ndarray:
    """height x width of any size -> cells x cells, each the mean of the area that it covers."""
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize((cells, cells), Image.Resampling.BOX), dtype=float)


def _alike(change: np.ndarray) -> float:
    """Share of neighbours that moved the same way, of those that both moved; NaN without any."""
    sign = np.sign(change)
    products = np.concatenate([(sign[:, 1:] * sign[:, :-1]).ravel(), (sign[1:] * sign[:-1]).ravel()])
    moved = products != 0
    return float((products[moved] > 0).mean()) if moved.any() else float("nan")
