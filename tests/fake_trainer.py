"""A trainer of no model: writes the run directory as `saei.train.train` does, in a moment. Also the sweep CLI with it.

Environment: FAKE_LOG, a file that gets a line per execution; FAKE_STEP_S, seconds per step; FAKE_FAIL_SEED;
FAKE_ERROR: raise a RuntimeError of this text, in which {seed} stands for the seed, at the first step;
FAKE_KILL_AT: kill itself at this step, unless it continues from there; FAKE_BYTES: written to disk at every step;
FAKE_EVAL: write an eval table too, with scores that fall with the distance of view.step_size from 4 grey levels.
"""

import fcntl
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from saei.config import Config

TRAINER = "tests.fake_trainer:train"


def _write(path: Path, tree: dict | int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(tree))
    os.replace(temporary, path)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _write_eval(folder: Path, config: Config) -> float:
    """8 problems, the later ones easier, 2 completions each, after the first and the last step; returns their mean."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    level = 0.7 - 0.1 * abs(math.log2(config.view.step_size / 4)) + 0.01 * config.seed
    last = {f"p{problem}": level + 0.02 * problem - 0.07 for problem in range(8)}
    rows = [
        {"step": step, "split": "validation", "decoding": "sampled", "problem_id": name, "accuracy": accuracy}
        for step in (0, config.steps)
        for name, accuracy in last.items()
        for accuracy in ((accuracy - 0.1, accuracy + 0.1) if step else (0.0, 0.0))
    ]
    (folder / "eval").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "eval" / f"part-000000-{config.steps:06d}.parquet")
    return sum(last.values()) / len(last)


def train(config: Config) -> None:
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    cursor = folder / "cursor"
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (folder / "DONE").exists():
            return
        first = int(cursor.read_text()) if cursor.exists() else 0
        with open(os.environ["FAKE_LOG"], "a") as log:
            log.write(f"{folder.name} {first} {os.environ['OMP_NUM_THREADS']}\n")
        step = first

        def status(state: str) -> None:
            numbers = {"reward": 0.5, "entropy": 0.2, "time_step": 0.1}
            where = {"state": state, "step": step, "steps": config.steps, "pid": os.getpid(), "heartbeat": time.time()}
            _write(folder / "status.json", where | numbers)

        try:
            if config.seed == int(os.environ.get("FAKE_FAIL_SEED", "-1")):
                raise ArithmeticError("the fake trainer was told to fail")
            for step in range(first, config.steps):
                status("running")
                if "FAKE_ERROR" in os.environ:
                    raise RuntimeError(os.environ["FAKE_ERROR"].format(seed=config.seed))
                if first < step == int(os.environ.get("FAKE_KILL_AT", "-1")):
                    os.kill(os.getpid(), signal.SIGKILL)
                (folder / f"ballast-{step}").write_bytes(bytes(int(os.environ.get("FAKE_BYTES", "0"))))
                time.sleep(float(os.environ.get("FAKE_STEP_S", "0")))
                _write(cursor, step + 1)  # at once: tests kill it at any moment
            step = config.steps
        except KeyboardInterrupt:
            status("interrupted")
            raise
        status("finished")
        # 0.5 for GRPO, 0.6 for anything with a view, plus a hundredth per seed
        score = 0.5 + 0.1 * (config.rollout.n_view > 0) + 0.01 * config.seed
        if "FAKE_EVAL" in os.environ:
            score = _write_eval(folder, config)
        _write(folder / "DONE", {"scores": {"validation/mean@8": score, "test/mean@8": score}})


if __name__ == "__main__":
    from saei.cli import run_main
    from sweeps.run import main

    sys.exit(run_main(lambda: main(sys.argv[1:], trainer=TRAINER)))
