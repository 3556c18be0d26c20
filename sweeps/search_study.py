"""Optuna's view of a search: it chooses the points, and `optuna-dashboard` shows it.

The ledger and the run directories are the truth; `sync` tells the study what they say. By default the study is a
journal, made anew at a launch when no other runner has it open; any Optuna storage will do. Everything here is called
while the ledger is held, so that one process at a time writes: a trial that runs but is not in the ledger belongs to
nobody alive.

Optuna's heartbeat is not used: only `study.optimize` beats, and a runner that died is known by its lock.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalRedisBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from saei.cli import BadInput
from sweeps import points
from sweeps.points import Record
from sweeps.space import Space

JOURNAL = "points.log"
BREAK_LOCK_S = 3
"""Optuna breaks the journal's lock of a killed writer after so long; its default of 30 s would hold every runner up."""
STARTED, COMPLETE, PRUNED, FAILED = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
TOLD = {points.OPEN: STARTED, points.PRUNED: PRUNED, points.FAILED: FAILED}
"""What the study is told of a point that is not complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What the study is to say of a point; `instances` are its scores by instance (see `sweeps.pruner`)."""

    arm: str
    choice: Mapping[str, float]
    state: TrialState
    value: float | None = None
    instances: Mapping[int, float] = field(default_factory=dict)
    asked: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


class SearchStudy:
    """The study of one search. A context manager; enter it, too, while the ledger is held."""

    def __init__(self, name: str, folder: Path, space: Space, record: Record, rows: Sequence[Row], url: str) -> None:
        suffix = f"-{record.number + 1}" if record.number else ""
        self._name, self._folder, self._space, self._url = name + suffix, folder, space, url
        self._path = folder / JOURNAL.replace(".", f"{suffix}.")
        self._token, self._rows = record.token, rows
        self._stack = contextlib.ExitStack()
        self._distributions = {range_name: _distribution(found) for range_name, found in space.ranges.items()}

    def __enter__(self) -> "SearchStudy":
        optuna.logging.set_verbosity(logging.ERROR)
        self._storage = _database(self._url) if self._url else self._journal()
        self.study = self._open(self._storage)
        self.sync(self._rows)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def ask(self, arm: str, number: int, attempt: int, sampler: str) -> dict[str, float]:
        """The choice for the next point, in the study under the name `arm`.

        What is drawn depends on the seed, the point's number and what the study knows, not on how often the search was
        launched.
        """
        self.study.sampler = SAMPLERS[sampler]([self._space.sampler_seed, number, attempt])
        asked = self.study.ask(fixed_distributions=self._distributions)
        asked.set_user_attr("point", arm)
        return dict(asked.params)

    def adopt(self, known: Sequence[str], arm: str) -> dict[str, float] | None:
        """The choice of a trial that a killed runner asked for and did not enter into the ledger, now called `arm`.

        None where there is none. A trial killed before its choice was whole is told as failed.
        """
        for trial in self._trials(STARTED):
            if trial.user_attrs.get("point") in known:
                continue
            if set(trial.params) == set(self._space.ranges):
                self._storage.set_trial_user_attr(trial._trial_id, "point", arm)
                return dict(trial.params)
            self.study.tell(trial.number, state=FAILED)
        return None

    def reject(self, arm: str) -> None:
        """Tell the running trial called `arm` as failed: it will not be entered into the ledger."""
        for trial in self._trials(STARTED):
            if trial.user_attrs.get("point") == arm:
                self.study.tell(trial.number, state=FAILED)

    def sync(self, rows: Sequence[Row]) -> None:
        """Make the study say what `rows` say."""
        self._mend()
        found = {trial.user_attrs.get("point"): trial for trial in self._trials()}  # the latest of each
        for row in rows:
            trial = found.get(row.arm)
            if trial is None or (trial.state.is_finished() and row.state == STARTED):
                self.study.add_trial(self._frozen(row))
            elif not trial.state.is_finished():
                self._update(trial, row)

    def _update(self, trial: FrozenTrial, row: Row) -> None:
        for instance, value in row.instances.items():
            if instance not in trial.intermediate_values:
                self._storage.set_trial_intermediate_value(trial._trial_id, instance, value)
        for name, value in row.facts.items():
            if trial.user_attrs.get(name) != value:
                self._storage.set_trial_user_attr(trial._trial_id, name, value)
        if row.state.is_finished():
            value = row.value if row.state == COMPLETE else None
            self.study.tell(trial.number, value, state=row.state, skip_if_finished=True)

    def _frozen(self, row: Row) -> FrozenTrial:
        value = row.value
        if row.state == PRUNED:  # as `tell` would have it
            value = row.instances[max(row.instances)] if row.instances else None
        trial = create_trial(
            state=row.state,
            value=value,
            params=dict(row.choice),
            distributions=self._distributions,
            user_attrs={"point": row.arm, **row.facts},
            intermediate_values=dict(row.instances),
        )
        trial.datetime_start = datetime.fromtimestamp(row.asked)
        return trial

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _open(self, storage: BaseStorage) -> optuna.Study:
        study = optuna.create_study(
            study_name=self._name, storage=storage, direction="maximize", load_if_exists=True,
            sampler=SAMPLERS["random"]([self._space.sampler_seed]),
        )  # fmt: skip
        owner = study.user_attrs.get("ledger")
        if owner is None:
            study.set_user_attr("ledger", self._token)
        elif owner != self._token:
            raise BadInput(
                f"--storage {self._url} holds a study {self._name!r} of another results folder; name another storage, "
                f"or delete that study: optuna delete-study --study-name {self._name} --storage {self._url}"
            )
        return study

    def _journal(self) -> BaseStorage:
        """Opened by every runner; made anew by one that finds nobody else."""
        opened = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
        self._stack.callback(os.close, opened)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fresh = self._path.with_name(f".{self._path.name}.new")
            for leftover in (fresh, Path(f"{fresh}.lock"), Path(f"{self._path}.lock")):
                leftover.unlink(missing_ok=True)  # of a killed runner
            self._storage = _journal_storage(fresh)
            self.study = self._open(self._storage)
            self.sync(self._rows)
            os.replace(fresh, self._path)
        fcntl.flock(opened, fcntl.LOCK_SH)  # nobody comes between: who opens a journal holds the ledger
        self._mend()
        return _journal_storage(self._path)

    def _mend(self) -> None:
        """Drop half a line at the end of the journal, of a writer that was killed: the next line would stick to it."""
        if self._url or not self._path.exists():
            return
        with open(self._path, "r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                os.fsync(file.fileno())


def _tpe(seed: Sequence[int]) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=_mixed(seed))  # multivariate, and told of running trials, by default


def _random(seed: Sequence[int]) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=_mixed(seed))


SAMPLERS = {"tpe": _tpe, "random": _random}


def _mixed(seed: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(seed)).generate_state(1)[0])


def _distribution(found: Any) -> BaseDistribution:
    if found.whole:
        return IntDistribution(int(found.low), int(found.high), log=found.log)
    return FloatDistribution(found.low, found.high, log=found.log)


def _journal_storage(path: Path) -> JournalStorage:
    lock = JournalFileSymlinkLock(str(path), grace_period=BREAK_LOCK_S)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def _database(url: str) -> BaseStorage:
    """Raises BadInput for what Optuna or the database does not take."""
    try:
        if url.startswith(("redis://", "rediss://")):
            return JournalStorage(JournalRedisBackend(url))
        # a file waits for its other writers; a server may have closed an idle connection between two seeds
        file = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        return RDBStorage(url, engine_kwargs=file)
    except Exception as error:  # of Optuna, SQLAlchemy or the driver of the database
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"--storage {url} cannot be opened: {first}. It reads like sqlite:///search.db, "
            "postgresql://user@host/database or redis://host"
        ) from error
