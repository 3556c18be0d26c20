"""The commands that make a sweep again: as a whole, what is missing of it, and its report."""

import ast
import contextlib
import itertools
import json
import re
import shlex
from typing import Any

from analysis import provenance
from analysis.load import SweepData
from analysis.where import GREY_LEVELS

PLACED = ("--results", "--jobs", "--on", "--cluster")
"""Options of a launch that say where and how, not what: they are kept from the launch that the plan remembers."""
POINTS_FILE = "points.json"
"""The ledger of a search, in the sweep's folder."""


WIDTH = 96
"""Characters of a line of a command; a value stays on the line of its option."""


def planned_steps(data: SweepData) -> int:
    """Steps of a trial: the plan's, else the fewest that a trial says it has."""
    planned = data.plan.get("steps")
    known = data.trials.loc[data.trials["steps"] > 0, "steps"]
    return int(planned or (known.min() if len(known) else 0))


def command(data: SweepData) -> str:
    """The command that repeats exactly these arms, seeds and settings."""
    words = ["python", "sweeps/run.py", data.name, "--seeds", str(_seeds(data))]
    words += [word for arm in data.arms if arm not in data.earlier for word in ("--only", arm)]
    settings = {"steps": planned_steps(data), **data.plan.get("settings", {})}
    words += ["--steps", str(settings.pop("steps"))]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={setting(name, value)}")]
    return shlex.join(words)


def folded(text: str) -> str:
    """A long command over several lines, broken before options, as a shell reads it; other text as it is."""
    if len(text) <= WIDTH:
        return text
    with contextlib.suppress(ValueError):
        lines: list[str] = []
        for word in map(shlex.quote, shlex.split(text)):
            fits = lines and len(lines[-1]) + 1 + len(word) <= WIDTH
            if lines and (fits or not word.startswith("-")):
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        return " \\\n  ".join(lines)
    return text


def _seeds(data: SweepData) -> int:
    """`--seeds N` launches seeds 0 to N-1."""
    return max(data.plan["seeds"], default=-1) + 1


def finishing(data: SweepData) -> str:
    """The command that runs what is missing: the launch that the plan remembers where it covers all trials, else
    `command` with that launch's options on where and how."""
    launched = _launched(data)
    if launched and _covers(launched, data):
        return shlex.join(launched)
    return shlex.join([*shlex.split(command(data)), *_placed(launched)])


def _launched(data: SweepData) -> list[str]:
    """The words of the launch that the plan remembers; none where it remembers none that a shell could read."""
    with contextlib.suppress(ValueError):
        return shlex.split(str(data.plan.get("command") or ""))
    return []


def _covers(launched: list[str], data: SweepData) -> bool:
    """Did the launch, as its words say, ask for all arms and seeds of now?"""
    only = set(_values(launched, "--only"))
    seeds = [int(text) for text in _values(launched, "--seeds") if text.isdigit()]
    arms = {arm for arm in data.arms if arm not in data.earlier}
    return (not only or only >= arms) and (not seeds or seeds[-1] >= _seeds(data))


def _values(words: list[str], option: str) -> list[str]:
    """What follows the option, `--only x` or `--only=x`, each time that it is given."""
    apart = [after for word, after in itertools.pairwise(words) if word == option]
    return apart + [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]


def _placed(words: list[str]) -> list[str]:
    return [part for option in PLACED for value in _values(words, option)[-1:] for part in (option, value)]


def report(data: SweepData) -> str:
    """The command that builds this report."""
    words = ["python", "-m", "analysis.report", data.name]
    words += [word for folder in data.results for word in ("--results", str(folder))]
    return shlex.join([*words, *data.selection_options])


def steps(data: SweepData) -> list[tuple[str, str]]:
    """(what for, command) from a fresh clone of the project to this page."""
    commits = list(dict.fromkeys(str(one["git_sha"]) for one in provenance.launches(data) if one.get("git_sha")))
    code = commits[0] if len(commits) == 1 else str(data.plan.get("git_sha") or "")
    found = [("The code", f"git checkout {code}")] if re.fullmatch(r"[0-9a-f]{7,64}", code) else []
    if _launched(data):
        found.append(("As it was launched last", shlex.join(_launched(data))))
    if not data.pruned and not is_search(data):
        found.append(("Exactly these arms, seeds and settings", command(data)))
    return [*found, ("This page", report(data))]


def is_search(data: SweepData) -> bool:
    """Were the arms chosen along the way, as points of a search?"""
    return any((folder / data.name / POINTS_FILE).is_file() for folder in data.results)


def setting(name: str, value: Any) -> str:
    """A value of the plan's `settings` as `sweeps/run.py --set` reads it: JSON, a plain text, or `none`.

    The plan keeps a list as the text of a Python tuple.
    """
    if value is None and name in GREY_LEVELS:
        return "none"
    if not isinstance(value, str):
        return json.dumps(value)
    with contextlib.suppress(ValueError, SyntaxError):
        if value.startswith("("):
            return json.dumps(ast.literal_eval(value))
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value
    return json.dumps(value)  # a text such as "true" in its quotes, or it would be read as something else
