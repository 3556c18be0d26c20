"""What the stock processor's own files hold beside the image processor, kept for the saved folder."""

import json
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

NAME = "processor_config.json"
_TEMPLATE = "chat_template.json"  # where processors kept it before chat_template.jinja


def read(source: Path | str, **options: Any) -> dict[str, Any]:
    """The settings in `processor_config.json` of a model, such as `image_seq_len`; empty where it has no such file.

    The image processor inside it is left out: ours is saved in its own file, and one inside would be preferred to it.
    """
    settings = _json(source, NAME, **options)
    return {name: value for name, value in settings.items() if name != "image_processor"}


def write(settings: dict[str, Any], folder: Path) -> None:
    """Write what `read` found; nothing where there was nothing."""
    if settings:
        (folder / NAME).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def chat_template(source: Path | str, **options: Any) -> str | None:
    """The chat template that an older folder keeps for its processor, not its tokenizer."""
    return _json(source, _TEMPLATE, **options).get("chat_template")


def _json(source: Path | str, name: str, **options: Any) -> dict[str, Any]:
    path = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **options,
    )
    if path is None:
        return {}
    try:
        content = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"its {name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"its {name} holds {type(content).__name__} in place of settings by name")
    return content
