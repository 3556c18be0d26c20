"""A recorded trial once more: `python -m saei.train --from results/<sweep>/<trial> [--out DIR]`.

The settings are those of its `config.json`, none can be given with it. What has changed since that could change a
number is refused (problems, weights, the settings this code knows) or said (commit, packages, number of processes).
"""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saei import schema
from saei.cli import BadInput, bad_input
from saei.commit import SNAPSHOT_FILE
from saei.config import Config, from_dict
from saei.differences import shown_differences
from saei.environment import environment
from saei.identity import trial_identity

FLAG = "--from"
_CODE = ("git_sha", "git_diff", "git_untracked")
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run directory as it was read: `folder` holds the run itself, where another one only points to it."""

    folder: Path
    config: Config
    identity: dict[str, Any]
    environment: dict[str, Any]
    trial_id: str


def asks_for_recorded(words: Sequence[str]) -> bool:
    """Does this command line name a recorded trial?"""
    return any(word == FLAG or word.startswith(f"{FLAG}=") for word in words)


def recorded_command_line(words: Sequence[str]) -> Config:
    """The settings of the trial that `--from` names, to be run in `--out` [results/again/<trial id>].

    Says on standard output in what this is not the code or machine of then. Raises BadInput.
    """
    given = _values(words)
    trial = read_recorded(Path(given[FLAG]))
    refuse_changes(trial)
    out = given.get("--out") or str(Path("results") / "again" / trial.trial_id)
    print(f"{trial.folder}: again, in {out}")
    for line in changes_since(trial):
        print(line)
    return replace(trial.config, out=out)


def _values(words: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if flag not in (FLAG, "--out"):
            raise BadInput(f"{FLAG} runs a trial with its own settings and takes only --out, got {word}")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else ""
        if not value:
            raise BadInput(f"{flag} needs a folder" + (", such as results/SWEEP/TRIAL" if flag == FLAG else ""))
        if flag in given:
            raise BadInput(f"{flag} is given twice")
        given[flag] = value
    return given


def read_recorded(path: Path) -> Recorded:
    """The trial in the run directory `path`, or in the one its SAME_AS names. Raises BadInput."""
    folder = _where_it_ran(path)
    try:
        tree: dict[str, Any] = json.loads((folder / schema.CONFIG_FILE).read_text())
        settings, trial_id, identity = tree["config"], tree["trial_id"], tree["identity"]
    except FileNotFoundError:
        raise BadInput(f"{path} is no run directory: it has no {schema.CONFIG_FILE}") from None
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(f"{folder / schema.CONFIG_FILE} cannot be read ({type(error).__name__}: {error})") from error
    ran_on = _environment(folder)
    if tree.get("schema_version") != schema.SCHEMA_VERSION:
        raise BadInput(
            f"{folder} has tables of version {tree.get('schema_version')}, this code writes version "
            f"{schema.SCHEMA_VERSION}{_code_of_then(folder, ran_on)}"
        )
    try:
        config = from_dict(settings)
    except ValueError as error:
        raise BadInput(
            f"{folder} has settings that this code refuses ({error}){_code_of_then(folder, ran_on)}"
        ) from error
    return Recorded(folder, replace(config, out=str(folder)), identity, ran_on, trial_id)


def _where_it_ran(path: Path) -> Path:
    pointer = path / schema.SAME_AS_FILE
    if ((path / schema.CONFIG_FILE).exists() and (path / schema.DONE_FILE).exists()) or not pointer.exists():
        return path
    folder = (path / pointer.read_text().strip()).resolve()
    if not (folder / schema.CONFIG_FILE).exists():
        raise BadInput(f"{pointer} names {folder}, where no run is: run the sweep again, which settles it")
    return folder


def _environment(folder: Path) -> dict[str, Any]:
    try:
        tree = json.loads((folder / schema.ENVIRONMENT_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return tree if isinstance(tree, dict) else {}


def refuse_changes(trial: Recorded) -> None:
    """Raise BadInput where problems, weights or settings are not those of then: it would be another trial."""
    with bad_input():
        now = trial_identity(trial.config)
    cure = _code_of_then(trial.folder, trial.environment)
    where = trial.config.data.path or trial.config.data.source
    if now["data"] != trial.identity["data"]:
        raise BadInput(
            f"the problems ({where}) are not those that {trial.folder} was trained on: fingerprint "
            f"{now['data'][:_SHORT]} now, {trial.identity['data'][:_SHORT]} then. Bring back the files of then{cure}"
        )
    if now["weights"] != trial.identity["weights"]:
        raise BadInput(
            f"the initial weights ({trial.config.model.path}) are not those that {trial.folder} began with: "
            f"fingerprint {now['weights']} now, {trial.identity['weights']} then. Bring back the files of then{cure}"
        )
    if now != trial.identity:
        unlike = shown_differences(trial.identity, now)
        raise BadInput(f"{trial.folder} has other settings than this code knows: {unlike}{cure}")


def changes_since(trial: Recorded) -> list[str]:
    """In sentences: what of code, packages and machine is not as it was; the numbers may then differ."""
    then, now = trial.environment, environment("", Path(os.devnull) / "none")
    if not then:
        return [f"{schema.ENVIRONMENT_FILE} is gone: what code and packages it ran on is not known"]
    lines = []
    if any(then.get(name) != now[name] for name in _CODE):
        lines.append(f"it ran {_code(then)}, this is {_code(now)}{_code_of_then(trial.folder, then)}")
    if len({json.dumps([launch.get(name) for name in _CODE]) for launch in [then, *then.get("earlier", [])]}) > 1:
        lines.append("its launches ran different code (`earlier` in environment.json): no single code gives it again")
    packages = {"python": then.get("python"), **then.get("packages", {})}
    today = {"python": now["python"], **now["packages"]}
    other = [f"{name} {version} then, {today[name]} now" for name, version in packages.items()
             if today.get(name, version) != version]  # fmt: skip
    if other:
        lines.append(f"other versions: {', '.join(other)}")
    size = then.get("world_size", 1)
    if size != 1:
        lines.append(f"{size} processes shared it: start as many, or sums may differ in the last digits")
    if str(then.get("device", "cpu")).startswith("cuda"):
        lines.append(
            f"it ran on {then.get('device_name')}: other hardware, or a GPU's sums, may differ in the last digits"
        )
    return lines


def _code(facts: dict[str, Any]) -> str:
    sha = str(facts.get("git_sha") or "")[:_SHORT]
    return (f"commit {sha}" if sha else "code of no commit") + (
        " with uncommitted changes" if facts.get("git_dirty") else ""
    )


def _code_of_then(folder: Path, then: dict[str, Any]) -> str:
    """How to get the code that a run had, as the end of a sentence."""
    snapshot = _snapshot(folder, then)
    if snapshot is not None:
        return f". Its code lies in {snapshot}: PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(snapshot))} python -m ..."
    if not then.get("git_sha"):
        return ". Its commit was not recorded"
    tree = f"../saei-{then['git_sha'][:_SHORT]}"
    text = f". For its code: git worktree add {tree} {then['git_sha'][:_SHORT]}"
    if then.get("git_diff"):
        read = f"import json; print(json.load(open({str(folder / schema.ENVIRONMENT_FILE)!r}))['git_diff'])"
        text += f' && python -c "{read}" | git -C {tree} apply'
    text += f", then the same command in {tree}"
    if then.get("git_untracked"):
        text += f"; not kept: {', '.join(then['git_untracked'][:4])} (files that git did not know)"
    return text


def _snapshot(folder: Path, then: dict[str, Any]) -> Path | None:
    """The snapshot of its code that cluster jobs ran, beside the sweeps."""
    for path in sorted((folder.parent.parent / ".code").glob(f"*/{SNAPSHOT_FILE}")):
        try:
            facts = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError):
            continue
        if all(facts.get(name) == then.get(name) for name in _CODE):
            return path.parent
    return None
