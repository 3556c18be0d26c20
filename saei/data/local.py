"""The `local` problem source: a folder with one `<split>.jsonl` a split and the images that its rows name.

A row is a JSON object with `id, image (path relative to the folder, or null), question, answer`, and optionally
`choices, answer_type`. Rows without an image are skipped and counted. File extensions lie, so Pillow decides what an
image is; transparency is laid on white. Everything a user can get wrong is refused when the split is loaded, by file,
row and field, not in the middle of a run.
"""

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import UInt8

from saei.config import DataConfig
from saei.data.pictures import BadPicture, decode
from saei.data.problem_set import ProblemSet
from saei.data.split_facts import Skipped, SplitFacts
from saei.data.survey import PictureFacts, survey
from saei.data.tables import file_hash
from saei.data.turned import is_turned
from saei.types import Problem

log = logging.getLogger(__name__)

REQUIRED = ("id", "image", "question", "answer")
# What the source says -> how the answer is graded.
ANSWER_TYPES: dict[str, Literal["number", "math", "choice", "text"]] = {
    "number": "number",
    "integer": "number",
    "float": "number",
    "math": "math",
    "free_form": "math",
    "list": "math",
    "numeric_expression": "math",
    "choice": "choice",
    "multiple_choice": "choice",
    "choice_letter": "choice",
    "text": "text",
    "yes_no": "text",
}


def folder_of(data: DataConfig) -> Path:
    """The folder `data.path` names; raises ValueError where it is not one."""
    folder = Path(data.path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"data.path must be a folder with <split>.jsonl files, got {data.path!r}, which is no folder")
    return folder


def file_of(data: DataConfig, split: str) -> Path:
    """The JSONL file of `split`; raises ValueError, naming the splits that are there."""
    folder = folder_of(data)
    file = folder / f"{split}.jsonl"
    if not file.is_file():
        there = sorted(path.stem for path in folder.glob("*.jsonl"))
        raise ValueError(
            f"data.path {data.path!r} has no {split}.jsonl; its splits: {', '.join(there) or 'none'}"
            + _cure(data.path, there)
        )
    return file


def _cure(folder: str, there: list[str]) -> str:
    """How one file can serve for all three splits, where there are not three; "" where that is no help."""
    if not there or len(there) > 2:
        return ""
    one = "train" if "train" in there else there[0]
    return (
        f". Slices of one file do, too: --data.source hub --data.path {shlex.quote(folder)} --data.columns id=id "
        f"image=image question=question answer=answer --data.train-split '{one}[:60%]' --data.validation-split "
        f"'{one}[60%:80%]' --data.test-split '{one}[80%:]'"
    )


def check_rows(file: Path) -> int:
    """Refuse a file with a line that is no JSON object or lacks a field; returns the number of rows."""
    rows = 0
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, row {number}: not valid JSON ({error}). One JSON object a line.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}, row {number}: a JSON object is needed, got {type(row).__name__}")
            missing = [field for field in REQUIRED if field not in row]
            if missing:
                raise ValueError(
                    f"{file}, row {number}: field {missing[0]!r} is missing. Each row needs {', '.join(REQUIRED)};"
                    " use null for a row without an image."
                )
            check_types(file, number, row)
            rows += 1
    if rows == 0:
        raise ValueError(f"{file}: no rows. Put one JSON object a line, with {', '.join(REQUIRED)}.")
    return rows


def check_types(file: Path, number: int, row: dict[str, Any]) -> None:
    """Refuse values of a type that no problem can have."""
    image, answer = row["image"], row["answer"]
    if image is not None and not isinstance(image, str):
        raise ValueError(f"{file}, row {number}: field 'image' must be a path or null, got {image!r}")
    if not isinstance(row["question"], str):
        raise ValueError(f"{file}, row {number}: field 'question' must be text, got {row['question']!r}")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise ValueError(f"{file}, row {number}: field 'answer' must be text or a number, got {answer!r}")
    answer_type = row.get("answer_type") or "math"
    if answer_type not in ANSWER_TYPES:
        raise ValueError(
            f"{file}, row {number}: field 'answer_type' is one of {', '.join(ANSWER_TYPES)} (or left out, for "
            f"mathematics), got {answer_type!r}"
        )


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows that have an image, with the row's number in the file as `row`; the others are counted in the log."""
    table = all_rows(file)
    kept = [row for row in table if row["image"] is not None]
    if len(kept) < len(table):
        log.warning("%s: %d of %d rows have no image and are skipped", file, len(table) - len(kept), len(table))
    if not kept:
        raise ValueError(f"{file}: none of its {len(table)} rows has an image; a policy that sees needs one a row")
    seen: dict[str, int] = {}
    for row in kept:
        if row["id"] in seen:
            raise ValueError(
                f"{file}, row {row['row']}: field 'id' {row['id']!r} is already that of row {seen[row['id']]};"
                " make ids unique"
            )
        seen[row["id"]] = row["row"]
    return kept


def all_rows(file: Path) -> list[dict[str, Any]]:
    """Every row, read through `datasets`. Raises ValueError for what no row may hold."""
    check_rows(file)
    # datasets infers one type a column: only these are read, as text, so mixed types in other columns do no harm.
    from datasets import Dataset

    def rows() -> Iterator[dict[str, Any]]:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    choices = row.get("choices")
                    yield {
                        "row": number,
                        "id": str(row["id"]),
                        "image": row["image"],
                        "question": row["question"],
                        "answer": str(row["answer"]),
                        "answer_type": str(row.get("answer_type") or "math"),
                        "choices": None if choices is None else [str(choice) for choice in choices],
                    }

    return [cast(dict[str, Any], row) for row in Dataset.from_list(list(rows()))]


def read_image(file: Path, number: int, path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """The picture as RGB on white; raises ValueError naming row and file where it cannot be read."""
    try:
        return decode(path)
    except BadPicture as error:
        missing = error.reason == "image missing"
        cure = "paths are relative to the folder of the JSONL" if missing else "replace the file or set image to null"
        raise ValueError(
            f"{file}, row {number}: field 'image' names {path}, which {'does not exist' if missing else error}; {cure}"
        ) from error


def load(data: DataConfig, split: str) -> ProblemSet:
    """The problems of `<split>.jsonl`; each image was decoded once before this returns, so a broken one stops the
    start.
    """
    file = file_of(data, split)
    folder = file.parent
    rows = read_rows(file)
    for row, (picture,) in zip(rows, pictures_of(file, rows), strict=True):
        if picture.reason:
            read_image(file, row["row"], folder / row["image"])

    def problem_at(index: int) -> Problem:
        row = rows[index]
        return replace(bare_at(index), images=(read_image(file, row["row"], folder / row["image"]),))

    def bare_at(index: int) -> Problem:
        row = rows[index]
        return Problem(
            problem_id=row["id"],
            images=(),
            question=row["question"],
            answer=row["answer"],
            choices=None if row["choices"] is None else tuple(row["choices"]),
            answer_type=ANSWER_TYPES[row["answer_type"]],
            kind=row["answer_type"],
            source=f"local:{folder.name}",
            split=split,
        )

    return ProblemSet(split=split, size=len(rows), problem_at=problem_at, bare_at=bare_at)


def pictures_of(file: Path, rows: list[dict[str, Any]]) -> list[tuple[PictureFacts, ...]]:
    """What the image of each row is; each is decoded once, see `survey`."""
    return survey(lambda row: [file.parent / row["image"]], rows, _content(file, rows))


def _content(file: Path, rows: list[dict[str, Any]]) -> str:
    """sha256 (hex) over a JSONL and the images that `rows` of it name."""
    paths = [file.parent / row["image"] for row in rows]
    hashes = [file_hash(path) if os.path.isfile(path) else "missing" for path in (file, *paths)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def split_facts(data: DataConfig, split: str) -> SplitFacts:
    """What the data card says of a split."""
    file = file_of(data, split)
    rows = all_rows(file)
    kept = [row for row in rows if row["image"] is not None]
    return SplitFacts(
        rows=len(rows),
        problems=load(data, split).bare(),
        skipped=[Skipped(row["id"], "no image") for row in rows if row["image"] is None],
        pictures=pictures_of(file, kept),
        fingerprint=_content(file, kept),
    )


def shifted(data: DataConfig) -> tuple[str, ...]:
    """A folder has no shifted test sets of its own; name them in `data.shifted_splits`."""
    return ()


def fingerprint(data: DataConfig) -> str:
    """sha256 over the JSONL of every split the run uses and the bytes of the images they name, and which of them are
    turned by their EXIF tag (which once was not heeded).
    """
    digest = hashlib.sha256()
    names = (data.train_split, data.validation_split, data.test_split, *(data.shifted_splits or ()))
    for split in sorted(set(names)):
        file = file_of(data, split)
        digest.update(split.encode() + b"\0" + bytes.fromhex(file_hash(file)))
        for path in _named_pictures(file, file_hash(file)):
            if os.path.isfile(path):
                digest.update(bytes.fromhex(file_hash(path)) + (b"turned" if is_turned(path) else b""))
    return digest.hexdigest()


@lru_cache(maxsize=32)  # a launch asks for every arm and seed
def _named_pictures(file: Path, content: str) -> tuple[Path, ...]:
    return tuple(file.parent / row["image"] for row in read_rows(file))
