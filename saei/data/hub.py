"""The `hub` problem source: data sets of the Hugging Face hub through `datasets`, or local copies of their columns.

`catalog.toml` says what the columns of the known sets are; `data.columns` says it of any other. A split is opened
once: its texts are read, its pictures looked at (`survey`), and what cannot be a problem is left out and counted;
pictures are decoded again when a problem is asked for, so a set of any size costs little memory.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from saei.config import DataConfig
from saei.data.catalog import CatalogEntry, entry_of
from saei.data.pictures import decode
from saei.data.problem_set import ProblemSet
from saei.data.rows import NO_IMAGE, PicturesOf, Row, markers_fit, picture_files, pictures_of, read_rows
from saei.data.split_facts import Skipped, SplitFacts
from saei.data.survey import PictureFacts, survey
from saei.data.tables import Table, file_hash, hub_commit, is_local, open_table, slice_bounds, split_name, split_stamp
from saei.types import Problem

log = logging.getLogger(__name__)

READING = 1
"""Version of how rows become problems; part of the fingerprint."""
SHARED_FIGURE = "figure also in the test split"
DUMMY_SIDE = 224  # of MM-Eureka's white picture for rows without one


@dataclass(frozen=True, kw_only=True)
class OpenSplit:
    """A split that was opened: its usable rows, what their pictures are, and what was left out."""

    table: Table
    entry: CatalogEntry
    pictures_of: PicturesOf
    rows: Sequence[Row]
    pictures: Sequence[tuple[PictureFacts, ...]]
    skipped: Sequence[Skipped]


def open_split(data: DataConfig, split: str) -> OpenSplit:
    """The rows of `split` that are problems. Raises ValueError, in a sentence, for a set that cannot be used."""
    # by what was asked for and what lies there, so that a file which changed is read again
    return _open_split(data, split, content_stamp(data, split))


@lru_cache(maxsize=16)
def _open_split(data: DataConfig, split: str, stamp: str) -> OpenSplit:
    entry = entry_of(data)
    table = open_table(data, entry, split)
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for read in read_rows(table, entry, data, split):
        rows.append(read) if isinstance(read, Row) else skipped.append(read)
    of_row = pictures_of(table, entry)
    looked_at = [entry.columns.get("image"), entry.columns.get("messages"), [row.number for row in rows]]
    seen = survey(lambda row: of_row(row.number), rows, hashlib.sha256(f"{stamp}{looked_at}".encode()).hexdigest())
    kept: list[tuple[Row, tuple[PictureFacts, ...]]] = []
    for row, pictures in zip(rows, seen, strict=True):
        reason = _unusable(row, pictures, data.text_only)
        if reason is None:
            kept.append((row, pictures))
        else:
            skipped.append(reason)
    whole = OpenSplit(
        table=table,
        entry=entry,
        pictures_of=of_row,
        rows=[row for row, _ in kept],
        pictures=[pictures for _, pictures in kept],
        skipped=skipped,
    )
    if not whole.rows:
        counts = Counter(one.reason for one in skipped)
        raise ValueError(
            f"{table.where}: none of its {len(table.rows)} rows is a problem "
            f"({', '.join(f'{reason}: {count}' for reason, count in counts.items())})"
            + (f"; {entry.note}" if entry.note else "")
        )
    _tell(whole)
    return whole


def _unusable(row: Row, pictures: tuple[PictureFacts, ...], text_only: str) -> Skipped | None:
    name = row.problem.problem_id
    bad = next((picture for picture in pictures if picture.reason), None)
    if bad is not None:
        return Skipped(name, bad.reason, bad.details)
    if not pictures and text_only == "skip":
        return Skipped(name, NO_IMAGE)
    if pictures and not markers_fit(row.problem.question, len(pictures)):
        return Skipped(name, "markers do not fit", f"{len(pictures)} pictures and another number of <image>")
    return None


def _tell(split: OpenSplit) -> None:
    if split.skipped:
        counts = Counter(one.reason for one in split.skipped)
        first = split.skipped[0]
        log.warning(
            "%s: %d of %d rows are left out (%s), first %s %s", split.table.where, len(split.skipped),
            len(split.table.rows), ", ".join(f"{reason}: {n}" for reason, n in counts.items()), first.row_id,
            first.details,
        )  # fmt: skip


def load(data: DataConfig, split: str) -> ProblemSet:
    """The problems of `split`, pictures decoded when asked for. Raises ValueError as `open_split` does, and for
    training, validation and test splits that are slices with rows in common.
    """
    refuse_common_rows(data)
    found = used_split(data, split)

    def bare(index: int) -> Problem:
        return found.rows[index].problem

    def problem_at(index: int) -> Problem:
        row = found.rows[index]
        images = tuple(decode(encoded) for encoded in found.pictures_of(row.number))
        if not images and data.text_only == "white":
            images = (np.full((DUMMY_SIDE, DUMMY_SIDE, 3), 255, np.uint8),)
        return replace(row.problem, images=images)

    return ProblemSet(split=split, size=len(found.rows), problem_at=problem_at, bare_at=bare)


def used_split(data: DataConfig, split: str) -> OpenSplit:
    """`open_split`, for training without the test split's figures where `data.drop_shared_figures` says so.

    Raises ValueError where nothing is left.
    """
    found = open_split(data, split)
    if not (data.drop_shared_figures and split == data.train_split):
        return found
    test = {picture.pixels for pictures in open_split(data, data.test_split).pictures for picture in pictures}
    shared = [any(picture.pixels in test for picture in pictures) for pictures in found.pictures]
    if all(shared):
        raise ValueError("data.drop_shared_figures leaves no training problem: every figure is also in the test split")
    dropped = [
        Skipped(row.problem.problem_id, SHARED_FIGURE) for row, too in zip(found.rows, shared, strict=True) if too
    ]
    return replace(
        found,
        rows=[row for row, too in zip(found.rows, shared, strict=True) if not too],
        pictures=[pictures for pictures, too in zip(found.pictures, shared, strict=True) if not too],
        skipped=[*found.skipped, *dropped],
    )


def split_facts(data: DataConfig, split: str) -> SplitFacts:
    """What the data card says of a split."""
    found = used_split(data, split)
    base, part = split_name(split)
    return SplitFacts(
        rows=len(found.table.rows),
        published=0 if part else found.entry.splits.get(base, 0),
        problems=load(data, split).bare(),
        skipped=found.skipped,
        pictures=found.pictures,
        fingerprint=content_stamp(data, split),
    )


def origin(data: DataConfig) -> dict[str, str]:
    """Where the set comes from, for its card."""
    entry = entry_of(data)
    revision = data.revision or entry.revision
    found = {} if is_local(data) else {"revision": revision, "commit": hub_commit(data, entry)}
    return {
        "dataset": entry.name,
        "published_as": entry.hub or ", ".join(entry.ids),
        "licence": entry.licence,
        "url": entry.url,
        "published_prompt": entry.prompt,
        "note": entry.note,
        **found,
    }


def refuse_common_rows(data: DataConfig) -> None:
    """Raise ValueError where two of the three splits are overlapping slices of one."""
    parts = dict.fromkeys((data.train_split, data.validation_split, data.test_split))
    bounds: dict[str, list[tuple[int, int, str]]] = {}
    for split in parts:
        base, part = split_name(split)
        if sum(split_name(other)[0] == base for other in parts) < 2:
            continue
        whole = len(open_table(data, entry_of(data), base).rows)
        first, end = slice_bounds(part, whole) if part else (0, whole)
        for other_first, other_end, other in bounds.setdefault(base, []):
            if first < other_end and other_first < end:
                raise ValueError(
                    f"data: splits {other} and {split} have {min(end, other_end) - max(first, other_first)} rows in "
                    "common: what is reported may not be trained on or chosen by"
                )
        bounds[base].append((first, end, split))


def shifted(data: DataConfig) -> tuple[str, ...]:
    """A data set has no shifted test sets of its own; name splits in `data.shifted_splits`."""
    return ()


def fingerprint(data: DataConfig) -> str:
    """sha256 over what the catalogue says of the set, and the files (or the hub commit) of every split of the run.

    Pictures that are files of their own enter by their bytes. No picture is decoded.
    """
    entry = entry_of(data)
    reading = {name: value for name, value in asdict(entry).items() if name not in _WORDS}
    settings = {"version": READING, "reading": reading, "text_only": data.text_only, "drop": data.drop_shared_figures}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    names = (data.train_split, data.validation_split, data.test_split, *(data.shifted_splits or ()))
    for split in sorted(set(names)):
        digest.update(split.encode() + b"\0" + content_stamp(data, split).encode())
    return digest.hexdigest()


_WORDS = ("ids", "hub", "revision", "splits", "prompt", "licence", "url", "evidence", "note")
"""Fields of a catalogue entry that change no problem."""


def content_stamp(data: DataConfig, split: str) -> str:
    """sha256 (hex) over the rows of `split` and its pictures where those are files of their own."""
    stamp = split_stamp(data, entry_of(data), split)
    if not is_local(data):
        return stamp
    digest = hashlib.sha256(stamp.encode())
    for file in _picture_files(data, split, stamp):
        digest.update((file_hash(file) if os.path.isfile(file) else "missing").encode())
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _picture_files(data: DataConfig, split: str, stamp: str) -> tuple[Path, ...]:
    entry = entry_of(data)
    return picture_files(open_table(data, entry, split), entry)
