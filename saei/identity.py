"""Which trial is this? A hash of everything that can change a number in it (DESIGN 4.4).

The hash covers the settings (`config.identity`), the problems (`data.fingerprint`), the initial weights and the schema
of the tables. It does not cover where the trial runs, nor the git commit, which is recorded in `environment.json`.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from saei.adapter_folder import adapter_base
from saei.config import Config, content_hash, identity
from saei.data import fingerprint
from saei.data.transfer import transfer_fingerprints
from saei.schema import SCHEMA_VERSION
from saei.tiny import model_dir


def model_folder(path: str) -> Path | None:
    """The local folder of `model.path`, or None for a hub id."""
    if path == "tiny":
        return model_dir()
    return Path(path) if Path(path).is_dir() else None


def model_source(path: str) -> Path | str:
    """The folder of a local model, or a hub id as it is; for an adapter, of the model that it belongs to.

    Raises ValueError where `path` is none of them.
    """
    path = adapter_base(path) or path
    folder = model_folder(path)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise ValueError(f"model.path {path!r} cannot be used: the folder holds no config.json")
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ValueError(f"model.path: there is no folder {path!r}; write tiny, a folder, or a hub id such as Org/Name")
    return path


@lru_cache(maxsize=8)
def _weights_hash(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    # `stamps` (name, size, mtime) is the cache key: an edited file is hashed again.
    digest = hashlib.sha256()
    for name, _, _ in stamps:
        digest.update(name.encode())
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def weights_fingerprint(path: str, revision: str) -> str:
    """Hash of the model's files as they lie on disk; for a hub id, the id and revision."""
    folder = model_folder(path)
    if folder is None:
        return f"{path}@{revision}"
    suffixes = {".safetensors", ".json", ".jinja", ".txt", ".model"}
    stamps = sorted(
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in folder.iterdir()
        if file.suffix in suffixes
    )
    own = _weights_hash(folder, tuple(stamps))
    base = adapter_base(path)
    return own if base is None else f"{own} on {weights_fingerprint(base, revision)}"


def trial_identity(config: Config) -> dict[str, Any]:
    """All that enters the hash, as plain JSON types; written into `config.json`."""
    settings = identity(config)
    settings["data"]["path"] = ""  # the fingerprint below is of what lies there
    if model_folder(config.model.path) is not None and config.model.path != "tiny":
        settings["model"]["path"] = ""  # the same for its weights; "tiny" and a hub id are names, not places
    settings["eval"]["transfer"] = transfer_fingerprints(config)
    return {
        "settings": settings,
        "data": fingerprint(config.data),
        "weights": weights_fingerprint(config.model.path, config.model.revision),
        "schema": SCHEMA_VERSION,
    }


def trial_id(config: Config) -> str:
    """`<hash>-s<seed>`: the name of the trial's directory. Trials that differ only in the seed share the hash."""
    tree = trial_identity(config)
    del tree["settings"]["seed"]
    return f"{content_hash(tree)}-s{config.seed}"
