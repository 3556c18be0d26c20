"""Results on disk -> frames. Reads sweeps that have not begun, that are running, and that are finished.

A sweep is a folder of `results` with a `plan.json` (the plan); its trials are run directories. The directories are
the truth: a trial is finished exactly when `DONE` is there, whatever its status file says. Several results folders,
such as copies from clusters, are read as one.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.chosen import recall, remember, select
from analysis.merge import merge_plans, newest, read_plans, sweeps_in
from analysis.parts import read_run_table
from analysis.sweep_data import ARM_FACTS, TRIAL_COLUMNS, SweepData, trial_frame
from analysis.trials import MISSING, best_copy, check_run, first_ends, leads_nowhere, locate, refuse_strays, same_as
from analysis.where import Selection

__all__ = [
    "ARM_FACTS",
    "MISSING",
    "TRIAL_COLUMNS",
    "SweepData",
    "load_sweep",
    "read_run_table",
    "remember",
    "sweeps_in",
]

EMPTY_ROW = {
    "exploratory": False, "pruned": False, "state": MISSING, "step": 0, "steps": 0, "message": "", "folder": None,
    "same_as": "", "finished": math.nan,
}  # fmt: skip


def load_sweep(
    results: Path | Sequence[Path], sweep: str = "", *, selection: Selection | None = None, now: float | None = None
) -> SweepData:
    """Load a sweep; without a name the most recently launched one, or an empty sweep where there is none.

    Several results folders, such as copies from clusters, are merged: a trial that is in more than one counts once, a
    finished copy before an unfinished one. `selection` leaves trials out as if they had never been planned. A file in
    place of a folder is what `remember` wrote.

    Raises ValueError for a name that is not there, another schema version, what was damaged or copied half, folders
    that contradict each other, and a selection that selects nothing.
    """
    folders = list(dict.fromkeys([Path(results)] if isinstance(results, str | Path) else map(Path, results)))
    if len(folders) == 1 and folders[0].is_file():
        folders, selection = recall(folders[0])
    now = time.time() if now is None else now
    sweep = sweep.rstrip("/") or newest(folders)  # completion in a shell adds the slash of a folder
    if not sweep:
        return SweepData(plan={"name": "", "question": "", "arms": [], "seeds": []}, trials=trial_frame([], []))
    plans = read_plans(folders, sweep)
    planned = {trial["trial_id"] for plan in plans.values() for trial in plan["trials"]}
    copies = {trial_id: locate(f"{sweep}/{trial_id}", folders) for trial_id in sorted(planned)}
    refuse_strays(folders, plans, copies)
    trees = {folder: check_run(folder, trial_id) for trial_id, found in copies.items() for folder in found}
    plan = merge_plans(plans, first_ends(plans, copies, now) if len(plans) > 1 else {})
    rows, configs = [], {}
    for trial in plan["trials"]:
        row, found = {**EMPTY_ROW, **trial}, copies[trial["trial_id"]]
        if found:
            folder, stand = best_copy(trial["trial_id"], found, now)
            configs[trial["trial_id"]] = trees[folder]
            row |= {**stand, "folder": folder, "same_as": same_as(folder, folders, sweep, trial["trial_id"])}
        else:
            row["message"] = leads_nowhere(f"{sweep}/{trial['trial_id']}", folders)
        rows.append(row)
    merged = sum(len(found) > 1 for found in copies.values())
    data = SweepData(
        plan=plan, trials=trial_frame(rows, _order(plan)), results=tuple(folders), in_several=merged, configs=configs
    )
    return select(data, selection) if selection else data


def _order(plan: dict[str, Any]) -> list[str]:
    """Arm names, the baseline first."""
    return sorted((arm["name"] for arm in plan["arms"]), key=lambda name: name != plan["baseline"])
