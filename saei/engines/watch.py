"""What every engine worker does first: get ready to end with the trainer, whatever ends it. Standard library only."""

import os
import shutil
import signal
import threading
import time

_EVERY_S = 0.5


def end_with(parent: int, folder: str) -> None:
    """Watch the process `parent` from a thread: when it is gone, delete `folder` and kill this process's group.

    Ctrl-C is ignored from here on: it is the trainer's to handle.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY_S)
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
