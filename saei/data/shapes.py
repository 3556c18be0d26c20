"""The drawn problem source: a few coloured circles, squares and triangles, and questions that count and compare them.

A visual domain other than digits (claims.md Q3, N2), with questions in the same style. Pictures are 84x84, one shape
in each of some cells of a 3x3 raster, off centre but inside its cell, so that nothing overlaps. Shapes of equal size
have equal areas, and one shape of every picture is clearly the largest. Levels stay in [32, 223], as those of the
digits do, so that an attack of up to 32/255 never clips.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from saei.config import DataConfig
from saei.data.problem_set import ProblemSet, size_of
from saei.seeding import stream
from saei.types import Problem

GENERATOR_VERSION = 1
SIDE, CELL = 84, 28
SUPERSAMPLE = 4  # edges are drawn this much larger and averaged
OUTLINE = 2  # pixels
BACKGROUND = (200, 200, 200)
RADII = (4.0, 5.0, 6.0, 7.0)  # pixels, of the circle of equal area
LARGEST_RADIUS = 9.0
FORMS = ("circle", "square", "triangle")
PALETTE = {
    "red": (208, 44, 44),
    "green": (40, 148, 64),
    "blue": (44, 72, 212),
    "yellow": (223, 208, 40),
    "purple": (136, 44, 168),
    "orange": (223, 124, 32),
    "brown": (112, 72, 40),
    "pink": (223, 128, 176),
}
COLOURS = ("red", "green", "blue", "yellow")
OTHER_COLOURS = ("purple", "orange", "brown", "pink")
KINDS = ("count_form", "count_colour", "more", "largest_form", "largest_colour")


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """How a split differs from `train`. `twin` names the split whose pictures' contents and questions it repeats."""

    fewest: int = 3
    most: int = 6
    colours: tuple[str, ...] = COLOURS
    outlined: bool = False
    twin: str = ""


SPLITS: dict[str, Split] = {
    "train": Split(),
    "validation": Split(),
    "test": Split(),
    "more_shapes": Split(fewest=7, most=9),
    "other_colours": Split(colours=OTHER_COLOURS),
    "outlined": Split(outlined=True, twin="test"),
}
SHIFTED = ("more_shapes", "other_colours", "outlined")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One shape: centre (x, y) of its box in pixels, and the radius of the circle of the same area."""

    form: str
    colour: str
    radius: float
    centre: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesTask:
    """What a problem is made of. `asked` holds the question's arguments: a form, a colour, two colours, or nothing."""

    shapes: tuple[Shape, ...]
    kind: str
    asked: tuple[str, ...] = ()

    def count(self, *, form: str = "", colour: str = "") -> int:
        """How many shapes have this form or this colour."""
        return sum((form or shape.form) == shape.form and (colour or shape.colour) == shape.colour
                   for shape in self.shapes)  # fmt: skip


def question_of(task: ShapesTask) -> str:
    """The question in words."""
    if task.kind == "count_form":
        return f"How many {task.asked[0]}s are there?"
    if task.kind == "count_colour":
        return f"How many {task.asked[0]} shapes are there?"
    if task.kind == "more":
        return f"Are there more {task.asked[0]} shapes than {task.asked[1]} ones?"
    return {"largest_form": "Which shape is largest?", "largest_colour": "What colour is the largest shape?"}[task.kind]


def answer_of(task: ShapesTask) -> str:
    """The gold answer: a number, yes or no, a form, or a colour."""
    if task.kind == "count_form":
        return str(task.count(form=task.asked[0]))
    if task.kind == "count_colour":
        return str(task.count(colour=task.asked[0]))
    if task.kind == "more":
        return "yes" if task.count(colour=task.asked[0]) > task.count(colour=task.asked[1]) else "no"
    largest = max(task.shapes, key=lambda shape: shape.radius)
    return {"largest_form": largest.form, "largest_colour": largest.colour}[task.kind]


def task_at(split: str, index: int, seed: int) -> ShapesTask:
    """Problem `index` of `split` under `seed`, before it is drawn."""
    rule = SPLITS[split]
    random = stream(seed, "data", "shapes", rule.twin or split, index)
    cells = random.permutation(9)[: int(random.integers(rule.fewest, rule.most + 1))]
    shapes = []
    for number, cell in enumerate(cells):
        radius = LARGEST_RADIUS if number == 0 else float(random.choice(RADII))
        room = CELL / 2 - 0.5 - reach(radius)  # half a pixel stays free on every side
        x, y = random.uniform(-room, room, size=2)
        shapes.append(
            Shape(
                form=str(random.choice(FORMS)),
                colour=str(random.choice(rule.colours)),
                radius=radius,
                centre=(int(cell) % 3 * CELL + CELL / 2 + float(x), int(cell) // 3 * CELL + CELL / 2 + float(y)),
            )
        )
    kind = KINDS[int(random.integers(len(KINDS)))]
    return ShapesTask(shapes=tuple(shapes), kind=kind, asked=_asked(kind, shapes, rule, random))


def _asked(kind: str, shapes: Sequence[Shape], rule: Split, random: np.random.Generator) -> tuple[str, ...]:
    # Half of the questions name something that is there, or zero and "no" would be too many of the answers.
    there = shapes[int(random.integers(len(shapes)))] if random.random() < 0.5 else None
    if kind == "count_form":
        return (there.form if there else str(random.choice(FORMS)),)
    if kind == "count_colour":
        return (there.colour if there else str(random.choice(rule.colours)),)
    if kind == "more":
        first = there.colour if there else str(random.choice(rule.colours))
        return first, str(random.choice([colour for colour in rule.colours if colour != first]))
    return ()


def reach(radius: float) -> float:
    """Half the longest side of the box around any form of this size, in pixels: it is the triangle's base."""
    return radius * math.sqrt(math.pi / math.sqrt(3))


def draw(task: ShapesTask, *, outlined: bool) -> UInt8[np.ndarray, "height width 3"]:
    """The picture, anti-aliased: RGB, 84x84."""
    canvas = Image.new("RGB", (SIDE * SUPERSAMPLE, SIDE * SUPERSAMPLE), BACKGROUND)
    brush = ImageDraw.Draw(canvas)
    for shape in task.shapes:
        ink = PALETTE[shape.colour]
        style: dict[str, Any] = {"outline": ink, "width": OUTLINE * SUPERSAMPLE} if outlined else {"fill": ink}
        x, y = (SUPERSAMPLE * value for value in shape.centre)
        if shape.form == "circle":
            half = SUPERSAMPLE * shape.radius
            brush.ellipse((x - half, y - half, x + half, y + half), **style)
        elif shape.form == "square":
            half = SUPERSAMPLE * shape.radius * math.sqrt(math.pi) / 2
            brush.rectangle((x - half, y - half, x + half, y + half), **style)
        else:
            half = SUPERSAMPLE * reach(shape.radius)
            rise = half * math.sqrt(3) / 2  # equilateral
            brush.polygon([(x - half, y + rise), (x + half, y + rise), (x, y - rise)], **style)
    return np.array(canvas.reduce(SUPERSAMPLE))


def problem_at(split: str, seed: int, index: int) -> Problem:
    """Problem `index` of `split`: the same for the same arguments."""
    task = task_at(split, index, seed)
    return Problem(
        problem_id=f"shapes-{split}-{seed}-{index:05d}",
        images=(draw(task, outlined=SPLITS[split].outlined),),
        question=question_of(task),
        answer=answer_of(task),
        answer_type="number" if task.kind.startswith("count") else "text",
        kind=task.kind,
        source="shapes",
        split=split,
    )


def load(data: DataConfig, split: str) -> ProblemSet:
    """The problems of `split`; raises ValueError where there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"data.source shapes has the splits {', '.join(SPLITS)}, got {split!r}")
    return ProblemSet(split=split, size=size_of(data, split), problem_at=partial(problem_at, split, data.seed))


def shifted(data: DataConfig) -> tuple[str, ...]:
    """The shifted test sets, all of them."""
    return SHIFTED


def fingerprint(data: DataConfig) -> str:
    """sha256 over the version of this generator, the seed and the size of each split."""
    sizes = {name: size_of(data, name) for name in SPLITS}
    settings = {"source": "shapes", "version": GENERATOR_VERSION, "seed": data.seed, "sizes": sizes}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
