"""The loop of every engine worker: take a message, answer it, until the trainer closes the connection.

Messages have a `kind`; every reply has the `version` of the weights that the engine holds.

| kind | with | reply |
|---|---|---|
| `start` | `model` (a Hugging Face folder), `version`, `dtype`, `logprobs`, `options` | `ready`, `engine` (its name) |
| `sync` | `model`, `version` | `synced` |
| `sample` | `images` (name: PNG), `requests` (`prompt`, `images`, `seeds`), ... | `completions` (`progress` first) |
| `pixels` | `prompt`, `images` (PNG) | `pixels`: `prompt` as expanded, `values` (float32), `shape` |

`logprobs` is `raw` (before suppression and top-p; for temperature 1) or `processed` (of the distribution that is drawn
from). A seed of None asks for greedy decoding. An image stands in the prompt as one placeholder. Standard library only.
"""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from saei.engines.frames import Ended, Nonsense, receive, send
from saei.engines.watch import end_with

Handler = Callable[[dict[str, Any], Callable[[int], None]], dict[str, Any]]
"""(message, a function to call with the number of completions that are done) -> the reply, without its version."""


def serve(handlers: dict[str, Handler]) -> None:
    """Answer messages with `handlers`, by kind, over the socket that the command line names."""
    descriptor, parent, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    end_with(parent, folder)
    connection = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)  # a child of the engine would keep the connection open
    try:
        _answer(connection, handlers)
    except (Ended, Nonsense):
        # the trainer ends this group when it closes the connection, and the watch does when the trainer is gone:
        # to leave first would leave behind what the engine started
        while True:
            time.sleep(60)


def _answer(connection: socket.socket, handlers: dict[str, Handler]) -> None:
    version = -1
    while True:
        message = receive(connection, None)

        def progress(done: int) -> None:
            send(connection, {"kind": "progress", "done": done}, None)

        try:
            reply = handlers[message["kind"]](message, progress)
            version = message.get("version", version)
        except Ended:
            raise
        except ModuleNotFoundError as error:
            reply = {"kind": "error", "missing": error.name, "message": traceback.format_exc()}
        except Exception:
            reply = {"kind": "error", "message": traceback.format_exc()}
        send(connection, {**reply, "version": version}, None)
