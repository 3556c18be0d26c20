"""Parquet parts of a table: `part-<first step>-<last step>.parquet` holds the rows of those steps.

A run that is alive writes small parts, one per checkpoint interval, so that little is written again and again. Before
it is sealed, neighbours are joined: a file costs a reader more than the rows in it, and a cluster counts files. A part
whose steps another one covers is superseded: joining was interrupted, or a copy was taken before and after it.
"""

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from saei.atomic import write_atomically

PART = re.compile(r"part-(\d{6,})-(\d{6,})\.parquet")
JOINED_BYTES = 8 * 2**20
"""Parts are joined up to this size on disk, which bounds the memory that joining takes."""


def part_name(first: int, last: int) -> str:
    return f"part-{first:06d}-{last:06d}.parquet"


def part_ranges(folder: Path) -> list[tuple[int, int]]:
    """First and last step of each part that counts, in order; none where there is no such folder."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(_all_ranges(folder), key=lambda steps: (steps[0], -steps[1])):
        if not found or last > found[-1][1]:
            found.append((first, last))
    return found


def part_paths(folder: Path) -> list[Path]:
    """The parts that count, in the order of their steps; none where there is no such folder."""
    return [folder / part_name(*steps) for steps in part_ranges(folder)]


def superseded(folder: Path) -> list[Path]:
    """The parts that do not count."""
    return [folder / part_name(*steps) for steps in sorted(set(_all_ranges(folder)) - set(part_ranges(folder)))]


def _all_ranges(folder: Path) -> list[tuple[int, int]]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(int(match[1]), int(match[2])) for match in map(PART.fullmatch, names) if match]


def write_part(folder: Path, first: int, last: int, rows: pa.Table) -> None:
    """Write the part of these steps whole, in place of one of the same name."""
    sink = pa.BufferOutputStream()
    # checksums, so that a reader finds bytes that changed on a disk or on the way
    pq.write_table(rows, sink, compression="zstd", write_page_checksum=True)
    write_atomically(folder / part_name(first, last), sink.getvalue().to_pybytes())


def join_parts(folder: Path, limit: int = JOINED_BYTES) -> None:
    """Join neighbouring parts up to `limit` bytes each; at any moment the parts that count hold every row once."""
    group: list[tuple[int, int]] = []
    size = 0
    for steps in part_ranges(folder):
        own = (folder / part_name(*steps)).stat().st_size
        if group and size + own > limit:
            _join(folder, group)
            group, size = [], 0
        group.append(steps)
        size += own
    _join(folder, group)
    for path in superseded(folder):
        path.unlink()


def _join(folder: Path, group: list[tuple[int, int]]) -> None:
    if len(group) > 1:
        rows = pa.concat_tables(
            [pq.read_table(folder / part_name(*steps), page_checksum_verification=True) for steps in group]
        )
        write_part(folder, group[0][0], group[-1][1], rows)
