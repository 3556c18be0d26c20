"""What a folder in peft's format says of itself: an adapter, and the model that it belongs to."""

import json
from pathlib import Path

ADAPTER_CONFIG = "adapter_config.json"


def adapter_base(path: str) -> str | None:
    """The model to which the adapter in the folder `path` belongs: `tiny`, a folder or a hub id; None: not an adapter.

    Raises ValueError for an adapter that does not say it, or says that it belongs to another adapter.
    """
    if not _is_adapter(path):
        return None
    try:
        base = json.loads((Path(path) / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"model.path {path!r}: {ADAPTER_CONFIG} cannot be read ({type(error).__name__})") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"model.path {path!r}: {ADAPTER_CONFIG} must name its model in base_model_name_or_path")
    if _is_adapter(base):
        raise ValueError(
            f"model.path {path!r} is an adapter of an adapter, {base}: merge that one into its model first"
        )
    return base


def _is_adapter(path: str) -> bool:
    return (Path(path) / ADAPTER_CONFIG).is_file() and not (Path(path) / "config.json").is_file()
