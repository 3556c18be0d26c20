"""Tables of runs, from their parquet parts. A run may be alive: its open part is replaced after every step."""

import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from saei import schema

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
FILLS = {("attacks", "image"): 0}
"""What stands for a column that older runs did not write, where null will not do: keys."""


def read_run_table(folder: Path, name: str, columns: Sequence[str], *, tries: int = 5) -> pa.Table | None:
    """All parts of one table of one run, or None where it has none.

    Columns that an older run of the same schema version did not write are null, or a value of FILLS. The run may be
    alive: a part that vanishes or overlaps while it is being replaced is looked at again. Raises ValueError for rows
    with equal keys, and for a part that is no whole parquet file.
    """
    keys = list(schema.KEYS[name])
    needed = list(dict.fromkeys([*keys, *columns]))
    for attempt in range(tries):
        if attempt:
            time.sleep(0.05 * attempt)
        try:
            parts = [_read_part(path, name, needed) for path in sorted((folder / name).glob("part-*.parquet"))]
        except FileNotFoundError:
            continue
        if not parts:
            return None
        table = pa.concat_tables(parts)
        if not table.select(keys).to_pandas().duplicated().any():
            return table.select(list(columns))
    raise ValueError(f"{folder / name}: rows with equal keys ({', '.join(keys)}): two parts cover the same steps")


def _read_part(path: Path, name: str, columns: Sequence[str]) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        present = file.read(columns=[column for column in columns if column in file.schema_arrow.names])
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no whole parquet file ({error}); copy it again, or delete its run") from error
    for column in columns:
        if column not in present.column_names:
            kind = TYPES[schema.TABLES[name][column]]
            fill = pa.scalar(FILLS.get((name, column)), kind)
            present = present.append_column(column, pa.repeat(fill, len(present)))
    return present.select(list(columns))
