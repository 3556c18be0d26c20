"""The promise of the cluster path, whole: a disturbed array ends with every trial done once, and the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saei import schema
from tests.runs import SMALL, assert_same_run
from tests.slurm.lab import Lab, kill_trainer, status, wait_for

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("grpo", "no_tsec", "middle_1_3", "random_third")
SEEDS, STEPS = 3, 8
PROFILE = """
partition = "low"
gpus = 1
cpus = 1
time = "01:00:00"
parallel = 2
signal_delay_s = 20
"""
MINE = ("steps", "rollout.n_clean", "rollout.n_view")
SETTINGS = [f"--set={name}={value}" for name, value in SMALL.items() if name not in MINE]


def command(results: Path, *words: str) -> list[str]:
    arms = [word for arm in ARMS for word in ("--only", arm)]
    numbers = ["--seeds", str(SEEDS), "--steps", str(STEPS), "--results", str(results)]
    return [sys.executable, "sweeps/run.py", "tsec_ratio", *arms, *numbers, *SETTINGS, "--no-report", *words]


def runs(results: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in (results / "tsec_ratio").glob(f"*/{schema.CONFIG_FILE}")}


def training(results: Path, step: int = 1) -> list[Path]:
    """Run directories that are being trained and have come to `step`."""
    found = {folder: status(folder) for folder in runs(results).values()}
    return [folder for folder, told in found.items() if told.get("state") == schema.RUNNING and told["step"] >= step]


def finished(results: Path) -> int:
    return sum((folder / schema.DONE_FILE).exists() for folder in runs(results).values())


@pytest.mark.slow
def test_a_disturbed_array_finishes_every_trial_once_with_the_numbers_of_a_calm_local_run(slurm: Lab, tmp_path: Path):
    (tmp_path / "site.toml").write_text(PROFILE)
    results, calm = tmp_path / "cluster", tmp_path / "local"
    words = ("--on", "slurm", "--cluster", str(tmp_path / "site.toml"), "--retry-failed", "1")
    with open(tmp_path / "runner.txt", "w") as told:
        runner = subprocess.Popen(command(results, *words), cwd=ROOT, env=os.environ, stdout=told, stderr=told)
        try:
            wait_for(lambda: len(training(results)) == 2 or runner.poll() is not None, "two trials to train", 120)
            assert runner.poll() is None, (tmp_path / "runner.txt").read_text()
            preempted = {folder.name for folder in training(results)}
            important = slurm.preempt()
            slurm.wait_for_state(important, "RUNNING", "COMPLETED", seconds=60)
            slurm.wait_for_state(important, "COMPLETED", seconds=60)
            wait_for(lambda: finished(results) >= 2, "two trials to finish", 240)

            victim = wait_for(lambda: training(results), "a trial to train", 120)[0]
            kill_trainer(victim)
            wait_for(lambda: finished(results) >= 5, "five trials to finish", 240)

            slurm.restart_controller()
            assert runner.wait(timeout=600) == 0, (tmp_path / "runner.txt").read_text()
        finally:
            runner.kill()
    subprocess.run(command(calm, "--jobs", "2"), cwd=ROOT, check=True, timeout=600)

    assert len(runs(calm)) == len(ARMS) * SEEDS == 12
    assert runs(results).keys() == runs(calm).keys()
    for trial, folder in runs(results).items():
        assert_same_run(folder, runs(calm)[trial])
        log = (folder / schema.LOG_FILE).read_text()
        assert log.count(" done: ") == 1, f"{trial} ended more than once:\n{log}"
    for trial in preempted:
        log = (runs(results)[trial] / schema.LOG_FILE).read_text()
        assert "continuing from step" in log, f"{trial} was pre-empted and began anew:\n{log}"
    assert status(runs(results)[victim.name])["state"] == schema.FINISHED
