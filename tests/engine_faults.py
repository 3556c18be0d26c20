"""An engine worker without a model: answers by rote, or fails as its option `fault` says. Standard library only."""

import os
import subprocess
import sys
import time
from pathlib import Path

from saei.engines.worker import serve

END = 7
OPTIONS: dict = {}


def start(message, progress):
    OPTIONS.update(message["options"])
    if OPTIONS.get("fault") == "dies at the start":
        sys.exit("no kernel image is available")
    if "child" in OPTIONS:  # an engine's own worker process, in its group
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(OPTIONS["child"]).write_text(str(child.pid))
    return {"kind": "ready", "engine": "rote 1"}


def sync(message, progress):
    if OPTIONS.get("fault") == "keeps the old weights":
        message["version"] -= 1
    return {"kind": "synced"}


def sample(message, progress):
    fault = OPTIONS.get("fault")
    if fault == "dies" or (fault == "dies once" and not Path(OPTIONS["mark"]).exists()):
        Path(OPTIONS["mark"]).touch()
        print("out of memory, said the engine", flush=True)
        os._exit(3)
    if fault == "hangs":
        time.sleep(600)
    if fault == "is slow":
        for done in range(4):
            time.sleep(0.4)
            progress(done)
    if fault == "raises":
        raise RuntimeError("no room for the cache")
    if fault == "babbles":
        os.write(int(sys.argv[1]), b"Loading weights: 100%|####|")
    results = []
    for request in message["requests"]:
        completions = []
        for seed in request["seeds"]:
            tokens = [1 + (seed or 0) % 5, END]
            completions.append({"tokens": tokens, "logprobs": [-0.5, -0.25], "finish": "stop"})
        results.append({"prompt": request["prompt"], "completions": completions})
    return {"kind": "completions", "results": results}


if __name__ == "__main__":
    serve({"start": start, "sync": sync, "sample": sample})
