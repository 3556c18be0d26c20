"""Which ended trials are tried again in a launch, and when trials that all fail alike stop the sweep.

A trial that is tried again continues from its checkpoint.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from sweeps.causes import NO_MODEL, NO_PROBLEMS, NO_PYTHON, READ_ONLY
from sweeps.outcome import Kind, Outcome
from sweeps.trial import Trial

ALIKE = 3
"""So many trials that fail of one cause before any succeeds stop the sweep."""

Policy = Literal["free", "counted", "never"]
POLICIES: dict[Kind, Policy] = {
    # nothing wrong with the trial: again as often as it takes (the Slurm runner looks whether it makes progress)
    Kind.INTERRUPTED: "free",
    Kind.PREEMPTED: "free",
    Kind.TIMED_OUT: "free",
    Kind.NODE_FAILED: "free",
    Kind.BUSY: "free",
    # may be chance (a bad node, a network that was away, somebody's kill) or may be a mistake: as often as asked
    Kind.FAILED: "counted",
    Kind.KILLED: "counted",
    Kind.NEVER_STARTED: "counted",
    # again would end the same, or is not wanted
    Kind.FINISHED: "never",
    Kind.OUT_OF_MEMORY: "never",
    Kind.DISK_FULL: "never",
    Kind.CANCELLED: "never",
}
HOPELESS = (READ_ONLY, NO_PYTHON, NO_MODEL, NO_PROBLEMS, "BadInput")
"""Beginnings of the errors (Outcome.error) that no second try mends: somebody must change a setting or a folder."""


@dataclass(slots=True)
class Retries:
    """Tell `again` of every trial's end in this launch, FINISHED included, and look at `stop` afterwards."""

    retry_failed: int
    _tries: Counter[str] = field(default_factory=Counter)
    _first: dict[str, Outcome] = field(default_factory=dict)
    _full: list[Outcome] = field(default_factory=list)
    _one_finished: bool = False

    def again(self, trial: Trial, outcome: Outcome) -> bool:
        """May the trial be tried again in this launch? Counts the try."""
        policy = POLICIES[outcome.kind]
        self._remember(trial, outcome, policy)
        if policy != "counted" or outcome.error.startswith(HOPELESS):
            return policy == "free"
        self._tries[trial.trial_id] += 1
        return self._tries[trial.trial_id] <= self.retry_failed

    def tried(self, trial: Trial) -> int:
        """How often the trial failed in this launch."""
        return self._tries[trial.trial_id]

    def stop(self) -> Outcome | None:
        """Why the whole sweep should stop: its first trials all failed of one cause, its last ones of a full disk."""
        if len(self._full) >= ALIKE:
            return _stopped(self._full[-1], f"the last {ALIKE} trials found the disk full")
        first = list(self._first.values())[:ALIKE]
        if self._one_finished or len(first) < ALIKE or not first[0].error or len({one.error for one in first}) > 1:
            return None
        return _stopped(first[0], f"the first {ALIKE} trials failed of the same cause, and none finished")

    def _remember(self, trial: Trial, outcome: Outcome, policy: Policy) -> None:
        """A trial's first error counts, so that retries do not let thirty trials fail before the third is seen."""
        self._one_finished |= outcome.kind == Kind.FINISHED
        if policy == "free" or outcome.kind == Kind.CANCELLED:
            return
        self._full = [*self._full, outcome] if outcome.kind == Kind.DISK_FULL else []
        if outcome.kind != Kind.FINISHED:
            self._first.setdefault(trial.trial_id, outcome)


def by_cause(failed: Mapping[str, Outcome], trials: Iterable[Trial]) -> list[tuple[Outcome, list[Trial]]]:
    """Every distinct failure once, as its first trial had it, with its trials; the most frequent first."""
    found: dict[tuple[Kind, str], tuple[Outcome, list[Trial]]] = {}
    for trial in trials:
        outcome = failed.get(trial.trial_id)
        if outcome is not None:
            found.setdefault((outcome.kind, outcome.error), (outcome, []))[1].append(trial)
    return sorted(found.values(), key=lambda group: -len(group[1]))


def _stopped(outcome: Outcome, reason: str) -> Outcome:
    return replace(outcome, sentence=f"{reason}: {outcome.sentence}")
