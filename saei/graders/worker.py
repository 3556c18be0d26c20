"""A grader process: reads one JSON task a line, writes one JSON result a line. Started by `saei.graders.pool`.

It dies with its parent: the kernel kills it when the parent goes (Linux), its standard input ends (everywhere), and an
alarm with the default action ends a task that nobody watches any more.
"""

import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import sys
import traceback

MEMORY_BYTES = 3 << 30
PR_SET_PDEATHSIG = 1
ABANDONED_S = 3.0  # grace behind the parent's own deadline
RULES = {
    "mathematics": "saei.graders.mathematics",
    "ruler": "saei.graders.ruler",
    "rounded": "saei.graders.rounded",
}
"""Name of a rule -> the module whose `compare(answer, gold)` it is; loaded when it is first asked for."""


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(parent: int, timeout_s: float) -> None:
    """Answer tasks `{"answer", "gold", "rule"}` with `{"equal", "status"}` or `{"bug"}` until standard input ends."""
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a print in a library must not become a reply
    importlib.import_module(RULES["mathematics"])  # half a second that no task's time limit has to pay

    logging.disable(logging.CRITICAL)
    _limit_memory()
    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, timeout_s + ABANDONED_S)
        task = json.loads(line)
        try:
            compare = importlib.import_module(RULES[task["rule"]]).compare
            equal, status = compare(task["answer"], task["gold"])
            reply = {"equal": equal, "status": status}
        except Exception:
            reply = {"bug": traceback.format_exc()}
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
