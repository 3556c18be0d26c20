"""A trial of two processes as one job of two tasks: warned, put back, continued, and the numbers of a lone process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from saei import schema
from saei.config import from_dict
from saei.identity import trial_id
from saei.train import train
from tests.processes import assert_nearly_same_run
from tests.runs import SMALL
from tests.slurm.lab import Lab, status, wait_for

ROOT = Path(__file__).resolve().parents[2]
PROFILE = """
partition = "low"
gpus = 2
cpus = 1
time = "01:00:00"
signal_delay_s = 20
"""
STEPS = 4
MINE = ("steps", "rollout.n_clean", "rollout.n_view", "eval.every")
SETTINGS = [f"--set={name}={value}" for name, value in SMALL.items() if name not in MINE]


def command(results: Path, *words: str) -> list[str]:
    numbers = ["--seeds", "1", "--steps", str(STEPS), "--set=model.dtype=float64", "--set=eval.every=0"]
    line = [sys.executable, "sweeps/run.py", "tsec_ratio", "--only", "middle_1_3", *numbers, *SETTINGS]
    return [*line, "--results", str(results), "--no-report", *words]


def the_run(results: Path) -> Path | None:
    return next((path.parent for path in (results / "tsec_ratio").glob(f"*/{schema.STATUS_FILE}")), None)


@pytest.mark.slow
def test_two_tasks_train_one_trial_and_a_warned_job_goes_on_where_it_was(slurm: Lab, tmp_path: Path):
    (tmp_path / "site.toml").write_text(PROFILE)  # two GPUs: a task for each
    results = tmp_path / "cluster"
    with open(tmp_path / "runner.txt", "w") as told:
        words = ("--on", "slurm", "--cluster", str(tmp_path / "site.toml"))
        runner = subprocess.Popen(command(results, *words), cwd=ROOT, env=os.environ, stdout=told, stderr=told)
        try:
            found = wait_for(lambda: the_run(results) or runner.poll(), "the trial to begin", 120)
            assert isinstance(found, Path), (tmp_path / "runner.txt").read_text()
            folder = found
            wait_for(lambda: status(folder).get("step", 0) >= 1, lambda: f"a first step: {status(folder)}", 120)
            slurm.warn(status(folder)["job"])
            assert runner.wait(timeout=300) == 0, (tmp_path / "runner.txt").read_text()
        finally:
            runner.kill()

    log = (folder / schema.LOG_FILE).read_text()
    assert "continuing from step" in log and log.count(" done: ") == 1, log
    told_last = status(folder)
    assert (told_last["state"], told_last["world_size"], told_last["restarts"]) == (schema.FINISHED, 2, 1)
    environment = json.loads((folder / schema.ENVIRONMENT_FILE).read_text())
    assert [environment["world_size"], *(before["world_size"] for before in environment["earlier"])] == [2, 2]

    config = from_dict(json.loads((folder / schema.CONFIG_FILE).read_text())["config"])
    assert trial_id(config) == folder.name
    train(replace(config, out=str(tmp_path / "lone")))
    assert_nearly_same_run(folder, tmp_path / "lone")
