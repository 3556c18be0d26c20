"""From a definition to its trials, and the plan on disk that says what was decided before the first launch.

`results/<sweep>/plan.json` is what analysis reads. Launches with other settings (`--steps`, `--set`, `--demo`) are
other plans: the file shows the plan launched last, and keeps the others under `earlier_plans`.
"""

import contextlib
import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saei import schema
from saei.atomic import write_json
from saei.commit import code_facts
from saei.config import Config
from saei.schema import EARLIER
from sweeps.definition import Sweep, arm_config
from sweeps.identical import felt_settings
from sweeps.locks import hold
from sweeps.trial import Trial, test_metric


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
    name: str,
    sweep: Sweep,
    trials: Sequence[Trial],
    settings: Mapping[str, Any],
    results: Path,
    note: str = "",
    command: str = "",
) -> dict[str, Any]:
    """Create or extend `plan.json`; what the plan's first launch did not hold is marked exploratory.

    Each trial keeps `launch`: 0 for the first, then one more for every launch that added trials.
    `command`: the launch's own command line; "" keeps that of the newest launch with these settings.
    Raises ValueError for a plan that cannot be read, or that is there under its old name.
    """
    with hold(results / name / ".plan.lock", wait=True):
        return _write_plan(name, sweep, trials, settings, results / name, note, command)


def _write_plan(
    name: str,
    sweep: Sweep,
    trials: Sequence[Trial],
    settings: Mapping[str, Any],
    folder: Path,
    note: str,
    command: str,
) -> dict[str, Any]:
    found = _read_plan(folder)
    known = [found, *found.get("earlier_plans", [])] if found else []
    written = {field: value if isinstance(value, int | float | bool | None) else str(value)
               for field, value in settings.items()}  # fmt: skip
    same = next((plan for plan in known if plan.get("settings") == written), None)
    first_config: Config = trials[0].config
    entries, renamed = _entries(same, trials, _definitions_now(same, sweep, trials, settings))
    plan = {
        "name": name,
        "question": sweep.question,
        "arms": _arms(same, sweep, entries, renamed),
        # what was decided before the first launch stays, whatever the definition says by now
        "baseline": same["baseline"] if same else sweep.baseline,
        "primary_contrast": same["primary_contrast"] if same else list(sweep.primary_contrast),
        "primary_metric": test_metric(first_config),
        "steps": first_config.steps,
        "settings": written,
        "command": command or (same or {}).get("command", ""),
        "budget_note": note,
        "first_launch": same["first_launch"] if same else time.time(),
        "git_sha": same.get("git_sha", "") if same else code_facts()["git_sha"],
        "trials": entries,
    }
    plan["seeds"] = sorted({entry["seed"] for entry in entries if EARLIER not in entry["arm"]})
    earlier = [{key: value for key, value in other.items() if key != "earlier_plans"} for other in known
               if other is not same]  # fmt: skip
    if earlier:
        plan["earlier_plans"] = earlier
    write_json(folder / schema.PLAN_FILE, plan)
    return plan


def launch_command(words: Sequence[str]) -> str:
    """The command line that launches the same again: `words` are the arguments of `sweeps/run.py`, each as given.

    Left out is what makes a launch look only (`--dry-run`) or do one trial (`--take-next`).
    """
    kept = [word for word in words if word.replace("_", "-") not in ("--dry-run", "--take-next")]
    return shlex.join(["python", "sweeps/run.py", *kept])


def _read_plan(folder: Path) -> dict[str, Any]:
    path, old = folder / schema.PLAN_FILE, folder / schema.OLD_PLAN_FILE
    if not path.exists() and old.exists():
        raise ValueError(f"{folder} has its plan under the old name; launch again after: mv {old} {path}")
    try:
        tree = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(tree, dict):
            raise TypeError("it holds no object")
        return tree
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); restore it: without it this launch would count as the first"
        ) from error


def planned_seeds(folder: Path, trial: Trial) -> int:
    """How many seeds of this trial's arm were planned before the first launch; 0 without a plan."""
    found = _read_plan(folder)
    plans = [found, *found.get("earlier_plans", [])] if found else []
    entries = [entry for plan in plans for entry in plan["trials"] if not entry["exploratory"]]
    return sum(_hash(entry["trial_id"]) == _hash(trial.trial_id) for entry in entries)


def plan_sentences(plan: Mapping[str, Any], sweep: Sweep) -> list[str]:
    """What the launcher must know of a plan that was there before: kept decisions, arms of an earlier definition."""
    sentences = []
    for field, now in (("baseline", sweep.baseline), ("primary_contrast", list(sweep.primary_contrast))):
        if plan[field] != now:
            kept, other = (value if isinstance(value, str) else " minus ".join(value) for value in (plan[field], now))
            sentences.append(
                f"plan.json keeps the {field.replace('_', ' ')} of the first launch, {kept}; the definition now says "
                f"{other}. For a plan of its own, launch with another --results"
            )
    for arm in plan["arms"]:
        if EARLIER in arm["name"]:
            base = arm["name"].partition(EARLIER)[0]
            sentences.append(
                f"the definition of {base} has changed since it was launched: its earlier trials are kept as "
                f"{arm['name']}, and those of the new definition are exploratory"
            )
    return sentences


def _definitions_now(
    planned: Mapping[str, Any] | None, sweep: Sweep, trials: Sequence[Trial], settings: Mapping[str, Any]
) -> dict[str, str]:
    """Arm -> hash of what it means now, for the launched arms and for those of the plan that are still defined."""
    from saei.identity import trial_id

    found = {trial.arm: _hash(trial.trial_id) for trial in trials}
    others = {entry["arm"].partition(EARLIER)[0] for entry in planned["trials"]} if planned else set[str]()
    for arm in others & sweep.arms.keys() - found.keys():
        with contextlib.suppress(ValueError):  # settings that the code of now refuses: its trials stay what they were
            found[arm] = _hash(trial_id(arm_config(sweep, arm, 0, settings)))
    return found


def _hash(trial_id: str) -> str:
    """Trials that differ only in the seed share it."""
    return trial_id.rpartition("-s")[0]


def _entries(
    planned: Mapping[str, Any] | None, trials: Sequence[Trial], now: Mapping[str, str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Planned entries stay, and additions are exploratory. Also returns the arms' new names by their old ones.

    An arm that means something else by now goes on as `<arm>@<hash>`, and gets its name back with its meaning.
    """
    entries, renamed = list[dict[str, Any]](), dict[str, str]()
    for entry in planned["trials"] if planned else ():
        arm, key = entry["arm"].partition(EARLIER)[0], _hash(entry["trial_id"])
        if arm in now:
            name = arm if key == now[arm] else f"{arm}{EARLIER}{key[:8]}"
            renamed[entry["arm"]] = name
            entry = {**entry, "arm": name}
        entries.append(entry)
    there = {(entry["arm"], entry["seed"]) for entry in entries}
    # older plans did not number their launches: all that they marked exploratory is one
    launch = 1 + max(entry.get("launch", int(entry["exploratory"])) for entry in entries) if entries else 0
    for trial in trials:
        if (trial.arm, trial.seed) not in there:
            entries.append({"trial_id": trial.trial_id, "arm": trial.arm, "seed": trial.seed,
                            "exploratory": planned is not None, "launch": launch})  # fmt: skip
    return entries, renamed


def _arms(
    planned: Mapping[str, Any] | None, sweep: Sweep, entries: Sequence[Mapping[str, Any]], renamed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The arms of the entries with their overrides, in the definition's order, what it does not hold (any more) last.

    `against`: the baseline that an arm of an earlier definition was launched with, by its present name.
    """
    used = list(dict.fromkeys(entry["arm"] for entry in entries))
    order = [arm for arm in sweep.arms if arm in used] + [arm for arm in used if arm not in sweep.arms]
    before = {arm["name"]: arm for arm in planned["arms"]} if planned else {}
    was = {new: old for old, new in renamed.items()}
    arms = []
    for name in order:
        if name in sweep.arms:
            arms.append({"name": name, "overrides": _plain(sweep.arms[name])})
            continue
        arm = {"overrides": {}, **before.get(was.get(name, name), {}), "name": name}
        if EARLIER in name and planned:
            baseline = arm.get("against", planned["baseline"])
            arm["against"] = renamed.get(baseline, baseline)
        arms.append(arm)
    return arms


def _plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float | bool) else str(value) for name, value in overrides.items()}
