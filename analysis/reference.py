"""Keep the tables of a finished sweep in the repository: small enough to commit, complete enough to report on again.

    python -m analysis.reference collapse

Each table becomes one part per trial. Left out: rollouts, pictures, checkpoints, weights, what the model wrote (the
`text` column is emptied), and where it ran (host, paths, uncommitted changes). The result is read by
`python -m analysis.report collapse --results results/reference`.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from saei import schema
from saei.parts import part_paths, write_part

KEPT_TABLES = ("steps", "views", "attacks", "eval")
KEPT_FILES = (
    schema.CONFIG_FILE,
    schema.ENVIRONMENT_FILE,
    schema.STATUS_FILE,
    schema.DONE_FILE,
    schema.ALARMS_FILE,
    schema.CURRICULUM_FILE,
)
PLACES = ("command", "host", "pid", "git_diff", "git_untracked", "earlier", "out")
"""Entries of those files that say where a trial ran and not what it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceArguments:
    sweep: tyro.conf.Positional[str]
    """Name of a sweep in the results folder."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Results folder."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results/reference")
    """Folder of committed results."""


def keep(sweep: str, results: Path, out: Path) -> Path:
    """Copy the sweep's plan and each trial's tables into `out/<sweep>`, replacing what is there. Returns that folder.

    A trial that is the same as one of another sweep stays a pointer to it: keep that sweep, too. Raises
    ValueError where there is no such sweep.
    """
    source, target = results / sweep, out / sweep
    if not (source / schema.PLAN_FILE).is_file():
        raise ValueError(f"{source} holds no {schema.PLAN_FILE}: run the sweep first, or name another --results")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(source / schema.PLAN_FILE, target)
    marks = (schema.CONFIG_FILE, schema.SAME_AS_FILE)
    for trial in sorted({path.parent for mark in marks for path in source.glob(f"*/{mark}")}):
        (target / trial.name).mkdir()
        for name in KEPT_FILES:
            if (trial / name).exists():
                tree = _without_places(json.loads((trial / name).read_text()))
                (target / trial.name / name).write_text(json.dumps(tree, indent=1) + "\n")
        if (trial / schema.SAME_AS_FILE).exists():
            shutil.copy(trial / schema.SAME_AS_FILE, target / trial.name)
        for table in KEPT_TABLES:
            parts = part_paths(trial / table)
            if parts:
                _write_one_part(parts, target / trial.name / table)
    return target


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items() if key not in PLACES}
    return value


def _write_one_part(parts: list[Path], folder: Path) -> None:
    rows = pa.concat_tables([pq.read_table(part) for part in parts])
    if "text" in rows.column_names:
        empty = pa.array([""] * len(rows), pa.string())
        rows = rows.set_column(rows.column_names.index("text"), "text", empty)
    steps = rows["step"].to_numpy()
    folder.mkdir()
    write_part(folder, int(steps.min()), int(steps.max()), rows)


def main() -> int:
    arguments = tyro.cli(ReferenceArguments, prog="python -m analysis.reference")
    try:
        print(keep(arguments.sweep, arguments.results, arguments.out))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
