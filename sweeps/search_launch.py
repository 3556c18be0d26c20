"""What a launch of a search has more than one of an ordinary sweep: its source, its dry run, its last line."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saei import schema
from saei.cli import BadInput
from sweeps.command import Command
from sweeps.definition import Sweep, arm_config
from sweeps.outcome import Kind, Outcome
from sweeps.points import LEDGER_FILE, Ledger, arm_name, with_points
from sweeps.trial import Trial, finished_folder, is_busy, settle, status, validation_metric

if TYPE_CHECKING:
    from sweeps.source import Source


def checked_search(command: Command, sweep: Sweep, settings: Mapping[str, Any]) -> Sweep:
    """The sweep, with the points that its ledger knows as arms for --only. Loads nothing heavy.

    Raises ValueError for words of the command line that would do nothing, and for settings that the points set.
    """
    if sweep.space is None or command.only:
        given = {"--points": command.points, "--storage": command.storage, "--sampler": command.sampler == "random"}
        for flag, value in given.items():
            if value:
                reason = "with --only nothing is searched" if sweep.space else f"{command.name} has fixed arms"
                raise ValueError(f"{flag} is for a search, and {reason}: leave it out")
    if sweep.space is None:
        return sweep
    arm_config(typical(sweep), arm_name(0), 0, settings)
    return with_points(sweep, Ledger(command.results / command.name, sweep, settings).read())


def is_search(command: Command, sweep: Sweep) -> bool:
    """Are points to be chosen in this launch?"""
    return sweep.space is not None and not command.only


def typical(sweep: Sweep) -> Sweep:
    """The sweep with one point, in the middle of its space."""
    assert sweep.space is not None, "only a search has a space"
    return replace(sweep, arms={**sweep.arms, arm_name(0): sweep.space.settings(sweep.space.middle)})


@contextmanager
def open_source(
    command: Command, sweep: Sweep, trials: Sequence[Trial], seeds: int, settings: Mapping[str, Any], note: str = ""
) -> "Iterator[Source]":
    """The source of a launch's trials: a search, or a list. Raises BadInput where a search's storage fails."""
    folder = command.results.resolve() / command.name
    if not is_search(command, sweep):
        from sweeps.source import Listed
        from sweeps.study import SweepStudy
        from sweeps.turns import in_turn  # which loads torch, through the views

        with SweepStudy(command.name, folder, trials) as study:
            try:
                # an array on Slurm has its tasks in the plan's order, and as many places as it gets
                yield Listed(trials, study, None if command.on == "slurm" else in_turn(trials))
            finally:
                if command.on == "slurm":
                    study.hand_over()  # the jobs go on when the runner does not
        return
    from optuna.exceptions import StorageInternalError

    from sweeps.searching import Search

    search = Search(
        command.name, sweep, trials, settings, command.results,
        seeds=seeds, points=command.points, sampler=command.sampler, storage=command.storage, note=note,
    )  # fmt: skip
    try:
        with search:
            yield search
    except StorageInternalError as error:
        first = str(error.__cause__ or error).strip().splitlines()[0]
        raise BadInput(
            f"--storage {command.storage} failed ({first}). Nothing is lost: the points are in {folder / LEDGER_FILE}; "
            "the same command goes on"
        ) from error


def best_line(source: "Source") -> str:
    """The best point of a search in a sentence, or why there is none yet; "" for any other source."""
    from sweeps.searching import Search, describe

    if not isinstance(source, Search):
        return ""
    found = source.best()
    if found is None:
        return "no point is complete yet; the same command goes on"
    point, scores = found
    spread = f" +- {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return (
        f"best point {point.arm}: {source.metric} {statistics.fmean(scores):.4f}{spread} "
        f"(mean{' +- sd' if spread else ''} over {len(scores)} seed{'s' * (len(scores) > 1)}; {source.counts()}): "
        f"{describe(point.overrides)}\n"
        "it was chosen on validation, and the best of many looks better than it is; its test figure is in the report"
    )


def describe_search(command: Command, sweep: Sweep, seeds: range, settings: Mapping[str, Any], jobs: int) -> str:
    """For --dry-run: the space, the points so far, and what one point costs. Loads torch."""
    from sweeps.estimate import cost_line
    from sweeps.plan import make_trials

    assert sweep.space is not None, "only a search has a space"
    record = Ledger(command.results / command.name, sweep, settings).read()
    wanted = command.points or sweep.space.points
    width = max(map(len, sweep.space.ranges))
    lines = ["Space:", *(f"  {name:{width}}  {text}" for name, text in sweep.space.describe().items())]
    known = f"{len(record.points)} chosen before, in {command.results / command.name / LEDGER_FILE}"
    lines.append(f"Points: {wanted} by {command.sampler}" + (f"; {known}" if record.points else ""))
    metric = validation_metric(arm_config(sweep, sweep.baseline, 0, settings))
    lines.append(f"Objective: mean {metric} over seeds {seeds.start} to {seeds.stop - 1}; the test split is not read")
    middle = replace(typical(sweep), on_request=())
    trials = make_trials(command.name, middle, [arm_name(0)], seeds, settings, command.results)
    cost = cost_line(trials, command.results, jobs).replace("To run:", "One point, in the middle of the space:", 1)
    return "\n".join([*lines, cost, "A point that is surely worse than the best is given up before its last seed."])


def take_next_of_search(source: "Source", fixed: Sequence[Trial], trainer: str) -> int:
    """What --take-next does in a search: one of the fixed trials, or a point where those need nobody."""
    from sweeps.take import take_next

    given = list(fixed)
    if all(settle(trial) or is_busy(trial) or status(trial).get("state") == schema.FAILED for trial in fixed):
        source.take(len(fixed))
        given += source.take(1)
    code = take_next(given, trainer)
    for trial in given[len(fixed) :]:
        source.started(trial)
        finished = finished_folder(trial) is not None
        source.ended(trial, Outcome(kind=Kind.FINISHED if finished else Kind.FAILED))
    return code
