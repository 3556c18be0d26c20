"""Where a runner's trials come from: a list made beforehand, or a search that decides as results arrive."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from sweeps.outcome import Outcome
from sweeps.trial import Trial

if TYPE_CHECKING:
    from sweeps.study import SweepStudy  # loads Optuna, which commands that only look do without


class Source(Protocol):
    """A runner, local or on Slurm, calls these from one thread.

    It calls `take` whenever it has room, `started` when a trial was handed to a worker or to Slurm, and `ended` once
    for each trial that was taken, when nothing more will be tried for it in this launch.
    """

    def take(self, room: int) -> list[Trial]:
        """Up to `room` trials to run now; fewer, or none, where the next ones depend on results still to come."""
        ...

    def started(self, trial: Trial) -> None: ...

    def ended(self, trial: Trial, outcome: Outcome) -> None: ...

    @property
    def trials(self) -> Sequence[Trial]:
        """All trials known so far, for the screen."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Will `take` never give another trial?"""
        ...


class Listed:
    """The trials of an ordinary sweep; the study is told what becomes of them.

    They are given in the order of `turns`, the same trials, where that is said, and shown in their own.
    """

    def __init__(self, trials: Sequence[Trial], study: "SweepStudy", turns: Sequence[Trial] | None = None) -> None:
        self._all, self._study = list(trials), study
        self._waiting = deque(trials if turns is None else turns)

    def take(self, room: int) -> list[Trial]:
        return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]

    def started(self, trial: Trial) -> None:
        self._study.ask(trial)

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        self._study.tell(trial)

    @property
    def trials(self) -> Sequence[Trial]:
        return self._all

    @property
    def is_exhausted(self) -> bool:
        return not self._waiting
