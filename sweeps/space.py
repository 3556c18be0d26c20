"""What a search may choose: named ranges, and how a choice becomes settings of a trial. No Optuna, no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Choice = Mapping[str, float]
"""A value for every range of a space."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """From `low` to `high`, both included; `log`: evenly in the logarithm; `whole`: whole numbers only."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a range runs from a smaller to a larger number, got {self.low:g} to {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a range on a log scale starts above 0, got {self.low:g}")
        if self.whole and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"a range of whole numbers ends in whole numbers, got {self.low:g} to {self.high:g}")

    @property
    def middle(self) -> float:
        """Its centre, on its own scale."""
        centre = (self.low * self.high) ** 0.5 if self.log else (self.low + self.high) / 2
        return round(centre) if self.whole else centre

    def __str__(self) -> str:
        kind = (", log scale" if self.log else "") + (", whole numbers" if self.whole else "")
        return f"{self.low:g} to {self.high:g}{kind}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """`settings` turns a choice into dotted settings; every choice within `ranges` must give a config that holds.

    `points`: how many to try; `sampler_seed`: with one worker, equal seeds give equal points.
    """

    ranges: Mapping[str, Range]
    settings: Callable[[Choice], dict[str, Any]]
    points: int = 20
    sampler_seed: int = 0

    @property
    def middle(self) -> dict[str, float]:
        """A choice in the centre of all ranges."""
        return {name: found.middle for name, found in self.ranges.items()}

    def describe(self) -> dict[str, str]:
        """The ranges in words; spaces that differ here are different searches."""
        return {name: str(found) for name, found in self.ranges.items()}
