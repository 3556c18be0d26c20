"""Tables of problems, read by `datasets`: a split of a hub id, or local parquet, JSONL, or images with metadata.

Rows stay in Arrow files on disk; pictures are handed out as the bytes or paths that the table holds, never decoded
here. A split may be sliced as in `datasets`: `train[:500]`, `test[10%:20%]`; row numbers are those of the whole split.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from saei.config import DataConfig
from saei.data.catalog import CatalogEntry

_SPLIT = re.compile(r"([^\[\]+]+)(\[[^\[\]]*\])?")
_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_OTHER_SPLITS = ("test", "testmini", "validation", "val", "dev")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A split. `rows` is a `datasets.Dataset`; `first` is the number of its first row in the whole split, which has
    `whole` rows; relative picture paths start at `folder`; `where` names the split in messages; `stamp` is a sha256
    (hex) of what determines its content, pictures that are files of their own excepted; `commit` that of a hub id.
    """

    rows: Any
    where: str
    whole: int
    first: int
    folder: Path | None
    stamp: str
    commit: str = ""


def split_name(split: str) -> tuple[str, str]:
    """`train[:100]` as ("train", "[:100]"). Raises ValueError where it is no split."""
    match = _SPLIT.fullmatch(split.strip())
    if match is None:
        raise ValueError(f"a split reads train, train[:500] or train[10%:20%], got {split!r}")
    return match[1].strip(), match[2] or ""


def slice_bounds(part: str, rows: int) -> tuple[int, int]:
    """(from, to) of a slice such as `[:10%]` of `rows` rows, by the rules of `datasets`. Raises ValueError."""
    from datasets import ReadInstruction

    try:
        (bounds,) = ReadInstruction.from_spec("whole" + part).to_absolute({"whole": rows})
    except (ValueError, AssertionError) as error:
        raise ValueError(f"the slice {part!r} of a split with {rows} rows cannot be read: {error}") from error
    return bounds.from_ or 0, rows if bounds.to is None else bounds.to


def is_local(data: DataConfig) -> bool:
    """Whether `data.path` is a folder or file here; else it is taken for a hub id."""
    return Path(data.path).expanduser().exists()


def open_table(data: DataConfig, entry: CatalogEntry, split: str) -> Table:
    """The rows of `split`. Raises ValueError, in a sentence, for what cannot be found or read."""
    base, part = split_name(split)
    rows, stamp, commit, folder = _open_local(data, base) if is_local(data) else _open_hub(data, entry, base)
    first, end = slice_bounds(part, len(rows)) if part else (0, len(rows))
    if first >= end:
        raise ValueError(f"split {split} of {data.path} has no rows ({base} has {len(rows)})")
    return Table(
        rows=rows.select(range(first, end)) if part else rows,
        where=f"{data.path}, split {base}",
        whole=len(rows),
        first=first,
        folder=folder,
        stamp=stamp,
        commit=commit,
    )


def split_stamp(data: DataConfig, entry: CatalogEntry, split: str) -> str:
    """sha256 (hex) of what determines the rows of `split`, without reading them as a table."""
    base, part = split_name(split)
    content = _files_stamp(split_files(data, base)) if is_local(data) else hub_commit(data, entry)
    return hashlib.sha256(f"{base}{part}\0{content}".encode()).hexdigest()


def split_files(data: DataConfig, base: str) -> list[Path]:
    """The local files of split `base`, in order. Raises ValueError naming what is there.

    A split is a file's name up to the first dash or dot (train.parquet, train-00000-of-00004.parquet), the folder it
    lies in, or a whole file name (train_8k.jsonl). A file as `data.path` holds the split that its name says, or train.
    """
    path = Path(data.path).expanduser()
    if path.is_file():
        if path.suffix not in _BUILDERS:
            raise ValueError(f"data.path {data.path!r}: files may end in {', '.join(_BUILDERS)}, got {path.suffix!r}")
        named = _is_of(path.relative_to(path.parent), base)
        if named or (base == "train" and not any(_is_of(path.relative_to(path.parent), s) for s in _OTHER_SPLITS)):
            return [path]
        raise ValueError(
            f"data.path {data.path!r} is one file and holds no split {base}; take parts of it, such as "
            "--data.train-split 'train[:80%]' --data.validation-split 'train[80%:90%]' --data.test-split 'train[90%:]'"
        )
    whole_name = path / base
    if whole_name.is_file() and whole_name.suffix in _BUILDERS:
        return [whole_name]
    found = _data_files(path)
    chosen = [file for file in found if _is_of(file.relative_to(path), base)]
    if not chosen:
        there = ", ".join(str(file.relative_to(path)) for file in found[:12]) or "none"
        raise ValueError(
            f"data.path {data.path!r} has no files of a split {base}: they are called {base}.parquet, "
            f"{base}-*.parquet, {base}.jsonl or lie in a folder {base}/ (with {_METADATA[0]} for images); data files "
            f"there: {there}"
        )
    return chosen


def _data_files(folder: Path) -> list[Path]:
    """The data files below a folder, of the first kind that there is: parquet, image metadata, JSON lines, JSON."""
    seen = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    )
    metadata = [file for file in seen if file.name in _METADATA]
    kinds = [metadata, *([file for file in seen if file.suffix == suffix] for suffix in _BUILDERS)]
    return next((files for files in kinds if files), [])


def _is_of(file: Path, base: str) -> bool:
    if len(file.parts) == 1 and file.name in _METADATA:  # a folder of images without split folders
        return base == "train"
    return base in file.parts[:-1] or re.split(r"[-.]", file.name)[0] == base


def _files_stamp(files: list[Path]) -> str:
    return hashlib.sha256("".join(file_hash(file) for file in files).encode()).hexdigest()


def file_hash(file: Path) -> str:
    """sha256 (hex) of a file's bytes; remembered until its size or time changes."""
    stat = file.stat()
    return _hash_of(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _hash_of(file: Path, size: int, mtime_ns: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _open_local(data: DataConfig, base: str) -> tuple[Any, str, str, Path]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    files = split_files(data, base)
    path = Path(data.path).expanduser()
    folder = path.parent if path.is_file() else path
    try:
        with _quiet():
            if files[0].name in _METADATA:
                inside = files[0].parent
                rows = load_dataset("imagefolder", data_files={"rows": [str(inside / "**")]}, split="rows")
            else:
                names = [str(file) for file in files]
                rows = load_dataset(_BUILDERS[files[0].suffix], data_files={"rows": names}, split="rows")
    except (ValueError, OSError, DatasetGenerationError, RuntimeError) as error:
        cause = error.__cause__ or error
        raise ValueError(f"{files[0]} cannot be read as a table ({type(cause).__name__}: {cause})") from error
    return rows, _files_stamp(files), "", folder


def _open_hub(data: DataConfig, entry: CatalogEntry, base: str) -> tuple[Any, str, str, None]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    commit = hub_commit(data, entry)
    try:
        with _quiet():
            rows = load_dataset(data.path, _config_name(data, entry), revision=_revision(data, entry), split=base)
    except (ValueError, OSError, DatasetGenerationError) as error:
        raise ValueError(f"data.path {data.path}: split {base} cannot be loaded from the hub: {error}") from error
    return rows, hashlib.sha256(f"{data.path}@{commit}".encode()).hexdigest(), commit, None


def _revision(data: DataConfig, entry: CatalogEntry) -> str:
    return data.revision or entry.revision


def _config_name(data: DataConfig, entry: CatalogEntry) -> str | None:
    return data.config or entry.config or None


@lru_cache(maxsize=32)
def _commit_of(path: str, config: str | None, revision: str) -> str:
    from datasets import load_dataset_builder

    try:
        with _quiet():
            builder = load_dataset_builder(path, config, revision=revision)
    except (ValueError, OSError) as error:  # ConnectionError and FileNotFoundError are OSErrors
        raise ValueError(
            f"data.path {path!r} is no folder or file here, and as a hub id it cannot be loaded: {error}. Without a "
            "hub, point --data.path at a copy of its files and name the set: --data.dataset NAME"
        ) from error
    return str(builder.hash)


def hub_commit(data: DataConfig, entry: CatalogEntry) -> str:
    """The commit that a hub id stands at (of the copy in the cache, where no hub is reached).

    Raises ValueError where a pinned commit is wanted and another one is there: offline, `datasets` would take it.
    """
    wanted = _revision(data, entry)
    commit = _commit_of(data.path, _config_name(data, entry), wanted)
    if re.fullmatch(r"[0-9a-f]{40}", wanted) and commit != wanted:
        raise ValueError(f"data.revision is {wanted}, but what is at hand of {data.path} is {commit}; fetch it first")
    return commit


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets` in the log of a run."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were:
            enable_progress_bars()
