"""Train the config of a file, and kill this process with SIGKILL at a given moment.

python tests/kill_child.py CONFIG.json sampling|update|checkpoint|rename|never COUNT
"""

import json
import os
import signal
import sys
from pathlib import Path

import safetensors.torch

import saei.engines.completing
import saei.train
from saei.config import from_dict


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def counted(function, count: int, *, before: bool = False):
    """`function`, with a SIGKILL before or after its call number `count` (1-based)."""
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if before and calls == count:
            kill()
        result = function(*args, **kwargs)
        if calls == count:
            kill()
        return result

    return wrapped


def inside_sampling(count: int):
    """The sampler, killed in the middle of decoding during its call number `count`."""
    original, calls = saei.engines.completing.sample, 0

    def wrapped(policy, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == count:
            policy.model.forward = counted(policy.model.forward, 4, before=True)
        return original(policy, *args, **kwargs)

    return wrapped


def main(config_file: str, moment: str, count: int) -> None:
    config = from_dict(json.loads(Path(config_file).read_text()))
    if moment == "sampling":
        saei.engines.completing.sample = inside_sampling(count)
    elif moment == "update":
        saei.train.update_policy = counted(saei.train.update_policy, count)
    elif moment == "checkpoint":
        safetensors.torch.save_model = counted(safetensors.torch.save_model, count)
    elif moment == "rename":
        os.replace = counted(os.replace, count, before=True)
    saei.train.train(config)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
