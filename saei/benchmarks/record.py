"""What an evaluation leaves behind for each benchmark: `identity.json`, and `items/part-*.parquet`, a row a completion.

A part covers a range of items and is written whole, so a kill at any moment loses the block in work and nothing else.
A folder belongs to one identity (settings, weights, items, scoring): anything else is refused, never mixed in. A judge
may be added later: outputs are kept, so what is undecided is decided without asking the policy again.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saei.atomic import try_to_remove, write_json
from saei.benchmarks.item import UNDECIDED
from saei.cli import BadInput
from saei.differences import shown_differences
from saei.parts import join_parts, part_paths, part_ranges, write_part
from saei.recorder import run_lock

IDENTITY_FILE = "identity.json"
ITEMS_FOLDER = "items"
COLUMNS = pa.schema(
    [
        ("benchmark", pa.string()),
        ("item", pa.int64()),  # number of the item, from 0
        ("item_id", pa.string()),
        ("decoding", pa.string()),  # "greedy" or "sampled" (temperature 1)
        ("index", pa.int64()),
        ("prompt", pa.string()),
        ("output", pa.string()),
        ("parse", pa.string()),  # the answer that was graded
        ("gold", pa.string()),
        ("right", pa.bool_()),
        ("decided_by", pa.string()),  # a rule's name, "judge", or "undecided" (counted wrong)
        ("status", pa.string()),  # "ok", or what kept a grader from its work
        ("judge_reply", pa.string()),
        ("figure", pa.string()),  # hash of the 8-bit pictures; empty for text alone
        ("facts", pa.string()),  # JSON: what the scores are broken down by
        ("tokens", pa.int64()),
        ("finished", pa.bool_()),
        ("entropy", pa.float64()),  # mean over the completion's tokens, nats, temperature 1
    ]
)


NOT_ASKED = "not asked"
"""Status of an item that the policy could not be asked; behind a colon, why."""


def is_open(row: Mapping[str, Any]) -> bool:
    """Whether rules could not decide a row and no judge has been asked about it."""
    return row["decided_by"] == UNDECIDED and not row["judge_reply"] and not row["status"].startswith(NOT_ASKED)


class Kept:
    """The folder of one benchmark; held by one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items = folder / ITEMS_FOLDER

    @contextlib.contextmanager
    def held(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """Inside, the folder is this process's. Raises BadInput where it holds an evaluation of another identity."""
        with run_lock(self.folder):
            for leftover in [*self.folder.glob(".*.tmp"), *self.items.glob(".*.tmp")]:
                try_to_remove(leftover)
            file = self.folder / IDENTITY_FILE
            if file.is_file():
                self._check(json.loads(file.read_text(encoding="utf-8")), identity)
            write_json(file, dict(identity))
            self.items.mkdir(exist_ok=True)
            yield

    def _check(self, known: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        known = {**known, "judge": known["judge"] or identity["judge"]}
        found = shown_differences(known, json.loads(json.dumps(identity)))
        if found:
            raise BadInput(
                f"{self.folder} holds an evaluation that differs in {found}; name another folder with --out, or remove "
                "this one"
            )

    def has(self, first: int, last: int) -> bool:
        """Whether the items of this range are all kept."""
        return any(a <= first and last <= b for a, b in part_ranges(self.items))

    def add(self, first: int, last: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of a range of items."""
        write_part(self.items, first, last, pa.Table.from_pylist(list(rows), schema=COLUMNS))

    def undecided(self) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
        """The parts with rows that no judge was asked about: first and last item, all rows."""
        for (first, last), path in zip(part_ranges(self.items), part_paths(self.items), strict=True):
            rows = pq.read_table(path, page_checksum_verification=True).to_pylist()
            if any(is_open(row) for row in rows):
                yield first, last, rows

    def finish(self) -> list[dict[str, Any]]:
        """Join the parts; all rows, in the order of the items."""
        join_parts(self.items)
        tables = [pq.read_table(path, page_checksum_verification=True) for path in part_paths(self.items)]
        return pa.concat_tables(tables).to_pylist()
