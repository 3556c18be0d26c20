"""Tables of one run, from their parquet parts. The run may be alive: its open part is replaced after every step."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.trials import not_whole
from saei import schema
from saei.parts import part_paths

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
FILLS = {("attacks", "image"): 0}
"""What stands for a column that older runs did not write, where null will not do: keys."""
MOST_CODES = 2**62


def read_run_table(
    folder: Path,
    name: str,
    columns: Sequence[str],
    *,
    encoded: Sequence[str] = (),
    newest: bool = False,
    tries: int = 5,
) -> pa.Table | None:
    """All parts of one table of one run, in the order of their steps, or None where it has none.

    Columns that an older run of the same schema version did not write are null, or a value of FILLS. Texts of the
    columns `encoded` come as dictionaries. `newest`: the newest part alone. The run may be alive: a part that vanishes
    or overlaps while it is being replaced is looked at again. Raises ValueError for rows with equal keys, and for a
    part that is no whole parquet file.
    """
    keys, gone = list(schema.KEYS[name]), None
    needed = list(dict.fromkeys([*keys, *columns]))
    for attempt in range(tries):
        if attempt:
            time.sleep(0.05 * attempt)
        try:
            paths = part_paths(folder / name)
            parts = [_read_part(path, name, needed, encoded) for path in (paths[-1:] if newest else paths)]
        except FileNotFoundError as error:
            gone = error
            continue
        gone = None
        if not parts:
            return None
        # thousands of runs of thousands of small chunks take more memory than their rows
        table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
        codes = key_codes(table, keys)
        if (np.diff(codes) > 0).all() or len(np.unique(codes)) == len(codes):
            return table.select(list(columns))
    if gone is not None:
        raise ValueError(f"{gone.filename} is not there: a link to nothing, or a copy under way; copy it again")
    raise ValueError(f"{folder / name}: rows with equal keys ({', '.join(keys)}): two parts cover the same steps")


def fingerprint(folder: Path) -> list[list[str | int]]:
    """Name, size and time of change (nanoseconds) of each part of a table: what changes when a part does.

    Raises FileNotFoundError for a part that is a link to nothing.
    """
    facts = ((path.name, path.stat()) for path in part_paths(folder))
    return [[name, fact.st_size, fact.st_mtime_ns] for name, fact in facts]


def _read_part(path: Path, name: str, columns: Sequence[str], encoded: Sequence[str]) -> pa.Table:
    data = path.read_bytes()  # parts are small: one read is faster than many seeks
    try:
        facts = pq.read_metadata(pa.BufferReader(data))
        there = set(facts.schema.names)
        known = [column for column in encoded if column in there]
        file = pq.ParquetFile(
            pa.BufferReader(data), metadata=facts, read_dictionary=known, page_checksum_verification=True
        )
        present = file.read(columns=[column for column in columns if column in there], use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise not_whole(path, error) from error
    for column in columns:
        if column not in there:
            kind = TYPES[schema.TABLES[name][column]]
            fill = pa.repeat(pa.scalar(FILLS.get((name, column)), kind), len(present))
            present = present.append_column(column, fill.dictionary_encode() if column in encoded else fill)
    return present.select(list(columns))


def key_codes(table: pa.Table, keys: Sequence[str]) -> np.ndarray:
    """One int64 per row, equal for rows with equal keys, in the order of the first key.

    Raises ValueError where the keys have too many combinations for 62 bits.
    """
    codes, most = np.zeros(len(table), np.int64), 1
    for key in keys:
        own, count = _codes(table.column(key))
        most *= count
        if most > MOST_CODES:
            raise ValueError(f"a run with more than 2^62 combinations of {', '.join(keys)}: its keys cannot be checked")
        codes = codes * count + own
    return codes


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """Values as whole numbers from 0, and how many there may be; null is a value of its own."""
    if len(column) == 0:
        return np.zeros(0, np.int64), 1
    if pa.types.is_integer(column.type):
        filled = pc.fill_null(column, -1).to_numpy()
        low, high = int(filled.min()), int(filled.max())
        return filled - low, high - low + 1
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = encoded.unify_dictionaries().combine_chunks()
    whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    return pc.fill_null(whole.indices, -1).to_numpy().astype(np.int64) + 1, len(whole.dictionary) + 1
