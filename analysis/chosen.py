"""A part of a sweep: the trials that a selection (see `where`) leaves, and what a report is about, kept in a file."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.sweep_data import SweepData
from analysis.trials import read_json
from analysis.where import Selection, dotted, parse_condition

NAMED = 8
"""Most arms that a note on a selection names."""
ADJUSTED = (
    "Verdicts and adjusted p values are those of the selected trials alone: "
    "a selection made after a look at results is exploratory."
)


def remember(folder: Path, results: Sequence[Path], selection: Selection) -> Path:
    """Write what a report is about to `folder`; `load_sweep` reads the same again where it is given this path.

    So a notebook, which has one place for its results, can be about several folders and a selection.
    """
    path = folder / "selection.json"
    where = [condition.text for condition in selection.conditions]
    places = [str(Path(root).resolve()) for root in results]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({"results": places, "where": where, "since": selection.since}, indent=1) + "\n")
    os.replace(temporary, path)
    return path


def recall(path: Path) -> tuple[list[Path], Selection]:
    """The results folders and the selection that `remember` wrote. Raises ValueError for any other file."""
    tree = read_json(path) or {}
    if tree.keys() != {"results", "where", "since"}:
        raise ValueError(f"results: {path} is neither a results folder nor a selection.json of a report")
    conditions = tuple(parse_condition(text) for text in tree["where"])
    return [Path(root) for root in tree["results"]], Selection(conditions=conditions, since=tree["since"])


def select(data: SweepData, selection: Selection) -> SweepData:
    """The sweep with the selected trials only. Raises ValueError where none is."""
    settings = {trial_id: dotted(tree.get("config") or {}) for trial_id, tree in data.configs.items()}
    known = sorted({"arm", *(name for found in settings.values() for name in found)})
    selection.check_settings(known if settings else [], data.arms)
    overrides = {arm["name"]: arm.get("overrides") or {} for arm in data.plan["arms"]}
    keep = []
    for trial in data.trials.itertuples():
        own = {"arm": str(trial.arm), "seed": trial.seed}
        found = {**settings.get(trial.trial_id, overrides.get(str(trial.arm), {})), **own}
        begun = trial.trial_id in settings
        keep.append(selection.selects(found, trial.finished, complete=begun))
    trials = data.trials[keep].reset_index(drop=True)
    if trials.empty:
        raise ValueError(f"none of the {len(data.trials)} trials of {data.name} is selected by: {selection.words}")
    arms = [arm for arm in data.arms if (trials["arm"] == arm).any()]
    trials["arm"] = trials["arm"].cat.set_categories(arms)
    plan = {**data.plan, "arms": [arm for arm in data.plan["arms"] if arm["name"] in arms]}
    plan["trials"] = [trial for trial in plan["trials"] if trial["trial_id"] in set(trials["trial_id"])]
    plan["seeds"] = sorted(set(trials["seed"].tolist()))
    ids = set(trials["trial_id"])
    configs = {trial_id: tree for trial_id, tree in data.configs.items() if trial_id in ids}
    note = _note(data, trials, selection)
    return replace(
        data, plan=plan, trials=trials, configs=configs, selection_note=note, selection_options=selection.options,
        _tables={}, _documents={}, _reckoned={},
    )  # fmt: skip


def _note(data: SweepData, trials: pd.DataFrame, selection: Selection) -> str:
    """What the selected `trials` are of all, in sentences."""
    planned, kept = (frame["arm"].astype(str).value_counts() for frame in (data.trials, trials))
    gone = [arm for arm in data.arms if arm not in kept]
    fewer = [f"{planned[arm] - kept[arm]} of {planned[arm]} trials of {arm}" for arm in data.arms
             if arm in kept and kept[arm] < planned[arm]]  # fmt: skip
    listed = [*(f"arm {arm}" for arm in gone), *fewer]
    more = [f"and {len(listed) - NAMED} more"] if len(listed) > NAMED else []
    lost = f"; left out: {', '.join([*listed[:NAMED], *more])}" if listed else ""
    note = f"Only trials with {selection.words}: {len(trials)} of {len(data.trials)}{lost}."
    if lost:
        note += " " + ADJUSTED
    baseline = data.plan.get("baseline", "")
    return f"{note} Without the baseline {baseline} no arm is compared with it." if baseline in gone else note
