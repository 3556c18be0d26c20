"""Keep the tables of a finished sweep in the repository: small enough to commit, complete enough to report on again.

    python -m analysis.reference collapse

Each table becomes one part per trial. Left out: rollouts, pictures, checkpoints, weights, and what the model wrote
(the `text` column is emptied). `python -m analysis.report collapse --results results/reference` reads the result.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from saei import schema

KEPT_TABLES = ("steps", "views", "attacks", "eval")
KEPT_FILES = (schema.CONFIG_FILE, schema.ENVIRONMENT_FILE, schema.STATUS_FILE, schema.DONE_FILE, schema.SAME_AS_FILE)


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

    Raises ValueError where there is no such sweep.
    """
    source, target = results / sweep, out / sweep
    if not (source / schema.SWEEP_FILE).is_file():
        raise ValueError(f"{source} holds no {schema.SWEEP_FILE}: run the sweep first, or name another --results")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(source / schema.SWEEP_FILE, target)
    for trial in sorted(path.parent for path in source.glob(f"*/{schema.CONFIG_FILE}")):
        (target / trial.name).mkdir()
        for name in KEPT_FILES:
            if (trial / name).exists():
                shutil.copy(trial / name, target / trial.name)
        for table in KEPT_TABLES:
            parts = sorted((trial / table).glob("part-*.parquet"))
            if parts:
                _write_one_part(parts, target / trial.name / table)
    return target


def _write_one_part(parts: list[Path], folder: Path) -> None:
    rows = pa.concat_tables([pq.read_table(part) for part in parts])
    if "text" in rows.column_names:
        empty = pa.array([""] * len(rows), pa.string())
        rows = rows.set_column(rows.column_names.index("text"), "text", empty)
    steps = rows["step"].to_numpy()
    folder.mkdir()
    pq.write_table(rows, folder / f"part-{steps.min():06d}-{steps.max():06d}.parquet", compression="zstd")


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
