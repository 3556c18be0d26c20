"""Rows of a table as problems without their pictures: what is used, what is left out and why.

Everything a data set can get wrong is met here, when a split is opened: a column that is not there is refused with the
columns that are, a row that cannot be a problem is left out, counted and named.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from saei.config import DataConfig
from saei.data.answers import GOLDS
from saei.data.catalog import CatalogEntry
from saei.data.messages import MARKER, user_turn
from saei.data.pictures import Encoded
from saei.data.split_facts import Skipped
from saei.data.tables import Table
from saei.types import Problem

NO_IMAGE = "no image"


@dataclass(frozen=True, slots=True)
class Row:
    """A row that may be a problem: `number` in the table, and the problem without pictures."""

    number: int
    problem: Problem


def check_columns(table: Table, entry: CatalogEntry) -> None:
    """Raise ValueError where a column of the map is not in the table."""
    found = table.rows.column_names
    wanted = {**entry.columns, **{f"id ({column})": column for column in entry.id_columns}}
    for role, column in wanted.items():
        if column not in found:
            near = difflib.get_close_matches(column, found, n=1, cutoff=0.5)
            meant = f": did you mean {near[0]!r}?" if near else "."
            raise ValueError(
                f"{table.where}: there is no column {column!r} for the {role}; its columns are {', '.join(found)}"
                f"{meant} Map it with --data.columns {role.split()[0]}=COLUMN, or choose another --data.dataset"
            )


def picture_columns(table: Table, entry: CatalogEntry) -> list[str]:
    """Columns that hold pictures, which are never read together with the others."""
    features = table.rows.features
    held = [name for name, feature in features.items() if "Image(" in repr(feature) or "'bytes'" in repr(feature)]
    mapped = [column for role, column in entry.columns.items() if role == "image"]
    return list(dict.fromkeys([*held, *mapped]))


def read_rows(table: Table, entry: CatalogEntry, data: DataConfig, split: str) -> Iterator[Row | Skipped]:
    """Every row, in order. Raises ValueError for a column that is not there or holds values no problem can have."""
    check_columns(table, entry)
    apart = set(picture_columns(table, entry))
    for role, column in entry.columns.items():
        if role != "image" and column in apart:
            raise ValueError(
                f"{table.where}: column {column!r} holds pictures and cannot be the {role}; map another one: "
                f"--data.columns {role}=COLUMN"
            )
    plain = table.rows.select_columns([name for name in table.rows.column_names if name not in apart])
    seen: set[str] = set()
    for number, row in enumerate(plain):
        name = _name_of(row, entry, data, split, table.first + number)
        if name in seen:  # ids of hub sets are not always unique
            name = f"{name}#{table.first + number}"
        seen.add(name)
        yield _read_row(row, number, name, entry, split, table)


def _name_of(row: Mapping[str, Any], entry: CatalogEntry, data: DataConfig, split: str, number: int) -> str:
    source = entry.name or Path(data.path).name
    base = split.partition("[")[0].strip()
    columns = entry.id_columns or tuple(column for role, column in entry.columns.items() if role == "id")
    own = "-".join(str(row[column]) for column in columns) if columns else f"{number:05d}"
    return f"{source}-{base}-{own}"


def _read_row(
    row: Mapping[str, Any], number: int, name: str, entry: CatalogEntry, split: str, table: Table
) -> Row | Skipped:
    columns = entry.columns
    if "messages" in columns:
        try:
            question, _ = user_turn(row[columns["messages"]])
        except ValueError as error:
            return Skipped(name, "message unreadable", str(error))
    else:
        question = _text(row[columns["question"]], "question", table, number)
    gold = _text(row[columns["answer"]], "answer", table, number)
    if not question.strip():
        return Skipped(name, "no question")
    raw_choices = row.get(columns.get("choices", ""), None)
    choices = _choices(raw_choices)
    answer, answer_type = GOLDS[entry.answers](gold, choices, row)
    if not answer:
        return Skipped(name, "no answer", f"the gold is {gold[:80]!r}")
    kind = row.get(columns.get("kind", ""), None)
    problem = Problem(
        problem_id=name,
        images=(),
        question=OPTIONS[entry.options](question, raw_choices, choices),
        answer=answer,
        choices=choices,
        answer_type=answer_type,
        kind=str(kind) if kind else answer_type,
        source=f"hub:{entry.name or Path(table.where.split(',')[0]).name}",
        split=split,
        facts=dict(row),
    )
    return Row(number, problem)


def _text(value: Any, role: str, table: Table, number: int) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(
            f"{table.where}, row {table.first + number}: the {role} must be text or a number, got "
            f"{type(value).__name__}; map another column: --data.columns {role}=COLUMN"
        )
    return str(value)


def _choices(value: Any) -> tuple[str, ...] | None:
    """Options as a tuple; a string is read where it is a JSON list, else left to the question."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return None
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    return tuple(str(choice) for choice in value)


def _unchanged(question: str, raw: Any, choices: tuple[str, ...] | None) -> str:
    return question


def _lettered(question: str, raw: Any, choices: tuple[str, ...] | None) -> str:
    """Options as lines `(A) ...`; none where the options are letters, because the choices are drawn."""
    letters = [chr(ord("A") + i) for i in range(len(choices or ()))]
    if not choices or list(choices) == letters:
        return question
    return "\n".join([question, *(f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))])


def _appended(question: str, raw: Any, choices: tuple[str, ...] | None) -> str:
    return f"{question}\n\nOptions: {raw if isinstance(raw, str) else '; '.join(choices or ())}"


OPTIONS = {"none": _unchanged, "lettered": _lettered, "appended": _appended}
"""`options` of a catalogue entry -> how the options become part of the question."""


PicturesOf = Callable[[int], list[Encoded]]


def pictures_of(table: Table, entry: CatalogEntry) -> PicturesOf:
    """Row number -> its pictures as the table holds them, in the order of the question; [] for a row of text.

    The answer raises ValueError for a cell that is no picture. Nothing is read before it is asked for.
    """
    column = entry.columns.get("image")
    if column is None:
        return _in_messages(table, entry)
    cells = table.rows.with_format("arrow")[column][:]

    def of_row(number: int) -> list[Encoded]:
        held = cells[number].as_py()
        listed = held if isinstance(held, list) else [held]
        return [_encoded(one, table, number) for one in listed if one not in (None, "")]

    return of_row


def _in_messages(table: Table, entry: CatalogEntry) -> PicturesOf:
    column = entry.columns.get("messages")
    return lambda number: (
        [_located(path, table.folder) for path in user_turn(table.rows[number][column])[1]] if column else []
    )


def _encoded(held: Any, table: Table, number: int) -> Encoded:
    if isinstance(held, dict) and held.get("bytes"):
        held = held["bytes"]
    elif isinstance(held, dict):
        held = held.get("path")
    if isinstance(held, bytes):
        return held
    if isinstance(held, str) and held:
        return _located(held, table.folder)
    raise ValueError(
        f"{table.where}, row {table.first + number}: an image is bytes or a path, got {type(held).__name__}; map "
        "another column: --data.columns image=COLUMN"
    )


def _located(path: str, folder: Path | None) -> Path:
    """A path of a row as a file: `file://` is taken off, a relative one starts at the folder of the table."""
    named = Path(path.removeprefix("file://"))
    return named if named.is_absolute() or folder is None else folder / named


def markers_fit(question: str, images: int) -> bool:
    """Whether each `<image>` of a question has a picture; a question without any has all of them in front."""
    return question.count(MARKER) in (0, images)


def picture_files(table: Table, entry: CatalogEntry) -> tuple[Path, ...]:
    """The pictures that are files of their own, in order of the rows; none where the table holds their bytes.

    Raises ValueError for a column that is not there.
    """
    check_columns(table, entry)
    column = entry.columns.get("image")
    if column in table.rows.column_names and not _names_files(table.rows.with_format("arrow")[column][:]):
        return ()
    of_row = pictures_of(table, entry)
    pictures = (one for number in range(len(table.rows)) for one in _readable(of_row, number))
    return tuple(one for one in pictures if isinstance(one, Path))


def _names_files(column: Any) -> bool:
    """Whether any picture of an Arrow column is a path, not bytes."""
    for chunk in column.chunks:
        flat = chunk.flatten() if pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type) else chunk
        if not pa.types.is_struct(flat.type):
            return pa.types.is_string(flat.type) or pa.types.is_large_string(flat.type)
        if flat.field("bytes").null_count > flat.null_count:
            return True
    return False


def _readable(of_row: PicturesOf, number: int) -> list[Encoded]:
    try:
        return of_row(number)
    except ValueError:  # told when the split is opened
        return []
