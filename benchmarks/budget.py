"""Points of a grid within a wall-clock budget: as many rounds as a point's share allows; what did not fit is told."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.timing import alternate


class Budget:
    """`seconds` for all points together; `skipped` are those that would have begun after them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.skipped: list[str] = []
        self._begun = time.perf_counter()

    @property
    def left(self) -> float:
        """Seconds until the budget is used up."""
        return self.seconds - (time.perf_counter() - self._begun)

    def shares(self, points: Sequence[str]) -> Iterator[tuple[str, "Budget"]]:
        """Each point with its equal share of what is left then."""
        for number, point in enumerate(points):
            if self.left <= 0:
                self.skipped.append(point)
            else:
                yield point, Budget(self.left / (len(points) - number))

    def told(self) -> str | None:
        """The line under the table where points were left out."""
        if not self.skipped:
            return None
        seconds = max(0.0, self.seconds)
        return f"left out, as the {seconds:.0f} s for this table were over (--seconds): {' '.join(self.skipped)}"


def rounds_within(
    budget: Budget, contenders: Mapping[str, Callable[[], Any]], most: int, least: int = 3
) -> dict[str, list[float]]:
    """Seconds of every contender in every round: from `least` to `most` rounds, as many as the budget has room for.

    All count: the contenders have run before, when they were compared.
    """
    begun = time.perf_counter()
    first = alternate(contenders, rounds=1, warm_up=0)
    more = int(budget.left / (time.perf_counter() - begun))
    rest = alternate(contenders, rounds=min(most, max(least, more + 1)) - 1, warm_up=0)
    return {name: first[name] + rest[name] for name in contenders}
