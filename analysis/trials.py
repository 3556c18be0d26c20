"""A trial's run directory: where its rows really are, whether it is whole, and how far the run came.

A directory may have been copied from a cluster. What a copy can lack is refused with a sentence, since a number from
half of a run would look like any other.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saei import schema
from saei.parts import part_paths, part_ranges

MISSING = "missing"
STALE_SECONDS = 600.0
"""A run that says it is running, but has not written its status for this long, was interrupted."""

MOST_POINTERS = 8
EVERY_STEP = ("steps", "views")
"""Tables with rows of every step; rollouts and attacks are left out of what is kept in the repository."""


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None without the file. Raises ValueError for a damaged file."""
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy it again, restore or delete it") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds no JSON object; copy it again, restore or delete it")
    return tree


def locate(relative: str, results: Sequence[Path], trail: tuple[str, ...] = ()) -> list[Path]:
    """The run directories with the rows of `relative`, a directory inside a results folder, in all `results` folders.

    A directory with SAME_AS stands for the one it names, in whichever of the folders that lies; it never leads outside
    of them. `trail`: the pointers followed so far. Raises ValueError for pointers that lead in a circle.
    """
    if relative in trail or len(trail) > MOST_POINTERS:
        raise ValueError(f"{trail[0]}: {schema.SAME_AS_FILE} files lead in a circle; delete one of them")
    found: dict[Path, Path] = {}
    for root in results:
        folder = root / relative
        pointer = folder / schema.SAME_AS_FILE
        if pointer.exists() and not (folder / schema.DONE_FILE).exists():
            for target in _pointed_to(relative, pointer.read_text().strip(), results):
                found |= {path.resolve(): path for path in locate(target, results, (*trail, relative))}
        elif _is_run(folder) and (not trail or folder.resolve().is_relative_to(root.resolve())):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _pointed_to(place: str, target: str, results: Sequence[Path]) -> list[str]:
    """Where a pointer leads, inside a results folder: relative to its directory, or, made by hand, to the folder."""
    for start in (place, ""):
        aim = os.path.normpath(os.path.join(start, target))
        inside = not os.path.isabs(aim) and not aim.startswith("..")
        if inside and any((root / aim).is_dir() for root in results):
            return [aim]
    return []


def leads_nowhere(relative: str, results: Sequence[Path]) -> str:
    """What to say of a directory whose SAME_AS names rows that are not in `results`; "" for any other."""
    for root in results:
        pointer = root / relative / schema.SAME_AS_FILE
        if pointer.exists():
            there = os.path.normpath(os.path.join(relative, pointer.read_text().strip()))
            return f"it is the same as {there}, which is not in {root}: copy that sweep, too"
    return ""


def _is_run(folder: Path) -> bool:
    """Has a run begun here? Raises ValueError for one that was copied without its settings."""
    if (folder / schema.CONFIG_FILE).exists():
        return True
    if (folder / schema.DONE_FILE).exists() or any((folder / table).is_dir() for table in schema.TABLES):
        raise ValueError(
            f"{folder} holds a run without its {schema.CONFIG_FILE}: it was copied half; copy it again, or delete it"
        )
    return False


def check_run(folder: Path, trial_id: str) -> dict[str, Any]:
    """The tree of a run's config.json. Raises ValueError for another schema version, another trial, half a copy."""
    path = folder / schema.CONFIG_FILE
    tree = read_json(path) or {}
    version = tree.get("schema_version")
    if version != schema.SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version is {version}, this code reads {schema.SCHEMA_VERSION}; "
            "read it with the code that wrote it (git_sha in environment.json), or run the trial again"
        )
    if tree.get("trial_id") != trial_id:
        raise ValueError(f"{folder} holds trial {tree.get('trial_id')}, and the plan says {trial_id}")
    # DONE is written last: only after it must everything be there
    if (folder / schema.DONE_FILE).exists():
        _check_whole(folder, int((tree.get("config") or {}).get("steps") or 0))
    return tree


def _check_whole(folder: Path, steps: int) -> None:
    """Raise ValueError where parts of a finished run are not there, by the steps in the parts' names."""
    for table in EVERY_STEP:
        following = 0
        for first, last in part_ranges(folder / table):
            if first > following:
                break
            following = max(following, last + 1)
        if following < steps:
            raise ValueError(
                f"{folder} is finished, but its {table} lack step {following} (of {steps}): it was copied half; copy "
                "it again, or delete it"
            )
    tested = (read_json(folder / schema.DONE_FILE) or {}).get("scores")
    if tested and not any(first <= steps <= last for first, last in part_ranges(folder / "eval")):
        raise ValueError(
            f"{folder} is finished, but the part of eval with its last evaluation (step {steps}) is not there: it was "
            "copied half; copy it again, or delete it"
        )


def standing(folder: Path, now: float) -> dict[str, Any]:
    """State, step, steps and message of a run, and `finished`: when it ended, or was last heard of (NaN: unknown)."""
    status = read_json(folder / schema.STATUS_FILE) or {}
    row = {key: _typed(status, key, empty) for key, empty in (("step", 0), ("steps", 0), ("message", ""))}
    heard = _typed(status, "heartbeat", 0.0) or math.nan
    if (folder / schema.DONE_FILE).exists():
        sealed = read_json(folder / schema.DONE_FILE) or {}
        return {**row, "state": schema.FINISHED, "finished": float(_typed(sealed, "finished", 0.0) or heard)}
    state = _typed(status, "state", schema.INTERRUPTED) if status else MISSING
    silent = not now - heard <= STALE_SECONDS
    if state == schema.FINISHED or (state == schema.RUNNING and silent):
        state = schema.INTERRUPTED
    return {**row, "state": state, "finished": float(heard)}


def _typed(tree: Mapping[str, Any], key: str, empty: Any) -> Any:
    """A text or number as `empty` is, which stands for one that is absent or something else."""
    value = tree.get(key)
    kinds = str if isinstance(empty, str) else (int, float)
    return value if isinstance(value, kinds) and not isinstance(value, bool) else empty


def best_copy(trial_id: str, folders: Sequence[Path], now: float) -> tuple[Path, dict[str, Any]]:
    """The copy of a trial that counts, and its `standing`: a finished one, else the one that came furthest.

    Of equals the one with most tables: a copy for the repository lacks some.
    Raises ValueError for two finished copies with different rows.
    """
    stands = [(folder, standing(folder, now)) for folder in folders]
    finished = [folder for folder, stand in stands if stand["state"] == schema.FINISHED]
    for other in finished[1:]:
        unlike = _unlike(finished[0], other)
        if unlike:
            raise ValueError(
                f"duplicate keys: trial {trial_id} is finished in {finished[0]} and in {other}, with different "
                f"{unlike}; which of them counts is not ours to say: leave out or move away one of the two"
            )
    return max(
        stands,
        key=lambda pair: (
            pair[1]["state"] == schema.FINISHED,
            pair[1]["step"],
            sum((pair[0] / table).is_dir() for table in schema.TABLES),
            pair[1]["finished"] if pair[1]["finished"] == pair[1]["finished"] else 0.0,
        ),
    )


def same_as(folder: Path, results: Sequence[Path], sweep: str, trial_id: str) -> str:
    """Where a trial's rows are, inside its results folder, if not in the trial's own directory; else ""."""
    for root in sorted(results, key=_depth):  # one may lie in another, such as results/reference
        if folder.is_relative_to(root):
            inside = str(folder.relative_to(root))
            return "" if inside == str(Path(sweep) / trial_id) else inside
    return str(folder)


def first_ends(
    plans: Mapping[Path, Mapping[str, Any]], copies: Mapping[str, Sequence[Path]], now: float
) -> dict[Path, float]:
    """Results folder -> when the first of its trials ended, seconds since 1970; math.inf where none has.

    What had ended before the folder's own plan was launched, such as a trial of another sweep that is pointed to, does
    not count: that plan was made knowing it, too.
    """
    ends = dict.fromkeys(plans, math.inf)
    for folder in (folder for found in copies.values() for folder in found):
        stand = standing(folder, now)
        own = next((root for root in sorted(ends, key=_depth) if folder.is_relative_to(root)), None)
        if own is not None and stand["state"] == schema.FINISHED:
            launched = plans[own].get("first_launch") or 0.0
            ends[own] = min(ends[own], stand["finished"]) if stand["finished"] >= launched else ends[own]
    return ends


def _depth(root: Path) -> int:
    """For sorting, the innermost folder first."""
    return -len(root.parts)


def refuse_strays(
    results: Sequence[Path], plans: Mapping[Path, Mapping[str, Any]], copies: Mapping[str, Sequence[Path]]
) -> None:
    """Raise ValueError for a results folder without any of these trials, and for a run under another name."""
    for root in results:
        if root not in plans and not any(folder.is_relative_to(root) for found in copies.values() for folder in found):
            name = next(iter(plans.values()))["name"]
            raise ValueError(f"results: {root} holds nothing of {name}, nor a trial that it points to; leave it out")
    for root, plan in plans.items():
        for path in sorted((root / plan["name"]).glob(f"*/{schema.CONFIG_FILE}")):
            if path.parent.name in copies:
                continue
            holds = str((read_json(path) or {}).get("trial_id"))
            if holds in copies and not copies[holds]:
                right = path.parent.with_name(holds)
                raise ValueError(f"{path.parent} holds trial {holds}: it was renamed; mv {path.parent} {right}")


def _unlike(one: Path, other: Path) -> str:
    """In what two finished copies differ: "scores", or the rows of a table; "" where they are the same run."""
    scores = [json.dumps((read_json(folder / schema.DONE_FILE) or {}).get("scores"), sort_keys=True)
              for folder in (one, other)]  # fmt: skip
    if scores[0] != scores[1]:
        return "scores"
    for table in schema.TABLES:
        listed = [_listing(folder / table) for folder in (one, other)]
        # a copy for the repository lacks whole tables, and its parts are joined
        if listed[0] != listed[1] and all(listed) and _rows(one / table) != _rows(other / table):
            return f"rows of {table}"
    return ""


def _listing(folder: Path) -> list[tuple[str, int]]:
    return [(path.name, path.stat().st_size) for path in part_paths(folder)]


def _rows(folder: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    for path in part_paths(folder):
        try:
            count += pq.read_metadata(path).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise not_whole(path, error) from error
    return count


def not_whole(path: Path, error: Exception) -> ValueError:
    """What to raise for a part of a table that cannot be read."""
    return ValueError(f"{path} is no whole parquet file ({error}); copy it again, or delete its run")
