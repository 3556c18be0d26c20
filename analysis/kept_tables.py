"""Tables of finished runs, joined and kept beside the report, so that many runs of many small parts load in seconds.

A run that has finished changes no more, and each of its tables is dozens of files. `<sweep>/report/tables/NAME.arrow`
holds the rows of such runs, a record batch each, with the names, sizes and times of the parts that they were read from.
What does not match the parts that are there now is read anew; without this file nothing is different but the time.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

LAYOUT = 1
"""Part of what must match: a change of what is kept, or of its meaning, changes it."""
WORTH_PARTS = 1000
"""Kept once so many parts had to be read: about a second's work."""
_RUNS = b"runs"


def source_of(trial_id: str, parts: list[Any], columns: Mapping[str, str]) -> str:
    """What identifies rows: the trial, its parts as they are now, and the columns that are read from them."""
    text = json.dumps([LAYOUT, trial_id, parts, dict(columns)])
    return hashlib.sha256(text.encode()).hexdigest()


def kept_rows(path: Path, columns: Sequence[str]) -> dict[str, pa.RecordBatch]:
    """`columns` of the rows that `keep` wrote, by their source; nothing where there is nothing that can be read."""
    with contextlib.suppress(OSError, pa.ArrowInvalid, ValueError, KeyError, TypeError):
        mapped = pa.memory_map(str(path))
        described = pa.ipc.read_schema(mapped)
        sources = json.loads((described.metadata or {})[_RUNS])
        mapped.seek(0)
        wanted = [described.get_field_index(column) for column in columns]
        if min(wanted, default=0) >= 0:
            options = pa.ipc.IpcReadOptions(included_fields=wanted)
            batches = [batch.select(list(columns)) for batch in pa.ipc.open_stream(mapped, options=options)]
            return dict(zip(sources, batches, strict=True))
    return {}


class Keeper:
    """Writes the rows of these sources, given one by one in this order, and replaces the file once all are there.

    A folder that cannot be written to, or rows that do not come, leave the file as it was.
    """

    def __init__(self, path: Path, sources: Sequence[str]) -> None:
        self.path, self.sources = path, list(sources)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None
        self._written, self._failed = 0, False

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
                if kind is None and not self._failed and self._written == len(self.sources):
                    os.replace(self._temporary, self.path)
            self._temporary.unlink(missing_ok=True)

    def add(self, rows: pa.Table) -> None:
        """The next source's rows."""
        if self._failed:
            return
        try:
            if self._writer is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                described = rows.schema.with_metadata({_RUNS: json.dumps(self.sources).encode()})
                # a stream, not a file: each run brings dictionaries of its own
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_stream(str(self._temporary), described, options=options)
            arrays = [_whole(column) for column in rows.columns]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, names=rows.column_names))
            self._written += 1
        except (OSError, pa.ArrowInvalid):
            self._failed = True


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.unify_dictionaries().combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)
