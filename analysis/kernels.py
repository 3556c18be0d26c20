"""Kernels that execute notebooks: started once, handed out one notebook at a time, ended with their `with` block."""

import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync

ROOT = Path(__file__).resolve().parent.parent


class NoMoreKernels(RuntimeError):
    """The `with` block is being left: nothing is started any more."""


class Kernels:
    """This interpreter's own kernels, whatever kernels the user has installed, with no history and no start-up files.

    Their sockets are files in a folder that only this user can read. Threads may share one of these.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[AsyncKernelManager] = []
        self._all: list[AsyncKernelManager] = []
        self._is_over = False
        self._folder = tempfile.TemporaryDirectory(prefix="report-")

    def __enter__(self) -> "Kernels":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._is_over = True
            left = list(self._all)  # threads that see theirs end discard it meanwhile
        for kernel in left:
            self._end(kernel)
        self._folder.cleanup()

    def take(self) -> AsyncKernelManager:
        """An idle kernel, or a new one. Raises NoMoreKernels once the `with` block is being left."""
        with self._lock:
            if self._is_over:
                raise NoMoreKernels("the kernels have been stopped")
            if self._idle:
                return self._idle.pop()
            kernel = AsyncKernelManager(
                kernel_name="python3",
                # no folders: the kernel of this interpreter, not one of the same name that the user installed
                kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
                connection_file=str(Path(self._folder.name) / f"{len(self._all)}.json"),
                transport="ipc",
            )
            own = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "IPYTHONDIR": self._folder.name}
            history = ["--HistoryManager.hist_file=:memory:"]
            run_sync(kernel.start_kernel)(cwd=str(ROOT), env={**os.environ, **own}, extra_arguments=history)
            self._all.append(kernel)
            return kernel

    def give_back(self, kernel: AsyncKernelManager) -> None:
        """For the next notebook; what this one defined is still in it."""
        with self._lock:
            self._idle.append(kernel)

    def discard(self, kernel: AsyncKernelManager) -> None:
        """End a kernel that hangs or has died."""
        with self._lock:
            self._all = [other for other in self._all if other is not kernel]
        self._end(kernel)

    def _end(self, kernel: AsyncKernelManager) -> None:
        if kernel.has_kernel:
            run_sync(kernel.shutdown_kernel)(now=True)
        run_sync(kernel.cleanup_resources)()
