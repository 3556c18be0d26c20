"""Worked solutions for the warm start: several styles, some of them wrong, so that the policy starts unsure.

A solution is `<think>...</think>\\boxed{answer}`. Wrong steps are of two kinds: a digit misread on the way, or a result
miscalculated; the rest of the solution follows from the mistake, so a wrong step usually means a wrong answer. The
careless styles go wrong more often than the careful ones: that, and the mistakes themselves, is what reinforcement
learning can remove.
"""

import numpy as np

from saei.data.digits import GridTask, compare

READ_QUESTION = "Read the grid."

# style -> (share of solutions, factor on the share of wrong steps)
STYLES: dict[str, tuple[float, float]] = {
    "steps": (0.3, 0.6),
    "list": (0.25, 0.8),
    "terse": (0.25, 1.5),
    "backwards": (0.2, 1.1),
}
OPENERS = ("", "", "let me look. ", "first, ", "ok, ")
CLOSERS = ("", "", ", that is it", ". done")


def reading(task: GridTask) -> str:
    """All digits of the grid, row by row; teaches nothing but to look."""
    rows = ["".join(str(digit) for digit in row) for row in task.digits]
    return f"<think>{', '.join(rows)}</think>\\boxed{{{rows[-1][-1]}}}"


def solution(task: GridTask, random: np.random.Generator, wrong: float) -> str:
    """One worked solution in a style drawn from STYLES; a step goes wrong with probability `wrong` x style factor."""
    names = list(STYLES)
    style = names[int(random.choice(len(names), p=[STYLES[name][0] for name in names]))]
    pen = Pen(random, wrong * STYLES[style][1])
    chain, answer = WRITERS[task.kind](task, style, pen)
    opener = OPENERS[int(random.integers(len(OPENERS)))] if style != "terse" else ""
    closer = CLOSERS[int(random.integers(len(CLOSERS)))] if style != "terse" else ""
    return f"<think>{opener}{chain}{closer}</think>\\boxed{{{answer}}}"


class Pen:
    """Writes digits and results down, now and then wrongly."""

    def __init__(self, random: np.random.Generator, wrong: float) -> None:
        self.random = random
        self.wrong = wrong

    def slips(self) -> bool:
        return bool(self.random.random() < self.wrong)

    def digit(self, true: int) -> int:
        """The digit as it is read: now and then another one."""
        return int((true + 1 + self.random.integers(9)) % 10) if self.slips() else int(true)

    def result(self, true: int) -> int:
        """A result as it is worked out: now and then off by one or two."""
        return int(true + self.random.choice([-2, -1, 1, 2])) if self.slips() else int(true)


def of_line(task: GridTask, style: str, pen: Pen) -> tuple[str, object]:
    """Sum or largest digit of a row or column."""
    axis, number = task.where
    read = [pen.digit(digit) for digit in task.line()]
    if style == "backwards":
        read = read[::-1]
    written = " ".join(map(str, read))
    if task.kind == "largest":
        best = max(read) if not pen.slips() else int(pen.random.choice(read))
        return {
            "steps": f"{axis} {number}: {written}. {best} is largest",
            "list": f"{axis} {number} is {written}, largest {best}",
            "terse": f"{written} : {best}",
            "backwards": f"from the end: {written}. largest {best}",
        }[style], best
    sums = [read[0]]
    for digit in read[1:]:
        sums.append(pen.result(sums[-1] + digit) if style == "steps" else sums[-1] + digit)
    total = sums[-1] if style == "steps" else pen.result(sums[-1])
    plus = "+".join(map(str, read))
    steps = ", ".join(
        f"{before}+{digit}={after}" for before, digit, after in zip(sums, read[1:], sums[1:], strict=False)
    )
    return {
        "steps": f"{axis} {number}: {written}. {steps}",
        "list": f"{axis} {number} is {written}, sum {total}",
        "terse": f"{plus}={total}",
        "backwards": f"from the end: {plus}={total}",
    }[style], total


def of_count(task: GridTask, style: str, pen: Pen) -> tuple[str, object]:
    """How many cells show a digit: the grid is read out, and the hits counted row by row or at the end."""
    wanted = task.where[0]
    # Nine digits are read: a third of the usual share of slips keeps counts as hard as the other kinds.
    careful = Pen(pen.random, pen.wrong / 3)
    rows = [[careful.digit(digit) for digit in row] for row in task.digits.tolist()]
    hits = [row.count(wanted) for row in rows]
    if style == "backwards":
        rows, hits = rows[::-1], hits[::-1]
    written = ["".join(map(str, row)) for row in rows]
    total = max(0, pen.result(sum(hits)))
    listed = ", ".join(written)
    return {
        "steps": ", ".join(f"{row} has {hit}" for row, hit in zip(written, hits, strict=True)) + f". total {total}",
        "list": f"{listed}, total {total}",
        "terse": f"{listed} : {total}",
        "backwards": f"from the end: {listed}, total {total}",
    }[style], total


def of_two(task: GridTask, style: str, pen: Pen) -> tuple[str, object]:
    """Difference or comparison of two cells."""
    first, second = pen.digit(task.cell(0)), pen.digit(task.cell(1))
    if task.kind == "comparison":
        right = compare(first, second)
        result: object = str(pen.random.choice(["yes", "no"])) if pen.slips() else right
        finish = result
    else:
        result = pen.result(first - second)
        finish = f"{first}-{second}={result}"
    return {
        "steps": f"first cell {first}. second cell {second}. {finish}",
        "list": f"the cells are {first} and {second}, {finish}",
        "terse": f"{first} {second} : {finish}",
        "backwards": f"second cell {second}. first cell {first}. {finish}",
    }[style], result


WRITERS = {"sum": of_line, "largest": of_line, "count": of_count, "difference": of_two, "comparison": of_two}
