"""What detectors read and say: the rows of a run so far, means over windows of them, and alarms.

Nothing here looks ahead of the row it speaks of, so an alarm never changes when later rows arrive. Values that are
missing or not finite are left out of means; where under half of a window is known, there is no mean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Series = np.ndarray[Any, np.dtype[np.float64]]
Flags = Sequence[bool] | np.ndarray[Any, np.dtype[np.bool_]]

START = 5
"""Steps whose mean is what later ones are held against: by default the learning rate still warms up in them."""
WINDOW = 10
"""Steps of a state that counts: a mean over 8 groups a step is too noisy alone, and a run may dip for a few steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """`detector` fired at `step` (0-based); `sentence` has the figures, `setting` is the dotted one to look at."""

    detector: str
    step: int
    sentence: str
    setting: str


@dataclass(frozen=True, slots=True)
class History:
    """The rows so far, in the order of steps; `views` and `evaluations` as `detect` takes them."""

    steps: Sequence[Row]
    views: Sequence[Row]
    evaluations: Sequence[Row]

    def column(self, name: str) -> Series:
        """Values over steps; NaN where a row has none."""
        return np.array([number(row.get(name)) for row in self.steps], dtype=float)

    def step(self, index: int) -> int:
        """The step of one row."""
        return int(self.steps[index]["step"])

    @property
    def changes_inputs(self) -> bool:
        """Has any view changed what the policy sees?"""
        return any(row["view"] != "clean" for row in self.views)

    def of_views(self, name: str, *, clean: bool) -> Series:
        """A column of `views` over steps: of the clean view, or the mean of all others weighted by completions."""
        totals: dict[int, list[float]] = {}
        for row in self.views:
            value, weight = number(row.get(name)), number(row.get("completions", 1.0))
            if (row["view"] == "clean") == clean and np.isfinite(value * weight):
                total = totals.setdefault(int(row["step"]), [0.0, 0.0])
                total[0] += value * weight
                total[1] += weight
        known = {step: value / weight for step, (value, weight) in totals.items() if weight}
        return np.array([known.get(int(row["step"]), np.nan) for row in self.steps], dtype=float)


def number(value: Any) -> float:
    """A cell as a float; NaN for none."""
    return float("nan") if value is None else float(value)


def episodes(flags: Flags, quiet: int = WINDOW) -> list[int]:
    """Indices at which a sign appears that was absent in the `quiet` rows before."""
    found: list[int] = []
    last = -quiet - 1
    for index, flag in enumerate(flags):
        if flag:
            if index - last > quiet:
                found.append(index)
            last = index
    return found


def start(values: Series) -> float:
    """Mean of the first START rows; NaN where under half of them are known."""
    return mean(values[:START])


def recent(values: Series, window: int = WINDOW) -> Series:
    """At each row the mean of the last `window` ones; NaN before there are so many."""
    means = [mean(values[i + 1 - window : i + 1]) if i + 1 >= window else np.nan for i in range(len(values))]
    return np.array(means, dtype=float)


def raise_alarms(history: History, detector: str, flags: Flags, setting: str, say: Callable[[int], str]) -> list[Alarm]:
    """An alarm for each episode; `say` gets the index of its first row."""
    return [
        Alarm(detector=detector, step=step, sentence=f"step {step}: {say(i)}", setting=setting)
        for i, step in ((i, history.step(i)) for i in episodes(flags))
    ]


def mean(values: Series) -> float:
    """Mean of the finite values; NaN where they are under half."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) and 2 * len(known) >= len(values) else float("nan")
