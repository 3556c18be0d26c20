"""From a definition to its trials, and the plan on disk that says what was decided before the first launch.

`results/<sweep>/plan.json` is what analysis reads. Launches with other settings (`--steps`, `--set`, `--demo`) are
other plans: the file shows the plan launched last, and keeps the others under `earlier_plans`.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saei import schema
from saei.config import Config
from sweeps.definition import Sweep, arm_config
from sweeps.identical import felt_settings
from sweeps.locks import hold
from sweeps.trial import Trial, read_json, test_metric


def make_trials(
    name: str, sweep: Sweep, arms: Sequence[str], seeds: Iterable[int], settings: Mapping[str, Any], results: Path
) -> list[Trial]:
    """Every trial of a launch, seed by seed so that an early stop leaves complete comparisons.

    Raises ValueError for names that are in no table and for settings that make two arms the same trial.
    """
    from saei.identity import trial_id  # here, because they load torch
    from saei.options import check_names

    trials: list[Trial] = []
    for seed in seeds:
        taken: dict[str, str] = {}
        for arm in arms:
            config = arm_config(sweep, arm, seed, settings)
            check_names(config)
            key, felt = trial_id(config), felt_settings(config)
            if felt in taken:
                raise ValueError(
                    f"arms {taken[felt]} and {arm} are the same trial with these settings (with one update a step the "
                    "importance ratios are all 1, and clips do nothing); leave one out, or raise optim.updates_per_step"
                    if config.optim.updates_per_step == 1
                    else f"arms {taken[felt]} and {arm} are the same trial with these settings; leave one out"
                )
            taken[felt] = arm
            config = replace(config, out=str(results.resolve() / name / key))
            trials.append(Trial(trial_id=key, arm=arm, seed=seed, config=config))
    return trials


def write_plan(
    name: str, sweep: Sweep, trials: Sequence[Trial], settings: Mapping[str, Any], results: Path, note: str = ""
) -> dict[str, Any]:
    """Create or extend `plan.json`; what the plan's first launch did not hold is marked exploratory."""
    with hold(results / name / ".plan.lock", wait=True):
        return _write_plan(name, sweep, trials, settings, results / name, note)


def _write_plan(
    name: str, sweep: Sweep, trials: Sequence[Trial], settings: Mapping[str, Any], folder: Path, note: str
) -> dict[str, Any]:
    found = read_json(folder / schema.PLAN_FILE)
    known = [found, *found.get("earlier_plans", [])] if found else []
    written = {field: value if isinstance(value, int | float | bool | None) else str(value)
               for field, value in settings.items()}  # fmt: skip
    same = next((plan for plan in known if plan.get("settings") == written), None)
    first_config: Config = trials[0].config
    plan = {
        "name": name,
        "question": sweep.question,
        "arms": [{"name": arm, "overrides": _plain(overrides)} for arm, overrides in sweep.arms.items()
                 if arm in _arms_of(same) | {trial.arm for trial in trials}],
        "baseline": sweep.baseline,
        "primary_contrast": list(sweep.primary_contrast),
        "primary_metric": test_metric(first_config),
        "steps": first_config.steps,
        "settings": written,
        "budget_note": note,
        "first_launch": same["first_launch"] if same else time.time(),
        "trials": _extend(same["trials"] if same else None, trials),
    }  # fmt: skip
    plan["seeds"] = sorted({trial["seed"] for trial in plan["trials"]})
    earlier = [{key: value for key, value in other.items() if key != "earlier_plans"} for other in known
               if other is not same]  # fmt: skip
    if earlier:
        plan["earlier_plans"] = earlier
    temporary = folder / f".{schema.PLAN_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(plan, indent=1) + "\n")
    os.replace(temporary, folder / schema.PLAN_FILE)
    return plan


def _extend(planned: list[dict[str, Any]] | None, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Planned entries stay; an arm and seed that now mean another trial are replaced. Additions are exploratory."""
    entries = {(entry["arm"], entry["seed"]): entry for entry in planned or []}
    for trial in trials:
        before = entries.get((trial.arm, trial.seed))
        if before is None or before["trial_id"] != trial.trial_id:
            entries[trial.arm, trial.seed] = {
                "trial_id": trial.trial_id,
                "arm": trial.arm,
                "seed": trial.seed,
                "exploratory": planned is not None,
            }
    return list(entries.values())


def _arms_of(plan: dict[str, Any] | None) -> set[str]:
    return {trial["arm"] for trial in plan["trials"]} if plan else set()


def _plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float | bool) else str(value) for name, value in overrides.items()}
