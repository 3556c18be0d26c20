"""What the run directories know of their sweeps: the trials of each plan, and where each trial's run lies.

Everything here is read as it lies on disk and may be missing, half written or not ours.
"""

import difflib
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saei import schema
from saei.cli import BadInput

TRIAL_ID = re.compile(r"[0-9a-f]{12}-s\d+")
NOT_SWEEPS = ("reference",)
"""Folders under results/ that hold no runs of their own: copies of published sweeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One trial of one sweep; `folder` is where that sweep keeps it, whether or not it is there.

    `command`: the newest command line that launched its plan, "" where the plan does not say; `launch`: 0 for the
    plan launched last, n for the n-th of the plans with other settings, the newest first.
    """

    trial_id: str
    sweep: str
    arm: str
    seed: int
    folder: Path
    pruned: bool = False
    command: str = ""
    launch: int = 0

    @property
    def name(self) -> str:
        """Arm and seed, as people say it."""
        return f"{self.arm}-s{self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """One sweep as its plan says: trials in the plan's order. `metric`: the reported one, such as "test/mean@8".

    `launched`: time of its first launch (Unix seconds; of the newest file without a plan). `command`: as in Entry.
    `earlier`: the trials of plans with other settings that the newest plan does not hold; `others`: what those plans
    were launched with, in words, by their number.
    """

    name: str
    folder: Path
    entries: tuple[Entry, ...]
    steps: int
    metric: str
    launched: float
    note: str
    command: str = ""
    earlier: tuple[Entry, ...] = ()
    others: dict[int, str] = field(default_factory=dict)


def sweep_folders(results: Path) -> list[str]:
    """Names of the folders under `results` that hold a plan or runs. Raises BadInput without such a folder."""
    try:
        with os.scandir(results) as found:
            names = [entry.name for entry in found if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise BadInput(
            f"--results {results} cannot be read ({error.strerror}); name the folder of the results"
        ) from None
    return sorted(name for name in names if name not in NOT_SWEEPS and _is_sweep(results / name))


def _is_sweep(folder: Path) -> bool:
    return (folder / schema.PLAN_FILE).is_file() or any(run_folders(folder))


def run_folders(folder: Path) -> Iterator[str]:
    """Names of the run directories in a sweep's folder."""
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found if TRIAL_ID.fullmatch(entry.name))
    except OSError:
        return
    yield from names


def read_sweep(results: Path, name: str) -> Recorded:
    """The sweep called `name`; without a readable plan, the runs in its folder."""
    folder = results / name
    plan = read_tree(folder / schema.PLAN_FILE)
    entries = _entries(plan, name, folder)
    known = {entry.trial_id for entry in entries}
    earlier, others = list[Entry](), dict[int, str]()
    for number, other in enumerate(_list(plan.get("earlier_plans")), start=1):
        own = [entry for entry in _entries(other, name, folder, number) if entry.trial_id not in known]
        if own:
            earlier += own
            known |= {entry.trial_id for entry in own}
            others[number] = own[0].command or _settings(other)
    if not entries:
        entries = tuple(_unplanned(folder, name))
    launched = plan.get("first_launch")
    return Recorded(
        name=name,
        folder=folder,
        entries=entries,
        steps=_whole(plan.get("steps")),
        metric=str(plan.get("primary_metric", "")),
        launched=float(launched) if isinstance(launched, int | float) else _changed(folder),
        note=str(plan.get("budget_note") or ""),
        command=_command(plan),
        earlier=tuple(earlier),
        others=others,
    )


def launch_line(sweep: str, command: str, *, on_slurm: bool) -> str:
    """What to type to go on: `command`, or, of a plan that does not know it, the sweep's name and where it runs."""
    return command or f"python sweeps/run.py {sweep}{' --on slurm' if on_slurm else ''}"


def is_on_slurm(command: str) -> bool | None:
    """Does this command line launch on Slurm? None where it is not known."""
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    pairs = itertools.pairwise(words)
    return ("--on", "slurm") in pairs or "--on=slurm" in words if words else None


def _entries(plan: Any, sweep: str, folder: Path, launch: int = 0) -> tuple[Entry, ...]:
    if not isinstance(plan, dict):
        return ()
    found = (_entry(tree, sweep, folder) for tree in _list(plan.get("trials")))
    return tuple(replace(entry, command=_command(plan), launch=launch) for entry in found if entry is not None)


def _command(plan: dict[str, Any]) -> str:
    command = plan.get("command")
    return command if isinstance(command, str) else ""


def _settings(plan: dict[str, Any]) -> str:
    settings = plan.get("settings")
    pairs = settings.items() if isinstance(settings, dict) else ()
    return ", ".join(f"{name} {value}" for name, value in pairs) or "no settings of its own"


def _entry(tree: Any, sweep: str, folder: Path) -> Entry | None:
    """One trial of a plan, or None where it is not one."""
    if not isinstance(tree, dict) or not isinstance(tree.get("trial_id"), str):
        return None
    key = tree["trial_id"]
    return Entry(
        trial_id=key,
        sweep=sweep,
        arm=str(tree.get("arm", key)),
        seed=_whole(tree.get("seed")),
        folder=folder / key,
        pruned=bool(tree.get("pruned", False)),
    )


def _unplanned(folder: Path, sweep: str) -> Iterator[Entry]:
    """Runs in a folder without a plan, called by the first digits of their hash."""
    for key in run_folders(folder):
        content, _, seed = key.partition("-s")
        yield Entry(trial_id=key, sweep=sweep, arm=content, seed=int(seed), folder=folder / key)


def all_entries(results: Path, sweeps: list[str] | None = None) -> list[Entry]:
    """Trials of the sweeps under `results` (of `sweeps` only): of the newest plan, of the earlier ones, of no plan."""
    found: list[Entry] = []
    for name in sweep_folders(results) if sweeps is None else sweeps:
        sweep = read_sweep(results, name)
        planned = [*sweep.entries, *sweep.earlier]
        known = {entry.trial_id for entry in planned}
        found += planned
        found += [entry for entry in _unplanned(results / name, name) if entry.trial_id not in known]
    return found


def real_folder(folder: Path) -> Path:
    """The run directory itself: where SAME_AS points to, or `folder`."""
    try:
        pointed = folder / (folder / schema.SAME_AS_FILE).read_text().strip()
    except (OSError, ValueError):
        return folder
    return pointed.resolve() if pointed.is_dir() and not (folder / schema.DONE_FILE).exists() else folder


def read_tree(path: Path) -> dict[str, Any]:
    """The JSON object at `path`, or {} where there is none, or something else."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def unknown_sweep(name: str, names: list[str], results: Path) -> BadInput:
    """The error for a sweep that has no folder: the nearest that has, or how to launch it."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return BadInput(f"there is no sweep {name!r} in {results}: did you mean {near[0]}?")
    if (Path(__file__).resolve().parent.parent / f"{name}.py").is_file():
        return BadInput(
            f"{name} has not been launched into {results}; python sweeps/run.py {name} does, or --results DIR"
        )
    return BadInput(f"there is no sweep {name!r} in {results}; there are {', '.join(names) or 'none yet'}")
