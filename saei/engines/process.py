"""One engine process: started in a group of its own, asked over a socket, ended with everything it started.

The worker watches its parent: when the trainer is gone, however it went, the worker clears the folder and ends its
group (`saei/engines/watch.py`). What the engine prints goes to a file whose last lines every error shows.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saei.cli import BadInput, Told
from saei.engines.frames import Ended, Nonsense, Silent, receive, send

LOG_FILE = "engine.log"
_TOLD_LINES = 12
_LAST_BREATH_S = 5.0


class EngineLost(Told):
    """The engine died or does not answer; another one may be started."""


class EngineRefused(Told):
    """The engine answered with an error, or with something that cannot be used: a new start would not help."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A module that serves an engine. `alone`: it needs no package of ours but those files of this folder that need
    nothing but the standard library, and its environment sees no more than these. Without `package` in its Python it
    does not start, and `cure` says where to get one.
    """

    module: str
    alone: bool = True
    package: str = ""
    cure: str = ""


_FOR_WORKERS = ("__init__", "frames", "watch", "worker", "vllm_worker")


class EngineProcess:
    """A running worker. Every method that talks to it ends it before it raises."""

    def __init__(self, python: str, worker: "Worker", folder: Path, environment: Mapping[str, str]) -> None:
        """Start `worker` with `folder` for its log. Raises BadInput where the Python is not there."""
        self.log = folder / LOG_FILE
        ours, theirs = socket.socketpair()
        command = [python, "-m", worker.module, str(theirs.fileno()), str(os.getpid()), str(folder)]
        with theirs, self.log.open("ab") as output:
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**environment, "PYTHONPATH": str(_code(worker, folder))},
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is the trainer's; the group is ended as one
                )
            except OSError as error:
                ours.close()
                raise BadInput(f"rollout.engine_python {python!r} cannot be started: {error}") from error
        self._connection, self._python, self._worker = ours, python, worker

    def ask(self, message: dict[str, Any], limit_s: float, between: Callable[[], None]) -> dict[str, Any]:
        """Send a message and return its reply; reports of progress on the way each give the engine `limit_s` more.

        Raises EngineLost when the engine is gone or silent for `limit_s` seconds, EngineRefused for an error of its
        own and for what is no message, BadInput where its Python lacks the engine's package.
        """
        try:
            send(self._connection, message, limit_s)
            while True:
                reply = receive(self._connection, limit_s, between)
                if reply.get("kind") != "progress":
                    break
        except Ended as error:
            raise EngineLost(f"the rollout engine's process ended {self._how()}{self._last_lines()}") from error
        except Silent as error:
            self.end()
            raise EngineLost(
                f"the rollout engine said nothing for {limit_s:g} s (rollout.engine_timeout_s) after "
                f"{message['kind']!r}{self._last_lines()}"
            ) from error
        except Nonsense as error:
            self.end()
            raise EngineRefused(f"the rollout engine does not keep to the protocol: {error}") from error
        except BaseException:
            self.end()  # interrupted in the middle: its answer would be taken for that to the next question
            raise
        if reply.get("kind") == "error":
            self.end()
            if self._worker.package and reply.get("missing") == self._worker.package:
                raise BadInput(
                    f"rollout.engine_python {self._python!r}: that Python has no {self._worker.package}: "
                    f"{self._worker.cure}"
                )
            raise EngineRefused(f"the rollout engine: {str(reply.get('message'))[:4000]}{self._last_lines()}")
        return reply

    def end(self) -> None:
        """Kill the worker and everything that it started, and wait for its end."""
        self._connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _how(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):  # its own end says more than ours
            self.process.wait(_LAST_BREATH_S)
        self.end()
        code = self.process.returncode
        if code == -signal.SIGKILL:
            return "(killed: by the system where memory ran out, or by hand)"
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"

    def _last_lines(self) -> str:
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 4000))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        shown = [line[:300] for line in lines if line.strip()][-_TOLD_LINES:]
        return "".join(["; its last lines:\n  ", "\n  ".join(shown)]) if shown else ""


def _code(worker: Worker, folder: Path) -> Path:
    """What goes into the worker's path. Not the folder that holds `saei` where it is installed: that has the trainer's
    packages, which must not mix with those of the engine's environment.
    """
    here = Path(__file__).resolve().parent
    if not worker.alone:
        return here.parents[1]
    package = folder / "code" / "saei"
    (package / "engines").mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    for name in _FOR_WORKERS:
        shutil.copy(here / f"{name}.py", package / "engines")
    return package.parent
