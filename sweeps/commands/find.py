"""Which trial is meant? An id, the beginning of one, `arm-s0`, `sweep/arm-s0`, or the path of a run directory."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from saei import schema
from saei.cli import BadInput
from sweeps.commands.recorded import Entry, all_entries, read_sweep, read_tree, sweep_folders, unknown_sweep
from sweeps.slurm.tickets import ticket_path

_LISTED = 10


def find_trial(text: str, results: Path) -> Entry:
    """The one trial that `text` names. Raises BadInput where there is none, or more than one."""
    at_path = _at_path(Path(text))
    if at_path is not None:
        return at_path
    names = sweep_folders(results)
    sweep, _, word = text.rstrip("/").removeprefix(f"{str(results).rstrip('/')}/").rpartition("/")
    if sweep and sweep not in names:
        raise unknown_sweep(sweep, names, results)
    entries = all_entries(results, [sweep] if sweep else names)
    found = _of_one_plan([entry for entry in entries if word in (entry.trial_id, entry.name)], results)
    if not found:
        found = _of_one_plan([entry for entry in entries if word == entry.arm], results)
    if not found and len(word) >= 3:
        found = _one_a_run([entry for entry in entries if entry.trial_id.startswith(word)])
    if len(found) == 1:
        return found[0]
    if found:
        listed = "".join(f"\n  {entry.sweep}/{entry.name}  {entry.trial_id}" for entry in found[:_LISTED])
        more = f"\n  and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise BadInput(f"{text!r} may be any of {len(found)} trials; name one of them:{listed}{more}")
    raise BadInput(_nothing(text, word, entries, results))


def _at_path(path: Path) -> Entry | None:
    """The run directory at `path`, of a sweep or of a run by hand."""
    papers = (schema.CONFIG_FILE, schema.STATUS_FILE, schema.SAME_AS_FILE)
    if not path.is_dir() or not any((path / name).is_file() for name in papers):
        return None
    path = path.resolve()
    sweep = read_sweep(path.parent.parent, path.parent.name)
    known = next((entry for entry in (*sweep.entries, *sweep.earlier) if entry.trial_id == path.name), None)
    if known is not None:
        return known
    tree = read_tree(path / schema.CONFIG_FILE)
    config = tree.get("config")
    seed = config.get("seed") if isinstance(config, dict) else None
    return Entry(
        trial_id=str(tree.get("trial_id") or path.name),
        sweep=path.parent.name,
        arm=path.name.partition("-s")[0],
        seed=seed if isinstance(seed, int) else 0,
        folder=path,
    )


def _of_one_plan(entries: Sequence[Entry], results: Path) -> list[Entry]:
    """Launches with other settings have trials of one name: the newest that was started or submitted, or the newest."""
    chosen: dict[tuple[str, str], Entry] = {}
    for entry in sorted(_one_a_run(entries), key=lambda entry: entry.launch):
        before = chosen.get((entry.sweep, entry.name))
        if before is None or (_is_begun(entry, results) and not _is_begun(before, results)):
            chosen[entry.sweep, entry.name] = entry
    return list(chosen.values())


def _is_begun(entry: Entry, results: Path) -> bool:
    return entry.folder.is_dir() or ticket_path(results, entry.trial_id).exists()


def _one_a_run(entries: Sequence[Entry]) -> list[Entry]:
    """A run that several sweeps share once: in the sweep whose folder holds it."""
    chosen: dict[str, Entry] = {}
    for entry in entries:
        before = chosen.get(entry.trial_id)
        if before is None or (_is_own(entry.folder) and not _is_own(before.folder)):
            chosen[entry.trial_id] = entry
    return list(chosen.values())


def _is_own(folder: Path) -> bool:
    return folder.is_dir() and not (folder / schema.SAME_AS_FILE).exists()


def _nothing(text: str, word: str, entries: Sequence[Entry], results: Path) -> str:
    names = sorted({entry.name for entry in entries} | {entry.trial_id for entry in entries})
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    cure = f"did you mean {' or '.join(near)}?" if near else "python sweeps/run.py status NAME lists those of a sweep"
    return f"there is no trial {text!r} in {results}: {cure}"
