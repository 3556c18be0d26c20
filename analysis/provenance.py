"""Where the numbers come from: commits, versions, machines. More than one means a mixed sweep, and is said."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pandas as pd

from analysis.load import SweepData
from saei import schema

UNRECORDED = "not recorded"
SHOWN = 12
"""Digits of a commit, and most arms or trials that are named one by one."""


def launches(data: SweepData) -> list[dict[str, Any]]:
    """What `environment.json` says of each launch of each trial, the earlier ones of a continued trial included."""
    found = []
    for tree in data.documents(schema.ENVIRONMENT_FILE):
        trial = {key: tree[key] for key in ("trial_id", "arm", "seed")}
        found += [{**launch, **trial} for launch in (*(tree.get("earlier") or ()), tree)]
    return found


def code(launch: Mapping[str, Any]) -> str:
    """The commit, and uncommitted changes told apart by a hash of the diff and of the names of new Python files."""
    if not launch.get("git_sha"):
        return UNRECORDED
    commit = str(launch["git_sha"])[:SHOWN]
    if "git_diff" not in launch:
        return f"{commit} with unrecorded changes" if launch.get("git_dirty") else commit
    new = [name for name in launch.get("git_untracked") or () if name.endswith(".py")]
    changes = "\n".join([launch["git_diff"], *new]).strip()
    return f"{commit} with changes {hashlib.sha256(changes.encode()).hexdigest()[:6]}" if changes else commit


def codes(data: SweepData) -> pd.DataFrame:
    """One row per code that ran: `code`, `trials` (how many), `which`, `arms`. A trial continued by other code is in
    each."""
    ran: dict[str, dict[str, str]] = {}
    for launch in launches(data):
        ran.setdefault(code(launch), {})[launch["trial_id"]] = launch["arm"]
    rows = [
        {"code": name, "trials": len(trials), "arms": _listed(trials.values()), "which": _listed(trials)}
        for name, trials in ran.items()
    ]
    frame = pd.DataFrame(rows, columns=["code", "trials", "arms", "which"])
    return frame.sort_values("trials", ascending=False, kind="stable", ignore_index=True)


def _listed(names: Any) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
    return ", ".join(distinct[:SHOWN]) + more


def _trials(count: int) -> str:
    return f"{count} trial{'s' * (count != 1)}"


def mixed(data: SweepData) -> list[str]:
    """Sentences on trials that ran other code or other package versions than the rest; [] for a sweep of one kind."""
    found = codes(data)
    sentences = []
    if len(found) > 1:
        told = "; ".join(f"{row.code}: {_trials(row.trials)} of {row.arms}" for row in found.itertuples())
        sentences.append(f"The trials ran {len(found)} versions of the code: {told}.")
    continued = [row for row in _continued(data) if len(row[1]) > 1]
    if continued:
        told = "; ".join(f"{trial} ({' then '.join(ran)})" for trial, ran in continued[:SHOWN])
        sentences.append(f"{len(continued)} of them changed code while they ran: {told}.")
    return sentences + _mixed_packages(data)


def _continued(data: SweepData) -> list[tuple[str, list[str]]]:
    ran: dict[str, list[str]] = {}
    for launch in launches(data):
        known = ran.setdefault(launch["trial_id"], [])
        known += [code(launch)] if code(launch) not in known else []
    return list(ran.items())


def _mixed_packages(data: SweepData) -> list[str]:
    versions: dict[str, dict[str, set[str]]] = {}
    for launch in launches(data):
        installed = {"python": launch.get("python"), **(launch.get("packages") or {})}
        for package, version in installed.items():
            if version:
                versions.setdefault(package, {}).setdefault(str(version), set()).add(launch["trial_id"])
    told = [
        f"{package} {' and '.join(f'{version} ({_trials(len(trials))})' for version, trials in sorted(found.items()))}"
        for package, found in versions.items()
        if len(found) > 1
    ]
    return [f"The trials ran with other versions of packages: {'; '.join(told)}."] if told else []


def require_same_code(data: SweepData) -> None:
    """Raise ValueError, with a table and the cure, unless all trials are known to have run the same code throughout."""
    found = codes(data)
    if len(found) <= 1 and UNRECORDED not in set(found["code"]):
        return
    rows = [f"  {row.code}: {_trials(row.trials)} ({row.which}) of {row.arms}" for row in found.itertuples()]
    head = (
        f"--same-code: the trials of {data.name} ran {len(found)} versions of the code"
        if len(found) > 1
        else f"--same-code: which code the trials of {data.name} ran is not recorded"
    )
    cure = (
        "Delete the folders of the trials that ran other code and launch the sweep again from one commit (git worktree "
        "add ../at-COMMIT COMMIT), or leave --same-code out: the report then says which arms ran what"
    )
    raise ValueError("\n".join([head, *rows, cure]))


def environments(data: SweepData) -> pd.DataFrame:
    """A row per host, device, Python and platform that launched trials, with how many trials each began."""
    ran = [
        {
            "host": str(one.get("host") or UNRECORDED),
            "device": str(one.get("device_name") or one.get("device") or UNRECORDED),
            "platform": str(one.get("platform") or UNRECORDED),
            "python": str(one.get("python") or UNRECORDED),
            "threads": str(one.get("threads") or UNRECORDED),
            "trial": one["trial_id"],
        }
        for one in launches(data)
    ]
    if not ran:
        return pd.DataFrame()
    frame = pd.DataFrame(ran).drop_duplicates()
    places = [name for name in frame.columns if name != "trial"]
    return frame.groupby(places, sort=True)["trial"].size().rename("trials").reset_index()


def provenance(data: SweepData, steps: int) -> list[tuple[str, str]]:
    """Names and values for the report; `steps` of a trial."""
    ran = launches(data)
    versions = {f"{name} {version}" for one in ran for name, version in (one.get("packages") or {}).items() if version}
    first = data.plan.get("first_launch")
    planned = datetime.fromtimestamp(first).astimezone().strftime("%Y-%m-%d %H:%M %Z") if first else ""
    sha = str(data.plan.get("git_sha") or "")[:SHOWN]
    rows = [
        ("planned", f"{planned} with {sha}" if planned and sha else planned),
        ("code", "; ".join(f"{row.code} ({_trials(row.trials)})" for row in codes(data).itertuples())),
        ("packages", ", ".join(sorted(versions))),
        ("seeds", ", ".join(str(seed) for seed in data.plan["seeds"])),
        ("steps of a trial", str(steps)),
        ("earlier plans of this sweep, with other settings", str(len(data.plan.get("earlier_plans", [])))),
        ("taken from other sweeps", ", ".join(sorted({s for s in data.trials["same_as"] if s})) or "none"),
        ("schema version of the tables", str(schema.SCHEMA_VERSION)),
    ]
    return [(name, value or UNRECORDED) for name, value in rows]
