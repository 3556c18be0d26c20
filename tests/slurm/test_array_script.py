"""slurm/array.sbatch with the real trainer: plain tasks share the missing trials, and a warned one loses nothing."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from saei import schema
from saei.config import from_dict
from tests.runs import SMALL, assert_same_run
from tests.slurm.lab import Lab, status, wait_for

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
EVERY = 5  # the warning comes between two regular checkpoints
SETTINGS = [
    f"--set={name}={value}"
    for name, value in (SMALL | {"checkpoint.every": EVERY, "eval.every": EVERY}).items()
    if name not in ("steps", "rollout.n_clean", "rollout.n_view")
]


def test_tasks_share_the_trials_and_a_warned_one_loses_nothing(slurm: Lab, tmp_path: Path):
    results = tmp_path / "results"
    words = ["tsec_ratio", "--only", "grpo", "--seeds", "2", f"--steps={STEPS}", f"--results={results}", *SETTINGS]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["sbatch", "--parsable", "--array=0-2%2", f"--output={tmp_path}/%a.txt", "slurm/array.sbatch", *words]
    array = subprocess.check_output(command, cwd=ROOT, env=environment, text=True).strip()

    def runs() -> list[Path]:
        return sorted(path.parent for path in (results / "tsec_ratio").glob(f"*/{schema.STATUS_FILE}"))

    def told() -> str:
        return "\n".join(path.read_text() for path in sorted(tmp_path.glob("?.txt")))

    found = wait_for(lambda: [run for run in runs() if 1 <= status(run)["step"] < EVERY], told, 120)
    warned = found[0]
    job = status(warned)["job"]
    slurm.warn(job)
    wait_for(lambda: "was warned and is back in the queue" in (tmp_path / f"{job[-1]}.txt").read_text(), told)
    tasks = [f"{array}_{number}" for number in range(3)]
    wait_for(lambda: [slurm.state(task) for task in tasks] == ["COMPLETED"] * 3, told, 120)

    assert len(runs()) == 2
    assert Counter(line.split(":")[0] for line in told().splitlines() if line.startswith("taking ")) == {
        f"taking grpo seed {run.name[-1]}": 2 if run == warned else 1 for run in runs()
    }
    # the third task comes when the other two have ended, or while one of them still trains
    assert re.search(r"nothing left to take: (all 2|1 of 2) trials are finished", told())
    assert "continuing from step" in (warned / schema.LOG_FILE).read_text()
    plan = json.loads((results / "tsec_ratio" / schema.PLAN_FILE).read_text())
    assert {entry["trial_id"] for entry in plan["trials"]} == {run.name for run in runs()}

    from saei.train import train

    config = from_dict(json.loads((warned / schema.CONFIG_FILE).read_text())["config"])
    train(replace(config, out=str(tmp_path / "straight")))
    assert_same_run(warned, tmp_path / "straight")
