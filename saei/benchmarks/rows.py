"""The items of a benchmark and their pictures: from JSON files of its authors, or a table with the hub's columns.

JSON is read here, as it is (a table needs one type a column, and these files have several); tables and pictures come
through `saei.data`. Pictures are decoded when an item is asked.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.benchmarks.item import Benchmark, Item, Picture
from saei.config import DataConfig
from saei.data.catalog import catalog
from saei.data.rows import picture_columns, pictures_of
from saei.data.tables import file_hash, open_table
from saei.settings.benchmarking import BenchmarkConfig

_PATH_COLUMNS = ("image", "image_path", "filename", "images")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The items that are asked, in order; `pictures(i)` are those of item i; `skipped` counts rows left out by reason;
    `stamp` is a sha256 (hex) of all that determines them.
    """

    items: Sequence[Item]
    pictures: Callable[[int], list[Picture]]
    skipped: Mapping[str, int]
    where: str
    stamp: str


def load_items(name: str, benchmark: Benchmark, settings: BenchmarkConfig, folder: str) -> Loaded:
    """The items of a benchmark: below `folder` where given, else from the hub.

    Raises ValueError, in a sentence, where they are not there, a row lacks a column, or a picture is missing.
    """
    file = _local_file(name, benchmark, settings.split, folder) if folder else None
    if file is not None and file.suffix in (".json", ".jsonl"):
        rows, pictures, stamp, where = _from_json(file)
    else:
        rows, pictures, stamp, where = _from_tables(name, benchmark, settings, file.parent if file else None)
    items: list[Item] = []
    places: list[int] = []
    skipped: dict[str, int] = {}
    first_missing = ""
    for number, row in enumerate(rows):
        reason = _reason(pictures(number), settings)
        if reason:
            skipped[reason] = skipped.get(reason, 0) + 1
            first_missing = first_missing or (f"row {number}" if reason == "picture missing" else "")
            continue
        try:
            items.append(benchmark.item({**row, "row": number}, settings.prompts))
        except KeyError as error:
            raise ValueError(f"{where}, row {number}: no column {error} for {benchmark.title}") from error
        places.append(number)
        if settings.limit and len(items) == settings.limit:
            break
    if skipped.get("picture missing") and not settings.skip_missing:
        raise ValueError(
            f"{where}: {skipped['picture missing']} pictures are missing, first of {first_missing}; put them beside "
            "the file, or leave these items out (they are counted): --benchmark.skip-missing"
        )
    if not items:
        raise ValueError(f"{where}: no item to ask ({skipped or 'no rows'})")
    _refuse_twins(items, where)
    settled = {"prompts": settings.prompts, "text_only": settings.text_only, "skipped": skipped, "rows": len(items)}
    stamp = hashlib.sha256((stamp + json.dumps(settled, sort_keys=True)).encode()).hexdigest()
    return Loaded(
        items=items, pictures=lambda index: pictures(places[index]), skipped=skipped, where=where, stamp=stamp
    )


def _reason(pictures: Sequence[Picture], settings: BenchmarkConfig) -> str:
    """Why a row is not asked; empty: it is."""
    if not pictures:
        return "" if settings.text_only else "no picture"
    return "picture missing" if any(isinstance(one, Path) and not os.path.isfile(one) for one in pictures) else ""


def _refuse_twins(items: Sequence[Item], where: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise ValueError(f"{where}: two rows have the id {item.item_id!r}")
        seen.add(item.item_id)


def _local_file(name: str, benchmark: Benchmark, split: str, folder: str) -> Path:
    """The data file of a benchmark below `folder`, or in it. Raises ValueError naming what was looked for."""
    base = Path(folder).expanduser()
    patterns = (f"{split}.jsonl", f"{split}.json", f"{split}*.parquet", f"data/{split}*.parquet")
    patterns = patterns if split else benchmark.files
    for place in (*(base / own for own in benchmark.folders), base):
        for pattern in patterns:
            found = sorted(place.glob(pattern)) if place.is_dir() else []
            if found and (place != base or base.name in benchmark.folders):
                return found[0]
    raise ValueError(
        f"--benchmark-data {folder}: no {name}; looked for {', '.join(patterns)} in "
        f"{', '.join(str(base / own) for own in benchmark.folders)}"
    )


Rows = tuple[Sequence[Mapping[str, Any]], Callable[[int], list[Picture]], str, str]


def _from_json(file: Path) -> Rows:
    rows = list(_json_rows(file))
    places = [_paths(row, file.parent) for row in rows]
    digest = hashlib.sha256(file_hash(file).encode())
    for path in sorted({path for paths in places for path in paths if os.path.isfile(path)}):
        digest.update(file_hash(path).encode())
    return rows, lambda number: list(places[number]), digest.hexdigest(), str(file)


def _json_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """Rows with the hub's columns: those of an `original` object, where there is one, beside the row's own."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line]
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from error
    rows = list(found.values()) if isinstance(found, dict) else found
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{file}, row {number}: a JSON object is needed, got {type(row).__name__}")
        original = row.get("original")
        kept = {name: row[name] for name in _PATH_COLUMNS if name in row}
        yield {**row, **original, **kept} if isinstance(original, dict) else row


def _paths(row: Mapping[str, Any], folder: Path) -> list[Path]:
    for column in _PATH_COLUMNS:
        held = row.get(column)
        if held:
            return [folder / str(one) for one in (held if isinstance(held, list) else [held])]
    return []


def _none(number: int) -> list[Picture]:
    """The pictures of a row in a table without a column for them."""
    return []


def _from_tables(name: str, benchmark: Benchmark, settings: BenchmarkConfig, folder: Path | None) -> Rows:
    entry = catalog()[name]
    own = " or ".join(f"DIR/{one}" for one in benchmark.folders)
    data = DataConfig(source="hub", path=str(folder) if folder else benchmark.hub, dataset=name)
    rows: list[Mapping[str, Any]] = []
    of_rows: list[Callable[[], list[Picture]]] = []
    stamps: list[str] = []
    for split in (settings.split,) if settings.split else benchmark.splits:
        try:
            table = open_table(data, entry, split)
        except ValueError as error:
            if folder:
                raise
            reason = str(error).partition("Without a hub,")[0].strip()
            raise ValueError(f"{reason} Without a hub: --benchmark-data DIR, with its files in {own}") from error
        apart = set(picture_columns(table, entry))
        plain = table.rows.select_columns([column for column in table.rows.column_names if column not in apart])
        pictured = entry.columns.get("image") in table.rows.column_names
        of_row = pictures_of(table, entry) if pictured else _none
        rows += list(plain)
        of_rows += [lambda number=number, of_row=of_row: list(of_row(number)) for number in range(len(plain))]
        stamps.append(table.stamp)
    return (
        rows,
        lambda number: of_rows[number](),
        "".join(stamps),
        f"{data.path}, split {settings.split or '+'.join(benchmark.splits)}",
    )
