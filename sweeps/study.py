"""The Optuna study of a sweep: a view for optuna-dashboard and for searches, rebuilt from the run directories.

Never the ledger: Optuna's journal is not crash-safe, so at each launch it is made anew and replaces the old file at
once. Its values are the validation metric; the test split is not for searching.
"""

import contextlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial as Asked
from optuna.trial import TrialState, create_trial

from sweeps.locks import Held, hold
from sweeps.trial import Trial, final_scores, finished_folder, validation_metric

STUDY_FILE = "study.log"


class SweepStudy:
    """Ask before a trial starts, tell when it ended. A context manager.

    Where another runner of the same sweep is writing the file, this one keeps its study in memory; the next launch
    reads both runners' results from the directories anyway.
    """

    def __init__(self, name: str, folder: Path, trials: Sequence[Trial]) -> None:
        self._name, self._folder, self._trials = name, folder, trials
        self._asked: dict[str, Asked] = {}
        self._stack = contextlib.ExitStack()
        self._space: dict[str, BaseDistribution] = {
            "arm": CategoricalDistribution(list(dict.fromkeys(trial.arm for trial in trials))),
            "seed": IntDistribution(0, max(trial.seed for trial in trials)),
        }

    def __enter__(self) -> "SweepStudy":
        optuna.logging.set_verbosity(logging.WARNING)
        try:
            self._stack.enter_context(hold(self._folder / ".study.lock"))
        except Held:
            self.study = self._rebuild(InMemoryStorage())
            return self
        path, fresh = self._folder / STUDY_FILE, self._folder / f".{STUDY_FILE}.new"
        for leftover in (fresh, Path(f"{fresh}.lock"), Path(f"{path}.lock")):
            leftover.unlink(missing_ok=True)  # of a killed runner: we hold the only right to write here
        self._rebuild(_journal(fresh))
        os.replace(fresh, path)
        self.study = optuna.load_study(study_name=self._name, storage=_journal(path), sampler=_sampler())
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._asked):  # interrupted: not a result
            self._end(key, None)
        self._stack.close()

    def ask(self, trial: Trial) -> None:
        """Register that `trial` starts."""
        self.study.enqueue_trial({"arm": trial.arm, "seed": trial.seed}, user_attrs=_attributes(trial))
        asked = self.study.ask(fixed_distributions=self._space)
        assert asked.user_attrs["trial_key"] == trial.trial_id, "the study handed out another trial than was enqueued"
        self._asked[trial.trial_id] = asked

    def tell(self, trial: Trial) -> None:
        """Report how `trial` ended, as its run directory says."""
        if trial.trial_id in self._asked:
            self._end(trial.trial_id, _value(trial))

    def hand_over(self) -> None:
        """Leave what was asked as running: a cluster trains it, and the next launch reads how it ended."""
        self._asked.clear()

    def _end(self, key: str, value: float | None) -> None:
        if value is None:
            self.study.tell(self._asked.pop(key), state=TrialState.FAIL)
        else:
            self.study.tell(self._asked.pop(key), value)

    def _rebuild(self, storage: BaseStorage) -> optuna.Study:
        study = optuna.create_study(
            study_name=self._name, storage=storage, sampler=_sampler(), direction="maximize", load_if_exists=False
        )
        for trial in self._trials:
            value = _value(trial)
            if value is not None:
                params = {"arm": trial.arm, "seed": trial.seed}
                attributes = _attributes(trial)
                study.add_trial(
                    create_trial(value=value, params=params, distributions=self._space, user_attrs=attributes)
                )
        return study


def _journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def _sampler() -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=0)  # never consulted: every parameter is enqueued


def _attributes(trial: Trial) -> dict[str, str | int]:
    return {"trial_key": trial.trial_id, "arm": trial.arm, "seed": trial.seed}


def _value(trial: Trial) -> float | None:
    """The validation score of a finished trial; None otherwise."""
    if finished_folder(trial) is None:
        return None
    value = final_scores(trial).get(validation_metric(trial.config))
    return value if value is not None and math.isfinite(value) else None
