"""One of several processes of a trial, for tests: `python tests/process_child.py JOB.json`, with torchrun's variables.

JOB.json: {"configs": [...], "ports": [...], "fail": [number, rank, step] or null}; one run of `train` for each config,
each meeting on a port of its own. With `fail` the update of that config, process and step raises. How each run ended is
left in `outcomes-<rank>.json` beside it: "done", or "<type>: <text>".
"""

import json
import os
import sys
from pathlib import Path

import saei.train
from saei.config import from_dict


def planted(step: int):
    original, calls = saei.train.update_policy, []

    def update(*arguments, **options):
        calls.append(1)
        if len(calls) > step:
            raise ArithmeticError("planted")
        return original(*arguments, **options)

    return update


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
        if job["fail"] and job["fail"][:2] == [number, rank]:
            saei.train.update_policy = planted(job["fail"][2])
        outcomes.append(outcome(tree))
        saei.train.update_policy = original
    path.with_name(f"outcomes-{rank}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
