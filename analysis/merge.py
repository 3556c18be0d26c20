"""The plan of a sweep, from one results folder or merged from several that were filled on different machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.trials import read_json
from saei import schema

DECIDED = ("baseline", "primary_contrast", "primary_metric", "steps")
"""What must be the same in all plans: it says which numbers are compared."""


def sweeps_in(results: Path) -> list[str]:
    """Names of the sweeps in a results folder, the most recently launched first."""
    found = {path.parent.name: path.stat().st_mtime for path in Path(results).glob(f"*/{schema.PLAN_FILE}")}
    return sorted(found, key=lambda name: -found[name])


def newest(results: Sequence[Path]) -> str:
    """Name of the sweep launched last in any of the folders, "" where there is none."""
    plans = [root / name / schema.PLAN_FILE for root in results for name in sweeps_in(root)[:1]]
    return max(plans, key=lambda path: path.stat().st_mtime).parent.name if plans else ""


def read_plans(results: Sequence[Path], sweep: str) -> dict[Path, dict[str, Any]]:
    """Results folder -> the sweep's plan in it; folders without the sweep are left out.

    Raises ValueError where no folder has the sweep, and for plans that are missing, damaged or of another sweep.
    """
    plans = {root: plan for root in results if (plan := _read_plan(root, sweep)) is not None}
    if not plans:
        listed = ", ".join(sorted({name for root in results for name in sweeps_in(root)})) or "no sweep at all"
        places = " or ".join(map(str, results))
        if "/" in sweep:
            root, _, name = sweep.rpartition("/")
            raise ValueError(
                f"sweep: {sweep!r} is a path; give the name and its results folder: {name} --results {root}"
            )
        raise ValueError(
            f"sweep: there is no {sweep!r} in {places}; {'it holds' if len(results) == 1 else 'they hold'} {listed}"
        )
    return plans


def _read_plan(root: Path, sweep: str) -> dict[str, Any] | None:
    path, old = root / sweep / schema.PLAN_FILE, root / sweep / schema.OLD_PLAN_FILE
    if not path.exists():
        if old.exists():
            raise ValueError(f"{sweep} has its plan under the old name: mv {old} {path}")
        if any((root / sweep).glob(f"*/{schema.CONFIG_FILE}")):
            raise ValueError(
                f"{root / sweep} holds trials but no {schema.PLAN_FILE}, which says what was decided before the first "
                "launch; copy it from where the sweep was launched"
            )
        return None
    plan = read_json(path) or {}
    lacking = [key for key in ("arms", "seeds", "baseline", "trials") if key not in plan]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}; launch the sweep again")
    if plan.get("name", sweep) != sweep:
        raise ValueError(
            f"{path} is the plan of {plan['name']}: the folder was renamed; rename it back: mv {root / sweep} "
            f"{root / plan['name']}"
        )
    # `metric`: its name in plans that were moved from sweep.json
    return {"name": sweep, "question": "", "primary_metric": plan.get("metric", "test/mean@8"), **plan}


def merge_plans(plans: dict[Path, dict[str, Any]], finished: dict[Path, float]) -> dict[str, Any]:
    """One plan of all; that of the earliest first launch leads. Every arm, seed and trial of any plan is in it.

    `finished`: when the first trial of each folder ended (math.inf: none has). What a plan adds that was first launched
    after a trial of an earlier one had ended could have been chosen for its result: it is exploratory, a launch that
    added trials, and so is what any plan calls so. Raises ValueError where plans decided differently or an arm means
    different things.
    """
    order = sorted(plans, key=lambda root: plans[root].get("first_launch") or 0.0)
    merged = dict(plans[order[0]])
    arms = {arm["name"]: arm for arm in merged["arms"]}
    trials = {(trial["arm"], trial["seed"]): trial for trial in merged["trials"]}
    for number, root in enumerate(order[1:], start=1):
        plan = plans[root]
        earlier = " and ".join(str(other / merged["name"] / schema.PLAN_FILE) for other in order[:number])
        where = f"{root / merged['name'] / schema.PLAN_FILE} and {earlier}"
        _refuse_other_decisions(merged, plan, where)
        for arm in plan["arms"]:
            _refuse_other_meaning(arms.setdefault(arm["name"], arm), arm, where)
        late = (plan.get("first_launch") or 0.0) > min(finished[other] for other in order[:number])
        _add_trials(trials, plan, late=late, where=where)
    merged["arms"], merged["trials"] = list(arms.values()), list(trials.values())
    merged["seeds"] = sorted({seed for plan in plans.values() for seed in plan["seeds"]})
    earlier_plans = {json.dumps(other.get("settings"), sort_keys=True): other
                     for plan in plans.values() for other in plan.get("earlier_plans", [])}  # fmt: skip
    return {**merged, "earlier_plans": list(earlier_plans.values())} if earlier_plans else merged


def _add_trials(trials: dict[tuple[str, int], dict[str, Any]], plan: dict[str, Any], *, late: bool, where: str) -> None:
    """Add a plan's trials to those by (arm, seed); its launches after the first are launches of their own."""
    hashes = {arm: _hash(trial["trial_id"]) for (arm, _), trial in trials.items()}
    launches = max((trial.get("launch") or 0 for trial in trials.values()), default=0)
    for trial in plan["trials"]:
        arm, key = trial["arm"], (trial["arm"], trial["seed"])
        if hashes.setdefault(arm, _hash(trial["trial_id"])) != _hash(trial["trial_id"]):
            raise ValueError(
                f"{where}: arm {arm} is {_hash(trial['trial_id'])} in the first and {hashes[arm]} in the second, so "
                "its settings, data or weights differ; report on the folders one by one"
            )
        known = trials.get(key)
        if known is None:
            added = late or bool(trial.get("exploratory"))
            entry = {**trial, "exploratory": added}
            if added and ("launch" in trial or late):
                entry["launch"] = launches + late + (trial.get("launch") or 0)
        else:
            entry = {**known, "exploratory": bool(known.get("exploratory") or trial.get("exploratory"))}
            if trial.get("exploratory") and not known.get("exploratory") and "launch" in trial:
                entry["launch"] = launches + trial["launch"]
        if trial.get("pruned") or (known or {}).get("pruned"):
            entry["pruned"] = True
        trials[key] = entry


def _refuse_other_decisions(merged: dict[str, Any], plan: dict[str, Any], where: str) -> None:
    for field in DECIDED:
        if merged.get(field) != plan.get(field):
            raise ValueError(
                f"{where}: {field.replace('_', ' ')} is {_shown(plan.get(field))} in the first and "
                f"{_shown(merged.get(field))} in the second, so they are two sweeps; report on the folders one by one"
            )


def _refuse_other_meaning(known: dict[str, Any], arm: dict[str, Any], where: str) -> None:
    for field in ("overrides", "against"):
        if (known.get(field) or {}) != (arm.get(field) or {}):
            raise ValueError(
                f"{where}: arm {arm['name']} has other {field}, {_shown(arm.get(field))} in the first and "
                f"{_shown(known.get(field))} in the second; report on the folders one by one"
            )


def _hash(trial_id: str) -> str:
    """Trials that differ only in the seed share it."""
    return trial_id.rpartition("-s")[0]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
