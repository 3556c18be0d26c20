"""User turns that are stored whole: MM-Eureka's JSONL, whose rows hold a chat message, often as a JSON string."""

import ast
import json
from typing import Any

MARKER = "<image>"


def user_turn(stored: Any) -> tuple[str, list[str]]:
    """The text of the user turn, `<image>` where a picture stands, and the pictures' paths in that order.

    `stored` is a list of messages, or JSON (older files: a Python literal) of one; a message's content is text, or a
    list of parts `{"type": "image", "image": path}` and `{"type": "text", "text": words}`. Other roles are left out:
    a system message is a matter of `data.prompt`. Raises ValueError for anything else.
    """
    messages = _read(stored) if isinstance(stored, str) else stored
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("a message is a list of {role, content} objects, or JSON of one")
    turns = [message for message in messages if message.get("role") == "user"]
    if len(turns) != 1:
        raise ValueError(f"one user turn is needed, got {len(turns)}")
    content = turns[0].get("content")
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise ValueError(f"the content of a message is text or a list of parts, got {type(content).__name__}")
    words: list[str] = []
    paths: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        held = part.get(kind) if isinstance(part, dict) and kind in ("image", "text") else None
        if not isinstance(held, str):
            raise ValueError("a part of a message is {type: image, image: path} or {type: text, text: words}")
        if kind == "image":
            paths.append(held)
        words.append(MARKER if kind == "image" else held)
    return "".join(words), paths


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)  # literals only: nothing is run
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("a message must be JSON") from error
