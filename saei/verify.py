"""Does a finished trial come out again? Runs it once more, elsewhere, and compares every table row by row.

    python -m saei.verify results/tsec_ratio/<trial>          (or: make verify-trial T=results/tsec_ratio/<trial>)

Exit codes: 0 equal, 1 different, 2 bad input. Not compared: columns that a clock fills (NOT_COMPARED), and what
`config.json` and `environment.json` say of place and machine.
"""

import sys

if __name__ == "__main__":
    from saei.loading import leave_quietly

    leave_quietly()

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saei import schema
from saei.again import Recorded, changes_since, read_recorded, refuse_changes
from saei.cli import BadInput, checked_command_line, run_main
from saei.parts import part_paths
from saei.train import train

NOT_COMPARED: dict[str, str] = {
    column: "seconds on a clock"
    for columns in schema.TABLES.values()
    for column in columns
    if column.startswith("time_")
}
"""Column -> why it cannot be equal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyConfig:
    """Run a finished trial once more and compare its tables row by row."""

    trial: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRIAL_DIR")]
    """Its run directory, results/SWEEP/TRIAL."""
    keep: str = ""
    """Keep the second run in this folder; "": it is deleted, unless it is different."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one table: `rows` of the recorded run, and the first difference in words, "" where all is equal."""

    table: str
    rows: int
    difference: str


def main(arguments: Sequence[str] | None = None) -> int:
    settings = checked_command_line(VerifyConfig, arguments, prog="python -m saei.verify")
    trial = read_recorded(Path(settings.trial))
    if not (trial.folder / schema.DONE_FILE).exists():
        raise BadInput(f"{trial.folder} is not finished ({_where(trial.folder)}): finish it first, then compare")
    if settings.keep and Path(settings.keep).resolve() == trial.folder.resolve():
        raise BadInput("--keep is the folder of the trial itself; name another, or leave it out")
    refuse_changes(trial)
    console = Console(highlight=False, soft_wrap=True)
    for line in changes_since(trial):
        console.print(line, markup=False)
    with _place(settings.keep) as place:
        train(replace(trial.config, out=str(place), record=replace(trial.config.record, trackers=())))
        found = compare_runs(trial.folder, place)
        _show(console, trial, found)
        if all(not one.difference for one in found):
            return 0
        if not settings.keep:
            place = _set_aside(place)
        console.print(f"the second run is kept in {place}", markup=False)
        return 1


def compare_runs(first: Path, second: Path) -> list[Comparison]:
    """All tables, the final scores, the pictures and the weights of two finished runs."""
    tables = [compare_table(first, second, table) for table in schema.TABLES]
    scores = [json.loads((run / schema.DONE_FILE).read_text())["scores"] for run in (first, second)]
    return [
        *tables,
        _compare_values("final scores", *scores),
        _compare_values("pictures", *(_digests(run / schema.IMAGES_FOLDER, "*.png") for run in (first, second))),
        _compare_values("weights", *(_digests(run / schema.MODEL_FOLDER, "*.safetensors") for run in (first, second))),
    ]


def compare_table(first: Path, second: Path, table: str) -> Comparison:
    """Row by row by the table's key. Numbers must be equal to the last bit; NaN equals NaN."""
    ours, theirs = read_rows(first, table), read_rows(second, table)
    for key in sorted(ours.keys() | theirs.keys(), key=repr):
        name = ", ".join(f"{column} {value}" for column, value in zip(schema.KEYS[table], key, strict=True))
        if key not in theirs or key not in ours:
            return Comparison(table, len(ours), f"{name}: only in the {'first' if key in ours else 'second'} run")
        for column, value in ours[key].items():
            if not _same(value, theirs[key][column]):
                return Comparison(table, len(ours), f"{name}: {column} {_said(value)} | {_said(theirs[key][column])}")
    return Comparison(table, len(ours), "")


def read_rows(run: Path, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a table by their key, without the columns that cannot be equal, in the order of the key."""
    rows = [row for part in part_paths(run / table) for row in pq.read_table(part).to_pylist()]
    by_key = {
        tuple(row[column] for column in schema.KEYS[table]): {
            column: value for column, value in row.items() if column not in NOT_COMPARED
        }
        for row in rows
    }
    if len(by_key) < len(rows):
        raise BadInput(f"{run / table} has {len(rows) - len(by_key)} rows twice: it was written by two processes")
    return by_key


def _compare_values(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Comparison:
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in theirs or key not in ours:
            return Comparison(name, len(ours), f"{key}: only in the {'first' if key in ours else 'second'} run")
        if not _same(ours[key], theirs[key]):
            return Comparison(name, len(ours), f"{key}: {_said(ours[key])} | {_said(theirs[key])}")
    return Comparison(name, len(ours), "")


def _same(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or (type(one) is type(other) and one == other)


def _said(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(folder.glob(pattern))}


def _show(console: Console, trial: Recorded, found: Sequence[Comparison]) -> None:
    table = Table("table", "rows", "equal", "first difference: recorded | again", box=box.SIMPLE)
    table.columns[1].justify = "right"
    for one in found:
        table.add_row(one.table, str(one.rows), "no" if one.difference else "yes", Text(one.difference))
    Console(highlight=False).print(table)
    different = [one.table for one in found if one.difference]
    verdict = f"differs in {', '.join(different)}" if different else "came out again, equal in every row"
    console.print(f"{trial.folder} {verdict}", markup=False)
    reasons = {reason: [c for c, why in NOT_COMPARED.items() if why == reason] for reason in NOT_COMPARED.values()}
    for reason, columns in reasons.items():
        console.print(f"not compared ({reason}): {', '.join(columns)}", markup=False)


def _where(folder: Path) -> str:
    try:
        status = json.loads((folder / schema.STATUS_FILE).read_text())
        return f"{status['state']}, step {status['step']} of {status['steps']}"
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return "it never began"


@contextmanager
def _place(keep: str) -> Iterator[Path]:
    """Where the second run is written."""
    if keep:
        if Path(keep).exists() and any(Path(keep).iterdir()):
            raise BadInput(f"--keep {keep} is not empty; name a new folder")
        yield Path(keep)
        return
    with tempfile.TemporaryDirectory(prefix="saei-verify-") as folder:
        yield Path(folder) / "run"


def _set_aside(run: Path) -> Path:
    """Move a run out of the folder that will be deleted."""
    kept = Path(tempfile.mkdtemp(prefix="saei-differs-")) / "run"
    shutil.move(run, kept)
    return kept


if __name__ == "__main__":
    sys.exit(run_main(main))
