"""Files that are there as a whole or not at all, whatever is killed when."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, rename over it: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # another process may write it, too
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        try_to_remove(temporary)  # on a full disk it takes what others need
        raise


def try_to_remove(path: Path) -> None:
    """Delete a file, if that can be done at all."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """`write_atomically` for JSON; NaN becomes null, as JSON has no NaN."""
    write_atomically(path, (json.dumps(_without_nan(tree), indent=1) + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
