"""One of several processes of a trial, for tests: `python tests/process_child.py JOB.json`, with torchrun's variables.

JOB.json: {"configs": [...], "ports": [...], "plants": [[number, rank, fault], ...]}; one run of `train` for each
config, each meeting on a port of its own. A plant puts a fault of FAULTS into the updates of that config in that
process. How each run ended is left in `outcomes-<rank>.json` beside it: "done", or "<type>: <text>".
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch

import saei.train
from saei.config import from_dict
from tests.shard_facts import measured


def raises(original, *arguments, **options):
    raise ArithmeticError("planted")


def drifts(original, policy, *arguments, **options):
    result = original(policy, *arguments, **options)
    with torch.no_grad():
        next(policy.model.parameters()).add_(1e-3)
    return result


def warned(original, *arguments, **options):
    os.kill(os.getpid(), signal.SIGUSR2)
    return original(*arguments, **options)


FAULTS = {"raises": raises, "drifts": drifts, "warned": warned, "measured": measured}


def outcome(tree: dict) -> str:
    try:
        saei.train.train(from_dict(tree))
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def main() -> None:
    path, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    job, original, outcomes = json.loads(path.read_text()), saei.train.update_policy, []
    for number, (tree, port) in enumerate(zip(job["configs"], job["ports"], strict=True)):
        os.environ["MASTER_PORT"] = str(port)
        for where, who, fault in job["plants"]:
            if (where, who) == (number, rank):
                saei.train.update_policy = partial(FAULTS[fault], original)
        outcomes.append(outcome(tree))
        saei.train.update_policy = original
    path.with_name(f"outcomes-{rank}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
