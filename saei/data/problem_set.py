"""A lazy sequence of problems: each is made or read when it is asked for, so a split of any size costs nothing."""

from collections.abc import Callable, Sequence
from typing import overload

from saei.config import DataConfig
from saei.types import Problem


class ProblemSet(Sequence[Problem]):
    """`size` problems of one split; `problem_at(i)` gives the same problem whenever it is asked for i, and `bare_at(i)`
    the same without its pictures, where the source can save their cost.
    """

    def __init__(
        self,
        *,
        split: str,
        size: int,
        problem_at: Callable[[int], Problem],
        bare_at: Callable[[int], Problem] | None = None,
    ) -> None:
        self.split = split
        self._size = size
        self._problem_at = problem_at
        self._bare_at = bare_at

    def bare(self) -> "ProblemSet":
        """The same problems for whoever reads their words alone: without pictures, where that is cheaper."""
        return ProblemSet(split=self.split, size=self._size, problem_at=self._bare_at or self._problem_at)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self._problem_at(i) for i in range(*index.indices(self._size))]
        position = index + self._size if index < 0 else index
        if not 0 <= position < self._size:
            raise IndexError(f"problem {index} asked of split {self.split!r}, which has {self._size}")
        return self._problem_at(position)


def size_of(data: DataConfig, split: str) -> int:
    """How many problems a generated `split` has under `data`."""
    sizes = {"train": data.train_size, "validation": data.validation_size, "test": data.test_size}
    return sizes.get(split, data.shifted_size)
