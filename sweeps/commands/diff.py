"""`run.py diff TRIAL TRIAL`: the settings in which two trials differ, and what they ran on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from saei import schema
from saei.cli import BadInput, checked_command_line
from saei.config import Config
from saei.differences import differences, shown
from sweeps.commands.find import find_trial
from sweeps.commands.recorded import Entry, read_tree, real_folder
from sweeps.commands.shown import console, print_grid, print_lines

PAPERS = ("git_sha", "git_dirty", "python", "platform", "host", "device", "device_name", "threads", "slurm_job_id")
"""What of environment.json is compared beside the packages and the uncommitted changes."""
_LONGEST = 48


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class DiffCommand:
    """The settings in which two trials differ, their problems and weights, and what they ran on. Reads only."""

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRIAL")]
    """Its id or the beginning of it, arm-s0, sweep/arm-s0, or the path of the run directory."""
    second: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRIAL")]
    """The other one."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder of all results."""


def main(arguments: Sequence[str]) -> int:
    command = checked_command_line(DiffCommand, arguments, prog="python sweeps/run.py diff")
    entries = [find_trial(text, command.results) for text in (command.first, command.second)]
    folders = [real_folder(entry.folder) for entry in entries]
    papers = [_config(entry, folder) for entry, folder in zip(entries, folders, strict=True)]
    names = _names(entries)
    print_lines(_opening(entries, folders, papers))
    rows = _rows_of_settings(papers) + _rows_of_material(*papers)
    if rows:
        print_lines([""])
        print_grid(["setting", *names], _fitting(rows))
    surroundings = [read_tree(folder / schema.ENVIRONMENT_FILE) for folder in folders]
    print_lines(["", *_lines_of_code(surroundings)])
    rows = _rows_of_environment(*surroundings)
    if rows:
        print_grid(["ran on", *names], _fitting(rows))
    return 0


def _config(entry: Entry, folder: Path) -> dict[str, Any]:
    """config.json of a run that has begun. Raises BadInput for one that has not."""
    tree = read_tree(folder / schema.CONFIG_FILE)
    if not isinstance(tree.get("config"), dict):
        raise BadInput(
            f"{entry.sweep}/{entry.name} ({entry.trial_id}) has no readable {schema.CONFIG_FILE} in {folder}: a trial "
            "can be compared once it has begun"
        )
    return tree


def _names(entries: Sequence[Entry]) -> list[str]:
    """Heads of the two columns: as short as tells them apart."""
    plain = [entry.name for entry in entries]
    if plain[0] == plain[1]:
        plain = [f"{entry.sweep}/{entry.name}" for entry in entries]
    return plain if plain[0] != plain[1] else ["first", "second"]


def _opening(entries: Sequence[Entry], folders: Sequence[Path], papers: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{entry.sweep}/{entry.name} ({entry.trial_id})" + (f", run in {folder.parent.name}" if folder.parent.name
             != entry.sweep else "") for entry, folder in zip(entries, folders, strict=True)]  # fmt: skip
    if folders[0].resolve() == folders[1].resolve():
        return [*lines, "One and the same run."]
    ids = [str(paper.get("trial_id") or entry.trial_id) for paper, entry in zip(papers, entries, strict=True)]
    seeds = [paper["config"].get("seed") for paper in papers]
    if ids[0] == ids[1]:
        return [*lines, "Equal settings and equal seeds: two runs of one trial."]
    if ids[0].partition("-s")[0] == ids[1].partition("-s")[0]:
        return [*lines, f"Equal settings, seeds {seeds[0]} and {seeds[1]}."]
    return [*lines, "Different settings" + (f", both with seed {seeds[0]}." if seeds[0] == seeds[1] else
            f", seeds {seeds[0]} and {seeds[1]}.")]  # fmt: skip


def _rows_of_settings(papers: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row per differing setting; those that change no number of these runs come last and say so.

    `out` always differs and is left out. Trials of one hash differ in idle settings only, and in the seed.
    """
    found = [pair for pair in differences(papers[0]["config"], papers[1]["config"]) if pair.name != "out"]
    idle = _not_hashed()
    if len({str(paper.get("trial_id")).partition("-s")[0] for paper in papers}) == 1:
        idle |= {pair.name for pair in found if pair.name != "seed"}
    found.sort(key=lambda pair: pair.name in idle)
    return [[pair.name + (" (changes no number)" if pair.name in idle else ""), shown(pair.first), shown(pair.second)]
            for pair in found]  # fmt: skip


def _not_hashed() -> set[str]:
    """Dotted names of the settings that cannot change a number."""
    names = set()
    for outer in dataclasses.fields(Config):
        if not outer.metadata.get("hashed", True):
            names.add(outer.name)
        elif dataclasses.is_dataclass(outer.type):
            inner_fields = dataclasses.fields(outer.type)
            names |= {f"{outer.name}.{inner.name}" for inner in inner_fields if not inner.metadata.get("hashed", True)}
    return names


def _rows_of_material(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[str]]:
    """Fingerprints of problems and weights, and the version of the tables."""
    labels = {"data": "problems (fingerprint)", "weights": "initial weights", "schema": "version of the tables"}
    identities = [tree.get("identity") for tree in (first, second)]
    ours = [tree if isinstance(tree, dict) else {} for tree in identities]
    return [[label, str(ours[0].get(name, "?"))[:16], str(ours[1].get(name, "?"))[:16]]
            for name, label in labels.items() if ours[0].get(name) != ours[1].get(name)]  # fmt: skip


def _lines_of_code(surroundings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether both ran one code, in a sentence."""
    shas = [str(tree.get("git_sha") or "") for tree in surroundings]
    if not all(shas):
        return ["Which code ran is not recorded for both."]
    if shas[0] != shas[1]:
        return [
            f"Different commits: {shas[0][:12]} and {shas[1][:12]}; git diff {shas[0][:12]} {shas[1][:12]} shows how."
        ]
    changes = [(tree.get("git_diff"), tree.get("git_untracked")) for tree in surroundings]
    if changes[0] != changes[1]:
        return [
            f"One commit ({shas[0][:12]}) with different uncommitted changes: git_diff in {schema.ENVIRONMENT_FILE}."
        ]
    dirty = " with the same uncommitted changes" if surroundings[0].get("git_dirty") else ""
    return [f"Equal code: commit {shas[0][:12]}{dirty}."]


def _rows_of_environment(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[str]]:
    """Machine, device and versions where they differ."""
    wanted = [{name: tree.get(name) for name in PAPERS if name not in ("git_sha", "git_dirty")} | _packages(tree)
              for tree in (first, second)]  # fmt: skip
    return [[pair.name, shown(pair.first), shown(pair.second)] for pair in differences(*wanted)]


def _packages(tree: Mapping[str, Any]) -> dict[str, Any]:
    packages = tree.get("packages")
    return dict(packages) if isinstance(packages, dict) else {}


def _fitting(rows: list[list[str]]) -> list[list[str]]:
    """Long values cut where a terminal shows them; whole in a pipe."""
    if not console().is_terminal:
        return rows
    return [[cell if len(cell) <= _LONGEST else cell[: _LONGEST - 4] + " ..." for cell in row] for row in rows]
