"""The trials of a search: fixed arms first, then points, each decided by what the finished ones scored.

A point is trained on one seed after another, so that a bad one can be given up early; several points run side by side
where there is room. Runners of the same search share its points: each point is seen to by one living runner, and is
taken over by another when that one dies. Scores are of the validation split; the test split is for the report.
"""

import contextlib
import math
import os
import statistics
import time
import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sweeps.definition import Sweep, arm_config
from sweeps.identical import felt_settings
from sweeps.locks import hold, is_held
from sweeps.outcome import Kind, Outcome
from sweeps.plan import make_trials, write_plan
from sweeps.point_plan import mark_points
from sweeps.points import FAILED, OPEN, PRUNED, Ledger, Point, Record, arm_name, plain, with_points
from sweeps.pruner import instances, is_worse
from sweeps.search_study import COMPLETE, TOLD, Row, SearchStudy
from sweeps.space import Space
from sweeps.trial import Trial, final_scores, finished_folder, validation_metric

LOOK_EVERY_S = 1.0
"""How often a runner with nothing to do looks for what others left."""
ATTEMPTS = 20
"""Choices drawn for one point before the space is taken to hold no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a point has scored: by seed, and by instance; `next_trial` is None when all its seeds are finished."""

    scores: Mapping[int, float | None]
    instances: Mapping[int, float]
    next_trial: Trial | None

    @property
    def mean(self) -> float:
        return statistics.fmean(score for score in self.scores.values() if score is not None)


class Search:
    """A `sweeps.source.Source`. A context manager; `points` is how many are wanted with those already in the ledger."""

    def __init__(
        self,
        name: str,
        sweep: Sweep,
        fixed: Sequence[Trial],
        settings: Mapping[str, Any],
        results: Path,
        *,
        seeds: int,
        points: int | None,
        sampler: str,
        storage: str = "",
        note: str = "",
    ) -> None:
        assert sweep.space is not None, "a search needs a space"
        self._name, self._sweep, self._settings, self._results = name, sweep, dict(settings), results
        self._space: Space = sweep.space
        self._seeds, self._wanted, self._sampler = range(seeds), points or sweep.space.points, sampler
        self._storage, self._note = storage, note
        self._folder = results.resolve() / name
        self.ledger = Ledger(self._folder, sweep, settings)
        self._fixed, self._all = deque(fixed), {trial.trial_id: trial for trial in fixed}
        self._made: dict[tuple[str, int], Trial] = {}
        self._felt: dict[str, str] = {}  # arm -> what its settings come to
        self._scored: dict[str, tuple[float | None, dict[int, float]]] = {}
        self._taken: dict[str, str] = {}  # trial id -> arm of the point, until it ended
        self._started: set[str] = set()
        self._refused = self._is_complete = False
        self._planned: tuple[Any, ...] = ()
        self._next_look = 0.0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Search":
        with self.ledger.changing():
            pass  # a new search is in the ledger before any storage knows its token
        with self.ledger.changing() as record:
            self._runner = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            lock = self._runner_lock(self._runner)
            self._stack.enter_context(hold(lock))
            self._stack.callback(lock.unlink, missing_ok=True)
            for leftover in lock.parent.iterdir():
                if leftover != lock and not is_held(leftover):
                    leftover.unlink(missing_ok=True)
            self._take_over(record, reopen=True)
            rows = [self._row(point, self._progress(point)) for point in record.points]
            study = SearchStudy(self._name, self._folder, self._space, record, rows, self._storage)
            self._study = self._stack.enter_context(study)
            self._see_to(record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # ---- what a runner calls

    def take(self, room: int) -> list[Trial]:
        given = [self._fixed.popleft() for _ in range(min(room, len(self._fixed)))]
        room -= len(given)
        if room <= 0 or self._refused or self._is_complete or time.monotonic() < self._next_look:
            return given
        with self.ledger.changing() as record:
            self._take_over(record)
            points = self._see_to(record)
            while len(points) < room and len(record.points) < self._wanted:
                point = self._decide(record)
                if point is None:
                    self._wanted = len(record.points)
                    break
                points.append(point)
            trials = [trial for point in points[:room] if (trial := self._progress(point).next_trial)]
        self._write_plan(record, trials)
        self._taken |= {trial.trial_id: trial.arm for trial in trials}
        self._next_look = time.monotonic() + (LOOK_EVERY_S if len(trials) < room else 0)
        return given + trials

    def started(self, trial: Trial) -> None:
        self._started.add(trial.trial_id)

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        arm = self._taken.pop(trial.trial_id, None)
        if arm is None:
            return
        with self.ledger.changing() as record:
            point = record.point(arm)
            if outcome.kind != Kind.FINISHED and trial.trial_id not in self._started:
                self._refused = True  # the runner starts no more: a budget is spent, or the queue takes nothing
            elif outcome.kind != Kind.FINISHED and point is not None:
                point.state, point.reason = FAILED, f"seed {trial.seed}: {outcome.sentence or outcome.kind}"
            self._see_to(record)
        self._write_plan(record)
        self._next_look = 0.0

    @property
    def trials(self) -> Sequence[Trial]:
        return list(self._all.values())

    @property
    def is_exhausted(self) -> bool:
        return not self._fixed and (self._refused or self._is_complete)

    # ---- the points

    def _take_over(self, record: Record, *, reopen: bool = False) -> None:
        """Points of runners that are gone become ours; `reopen`: those that failed there too, for another try."""
        alive = {runner for runner in {point.runner for point in record.points} if self._is_alive(runner)}
        for point in record.points:
            if point.runner not in alive and (point.state == OPEN or (reopen and point.state == FAILED)):
                point.runner, point.state, point.reason = self._runner, OPEN, ""

    def _see_to(self, record: Record) -> list[Point]:
        """Bring study and ledger up to the run directories. Returns our open points with a trial to be run."""
        found = {point.arm: self._progress(point) for point in record.points}
        self._study.sync([self._row(point, found[point.arm]) for point in record.points])
        ours = [point for point in record.points if point.state == OPEN and point.runner == self._runner]
        for point in ours:
            self._judge(point, found[point.arm])
        self._study.sync([self._row(point, found[point.arm]) for point in ours if point.state != OPEN])
        left = [point for point in record.points if point.state == OPEN and found[point.arm].next_trial is not None]
        self._is_complete = not left and len(record.points) >= self._wanted
        return [point for point in ours if point in left and point.arm not in self._taken.values()]

    def _judge(self, point: Point, progress: Progress) -> None:
        """Give a point up where its scores say so."""
        for seed, score in progress.scores.items():
            if score is None:
                metric = validation_metric(self._trial(point, seed).config)
                point.state, point.reason = FAILED, f"seed {seed} is finished without a finite {metric}"
                return
        if progress.scores and progress.next_trial is not None and is_worse(self._study.study, progress.instances):
            seeds = ", ".join(map(str, progress.scores))
            point.state, point.reason = PRUNED, f"worse than the best point on seeds {seeds}"

    def _decide(self, record: Record) -> Point | None:
        """The next point, in the ledger; None where the space holds no other."""
        number = len(record.points)
        arm = arm_name(number)
        names = [point.arm for point in record.points]
        for known in {*self._sweep.arms, *names} - set(self._felt):
            config = arm_config(with_points(self._sweep, record), known, 0, self._settings)
            self._felt[known] = felt_settings(config)
        for attempt in range(ATTEMPTS):
            choice = self._study.adopt(names, arm) or self._study.ask(arm, number, attempt, self._sampler)
            overrides = plain(self._space.settings(choice))
            point = Point(arm=arm, choice=choice, overrides=overrides, sampler=self._sampler, runner=self._runner)
            try:
                alone = with_points(self._sweep, Record(key={}, number=0, points=[point]))
                config = arm_config(alone, arm, 0, self._settings)
            except ValueError:  # somebody enqueued a choice outside the space
                self._study.reject(arm)
                continue
            if felt_settings(config) not in self._felt.values():
                record.points.append(point)
                return point
            self._study.reject(arm)
        return None

    # ---- what the run directories say

    def _trial(self, point: Point, seed: int) -> Trial:
        key = (point.arm, seed)
        if key not in self._made:
            alone = with_points(self._sweep, Record(key={}, number=0, points=[point]))
            (self._made[key],) = make_trials(self._name, alone, [point.arm], [seed], self._settings, self._results)
        return self._made[key]

    def _progress(self, point: Point) -> Progress:
        scores: dict[int, float | None] = {}
        found: dict[int, float] = {}
        for seed in self._seeds:
            trial = self._trial(point, seed)
            folder = finished_folder(trial)
            if folder is None:
                return Progress(scores=scores, instances=found, next_trial=trial)
            if trial.trial_id not in self._scored:
                score = final_scores(trial).get(validation_metric(trial.config))
                of_seed = instances(folder, trial.config.data.validation_split, seed)
                usable = score is not None and math.isfinite(score)
                self._scored[trial.trial_id] = (score if usable else None, of_seed)
            self._all.setdefault(trial.trial_id, trial)
            scores[seed], of_seed = self._scored[trial.trial_id]
            found |= of_seed
        return Progress(scores=scores, instances=found, next_trial=None)

    def _row(self, point: Point, progress: Progress) -> Row:
        is_whole = point.state == OPEN and progress.next_trial is None and None not in progress.scores.values()
        facts = {"settings": describe(point.overrides), "seeds": len(progress.scores), "reason": point.reason}
        return Row(
            arm=point.arm,
            choice=point.choice,
            state=COMPLETE if is_whole else TOLD[point.state],
            value=progress.mean if is_whole else None,
            instances=progress.instances,
            asked=point.asked,
            facts=facts if is_whole or point.state != OPEN else {},
        )

    def best(self) -> tuple[Point, list[float]] | None:
        """The best complete point and its scores by seed; None before any is complete."""
        complete = []
        for point in self.ledger.read().points:
            progress = self._progress(point)
            scores = [score for score in progress.scores.values() if score is not None]
            if point.state == OPEN and progress.next_trial is None and len(scores) == len(self._seeds):
                complete.append((point, scores))
        return max(complete, key=lambda found: statistics.fmean(found[1]), default=None)

    @property
    def metric(self) -> str:
        """What is searched for, such as validation/mean@8."""
        return validation_metric(arm_config(self._sweep, self._sweep.baseline, 0, self._settings))

    def counts(self) -> str:
        """How many points are complete, pruned, failed, in words."""
        states = Counter(str(self._row(point, self._progress(point)).state.name) for point in self.ledger.read().points)
        return ", ".join(f"{count} {state.lower()}" for state, count in states.most_common())

    def _runner_lock(self, runner: str) -> Path:
        return self._folder / ".runners" / runner

    def _is_alive(self, runner: str) -> bool:
        return bool(runner) and (runner == self._runner or is_held(self._runner_lock(runner)))

    def _write_plan(self, record: Record, given: Sequence[Trial] = ()) -> None:
        """Enter what was trained, and what is given to be, into the plan."""
        trials = [self._trial(point, seed) for point in record.points for seed in self._progress(point).scores]
        trials += given
        self._all |= {trial.trial_id: trial for trial in given}
        marks = {point.arm: point.state == PRUNED for point in record.points}
        state = (tuple(trial.trial_id for trial in trials), tuple(marks.items()))
        if trials and state != self._planned:
            sweep = with_points(self._sweep, record)
            write_plan(self._name, sweep, trials, self._settings, self._results, self._note)
            mark_points(self._folder, marks)
            self._planned = state


def describe(overrides: Mapping[str, Any]) -> str:
    """The settings of a point in a line."""
    return ", ".join(f"{name} {value}" for name, value in overrides.items() if value is not None)
