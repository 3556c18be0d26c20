"""Messages between the trainer and an engine: 8 bytes of length, then one JSON object. Standard library only.

The other side is not trusted: a length out of bounds, bytes that are no JSON object, an end in the middle of a message
and silence each have their own error, and nothing waits longer than it was told to.
"""

import json
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

_LENGTH = struct.Struct(">Q")
MAX_BYTES = 2**31
"""Longest message, in bytes."""
_BEAT_S = 1.0


class Ended(Exception):
    """The other side closed the connection: its process is gone."""


class Silent(Exception):
    """The other side did not send, or did not take, a message in time."""


class Nonsense(Exception):
    """What arrived is no message."""


def send(connection: socket.socket, message: dict[str, Any], limit_s: float | None) -> None:
    """Send one message within `limit_s` seconds (None: however long it takes). Raises Ended, Silent, ValueError."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is longer than {MAX_BYTES}")
    connection.settimeout(limit_s)
    try:
        connection.sendall(_LENGTH.pack(len(body)) + body)
    except TimeoutError as error:
        raise Silent from error
    except OSError as error:
        raise Ended from error


def receive(
    connection: socket.socket, limit_s: float | None, between: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The next message, whole within `limit_s` seconds; `between` is called about once a second while waiting.

    Raises Ended, Silent and Nonsense.
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, deadline, between))
    if length > MAX_BYTES:
        raise Nonsense(f"a message of {length} bytes was announced, and {MAX_BYTES} are the most")
    body = _exactly(connection, length, deadline, between)
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Nonsense(f"{length} bytes arrived that are no JSON: {body[:80]!r}") from error
    if not isinstance(message, dict):
        raise Nonsense(f"a message is a JSON object, and {str(message)[:80]} arrived")
    return message


def _exactly(
    connection: socket.socket, count: int, deadline: float | None, between: Callable[[], None]
) -> bytes | bytearray:
    received = bytearray()
    while len(received) < count:
        left = _BEAT_S if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise Silent
        if not select.select([connection], [], [], min(left, _BEAT_S))[0]:
            between()
            continue
        try:
            chunk = connection.recv(min(count - len(received), 2**20))
        except OSError as error:
            raise Ended from error
        if not chunk:
            raise Ended
        received += chunk
    return received
