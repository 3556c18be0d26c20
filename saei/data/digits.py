"""The embedded problem source: real handwritten digits laid out in a grid, and questions that need them read.

The scans are the UCI optical digits that come inside scikit-learn (1,797 scans, 8x8, levels 0..16). Each is enlarged to
a 28x28 cell, one merged vision token of Qwen2.5-VL (patch 14, merge 2), in grey levels [32, 223], so that an attack of
up to 32/255 never clips. `train`, `validation` and `test` use disjoint scans, split once for all seeds: the weights
that ship with the package have seen the training scans only. Shifted test sets draw on the test scans.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from saei.config import DataConfig
from saei.data.problem_set import ProblemSet, size_of
from saei.seeding import stream
from saei.types import Problem

GENERATOR_VERSION = 1
CELL = 28
LOW_LEVEL, HIGH_LEVEL = 32.0, 223.0
SCAN_SHARES = {"train": 1200, "validation": 250, "test": 347}
KINDS = ("sum", "count", "largest", "difference", "comparison")
UNSEEN_KIND = "pair_sum"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """How a split differs from `train`: which scans, the grid's side, question kinds, and what is done to the picture.

    `twin` names the split whose grids and questions it repeats, so that the two differ by the picture alone.
    """

    scans: str
    side: int = 3
    kinds: tuple[str, ...] = KINDS
    change: Literal["none", "rotated", "low_contrast", "noise"] = "none"
    twin: str = ""


SPLITS: dict[str, Split] = {
    "train": Split(scans="train"),
    "validation": Split(scans="validation"),
    "test": Split(scans="test"),
    "larger_grid": Split(scans="test", side=4),
    "unseen_question": Split(scans="test", kinds=(UNSEEN_KIND,)),
    "rotated": Split(scans="test", change="rotated", twin="test"),
    "low_contrast": Split(scans="test", change="low_contrast", twin="test"),
    "noise": Split(scans="test", change="noise", twin="test"),
}
SHIFTED = tuple(name for name in SPLITS if name not in SCAN_SHARES)


@dataclass(frozen=True, kw_only=True)
class GridTask:
    """What a problem is made of: scan numbers and their digits, side x side, and the question asked of them.

    `where` holds the question's arguments: ("row" | "column", number) for a line, a digit for a count, cells (row,
    column) for differences, comparisons and pair sums; all numbers are 1-based.
    """

    scans: Int[np.ndarray, "side side"]
    digits: Int[np.ndarray, "side side"]
    kind: str
    where: tuple

    def line(self) -> list[int]:
        """The digits of the row or column that a `sum` or `largest` question names."""
        axis, number = self.where
        picked = self.digits[number - 1] if axis == "row" else self.digits[:, number - 1]
        return [int(digit) for digit in picked]

    def cell(self, position: int) -> int:
        """The digit in the `position`-th cell that the question names."""
        row, column = self.where[position]
        return int(self.digits[row - 1, column - 1])


def question_of(task: GridTask) -> str:
    """The question in words."""
    if task.kind in ("sum", "largest"):
        axis, number = task.where
        wanted = {"sum": "sum of", "largest": "largest digit in"}[task.kind]
        return f"What is the {wanted} {axis} {number}?"
    if task.kind == "count":
        return f"How many cells show {task.where[0]}?"
    (a, b), (c, d) = task.where
    return {
        "difference": f"What is row {a} column {b} minus row {c} column {d}?",
        "comparison": f"Is row {a} column {b} larger than row {c} column {d}?",
        "pair_sum": f"What is the sum of row {a} column {b} and row {c} column {d}?",
    }[task.kind]


def answer_of(task: GridTask) -> str:
    """The gold answer: an integer, or yes / no / equal for a comparison."""
    if task.kind == "sum":
        return str(sum(task.line()))
    if task.kind == "largest":
        return str(max(task.line()))
    if task.kind == "count":
        return str(int((task.digits == task.where[0]).sum()))
    first, second = task.cell(0), task.cell(1)
    if task.kind == "comparison":
        return compare(first, second)
    return str(first - second if task.kind == "difference" else first + second)


def compare(first: int, second: int) -> str:
    """The answer to "is first larger than second?"."""
    return "equal" if first == second else "yes" if first > second else "no"


@cache
def load_scans() -> tuple[Float[np.ndarray, "scans 8 8"], Int[np.ndarray, " scans"]]:
    """The scans (levels 0..16) and their digits: what `sklearn.datasets.load_digits` returns.

    Its file is read without the package: importing scikit-learn would cost every command and worker over a second.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the digits lie in scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


@cache
def scan_numbers(name: str) -> Int[np.ndarray, " scans"]:
    """The scans that belong to `train`, `validation` or `test`; a partition that no seed changes."""
    order = stream(0, "data", "digits", "scan split").permutation(len(load_scans()[1]))
    start = 0
    for share, size in SCAN_SHARES.items():
        if share == name:
            return order[start : start + size]
        start += size
    raise ValueError(f"scans are split into {', '.join(SCAN_SHARES)}, got {name!r}")


def task_at(split: str, index: int, seed: int) -> GridTask:
    """Problem `index` of `split` under `seed`, before it is drawn."""
    rule = SPLITS[split]
    random = stream(seed, "data", "digits", rule.twin or split, index)
    scans = random.choice(scan_numbers(rule.scans), size=(rule.side, rule.side))
    digits = load_scans()[1][scans]
    kind = rule.kinds[int(random.integers(len(rule.kinds)))]
    cells = random.choice(rule.side**2, size=2, replace=False)
    if kind in ("sum", "largest"):
        where: tuple = (("row", "column")[int(random.integers(2))], int(random.integers(rule.side)) + 1)
    elif kind == "count":
        # Half of the counts ask for a digit that is there, or zero would be most answers.
        there = int(digits.flat[int(cells[0])])
        where = (there if random.random() < 0.5 else int(random.integers(10)),)
    else:
        where = tuple((int(cell) // rule.side + 1, int(cell) % rule.side + 1) for cell in cells)
    return GridTask(scans=scans, digits=digits, kind=kind, where=where)


@cache
def enlargement() -> Float[np.ndarray, "28 8"]:
    """Linear interpolation from 8 to 28 samples with aligned cell centres: a cell is `E @ scan @ E.T`."""
    centres = np.clip((np.arange(CELL) + 0.5) * 8 / CELL - 0.5, 0, 7)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(8)[None]))


def draw(task: GridTask, change: str, random: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    """The grid as an RGB picture of side*28 pixels, levels in [32, 223] unless `change` says otherwise."""
    scale, images = enlargement(), load_scans()[0]
    rows = []
    for line in task.scans:
        cells = [LOW_LEVEL + (HIGH_LEVEL - LOW_LEVEL) / 16 * (scale @ images[scan] @ scale.T) for scan in line]
        rows.append(np.concatenate([rotated(cell, random) if change == "rotated" else cell for cell in cells], axis=1))
    grey = np.concatenate(rows, axis=0)
    if change == "low_contrast":
        grey = 127.5 + (grey - 127.5) * 0.4
    if change == "noise":
        grey = grey + random.normal(0.0, 24.0, grey.shape)
    return np.repeat(np.clip(np.round(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def rotated(cell: Float[np.ndarray, "28 28"], random: np.random.Generator) -> Float[np.ndarray, "28 28"]:
    """The cell turned by 15 to 30 degrees, either way, on the background level."""
    angle = float(random.uniform(15, 30) * random.choice([-1, 1]))
    picture = Image.fromarray(cell.astype(np.float32)).rotate(angle, Image.Resampling.BILINEAR, fillcolor=LOW_LEVEL)
    return np.asarray(picture, dtype=np.float64)


def problem_at(split: str, seed: int, index: int) -> Problem:
    """Problem `index` of `split`: the same for the same arguments on every machine."""
    task = task_at(split, index, seed)
    picture = draw(task, SPLITS[split].change, stream(seed, "data", "digits picture", split, index))
    return Problem(
        problem_id=f"digits-{split}-{seed}-{index:05d}",
        images=(picture,),
        question=question_of(task),
        answer=answer_of(task),
        answer_type="text" if task.kind == "comparison" else "number",
        kind=task.kind,
        source="digits",
        split=split,
    )


def load(data: DataConfig, split: str) -> ProblemSet:
    """The problems of `split`; raises ValueError where there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"data.source digits has the splits {', '.join(SPLITS)}, got {split!r}")
    return ProblemSet(split=split, size=size_of(data, split), problem_at=partial(problem_at, split, data.seed))


def shifted(data: DataConfig) -> tuple[str, ...]:
    """The shifted test sets, all of them."""
    return SHIFTED


def fingerprint(data: DataConfig) -> str:
    """sha256 over the scans, the version of this generator, the seed and the size of each split."""
    images, digits = load_scans()
    sizes = {name: size_of(data, name) for name in SPLITS}
    settings = {"version": GENERATOR_VERSION, "seed": data.seed, "sizes": sizes}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(images.astype(np.uint8).tobytes() + digits.astype(np.uint8).tobytes())
    return digest.hexdigest()
