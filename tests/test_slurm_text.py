"""The exact text that sbatch is given, for several profiles, without a Slurm."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from saei.cli import run_main
from sweeps.command import Command
from sweeps.run import main
from sweeps.slurm.feed import chunks
from sweeps.slurm.profile import ROOT, read_profile
from sweeps.slurm.text import Batch, sbatch_text
from sweeps.slurm.tickets import read_tickets
from tests.fake_slurm import FakeSlurm
from tests.fake_trainer import TRAINER

GOLDEN = ROOT / "tests" / "golden"
EXAMPLE = ["--cluster", str(ROOT / "slurm" / "example.toml")]
PAIR = ["components", "--only", "grpo", "--only", "saei", "--no-report", "--on", "slurm", *EXAMPLE]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "executions"))
    return tmp_path / "results"


def sweep(*words, results):
    return run_main(lambda: main([*words, "--results", str(results)], trainer=TRAINER))


def same_places(text, results):
    """The text without what differs from machine to machine and from commit to commit."""
    text = text.replace(str(results.resolve()), "RESULTS").replace(os.getcwd(), "LAUNCHED")
    return re.sub(r"\.code/\w+-\w+", ".code/COMMIT", text)


PROFILES = {
    "plain": 'time = "04:00:00"\npython = "python"\nrequeue = false\ncpus = 2',
    "two_nodes": """
partition = "gpu"
account = "vision"
qos = "long"
constraint = "a100|h100"
nodes = 2
gpus = 4
cpus = 8
mem_gb = 240.5
time = "1-12:00:00"
parallel = 2
modules = ["cuda/12.8", "python/3.11"]
setup = ["source ~/venv/bin/activate"]
python = "python"
srun = ["--cpu-bind=cores"]
signal_delay_s = 300
[env]
HF_HOME = "/scratch/my models"
NCCL_DEBUG = "WARN"
[extra]
mail-type = "FAIL"
exclusive = true
""",
    "pyxis": """
gpus = 1
time = 480
container = "/images/saei.sqsh"
container_mounts = ["/scratch:/scratch"]
""",
    "apptainer": """
gpus = 2
tasks = 1
time = 480
container_command = "apptainer exec --nv /images/saei.sif"
""",
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_gives_its_golden_text(tmp_path, name):
    path = tmp_path / "site.toml"
    path.write_text(PROFILES[name])
    batch = Batch(
        sweep="components", token="TOKEN", count=1 if name == "plain" else 12, throttle=4,
        code=Path("/group/results/.code/0123456789ab-cdef0123"), results=Path("/group/results"),
        folder=Path("/home/me/work bench"), threads=2,
    )  # fmt: skip
    assert sbatch_text(read_profile(path), batch) == (GOLDEN / f"{name}.sbatch").read_text()
    shell = subprocess.run(["bash", "-n", str(GOLDEN / f"{name}.sbatch")], capture_output=True, text=True, check=False)
    assert shell.returncode == 0, shell.stderr


def test_a_dry_run_prints_trials_cost_and_the_golden_text_and_writes_nothing(results, capsys):
    assert sweep("tsec_ratio", "--on", "slurm", "--dry-run", "--seeds", "2", *EXAMPLE, results=results) == 0
    out = capsys.readouterr().out
    # 9 arms, 2 seeds, 150 steps: 18 trials, 2700 steps
    assert "To run: 18 of 18 trials, 2700 steps of 1.50 s" in out and "8 at a time" in out and "GPU-hours" in out
    assert same_places(out[out.index("#!/bin/bash") :], results) == (GOLDEN / "tsec_ratio.sbatch").read_text()
    assert not results.exists()


def test_a_dry_run_shows_every_array_of_a_chunked_launch(results, tmp_path, capsys):
    path = tmp_path / "site.toml"
    path.write_text("time = 60\nmax_array = 4\nparallel = 2")
    assert (
        sweep("components", "--on", "slurm", "--dry-run", "--seeds", "1", "--cluster", str(path), results=results) == 0
    )
    out = capsys.readouterr().out
    # 10 arms: 4 + 4 + 2
    assert re.findall(r"## array (.*)\n", out) == ["1 to 2 of 3", "3 of 3"]
    assert re.findall(r"--array=(\S+)", out) == ["0-3%2", "0-1%2"]


def test_chunks_keep_to_the_array_size_the_submit_limit_and_the_throttle(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text("time = 60\nmax_submitted = 5\nparallel = 3")
    assert chunks(12, read_profile(path), 100) == [(5, 3), (5, 3), (2, 2)]
    path.write_text("time = 60")
    assert chunks(12, read_profile(path), 7) == [(7, 7), (5, 5)]


def test_what_is_submitted_is_the_text_of_the_dry_run_and_its_code_is_there(results, tmp_path, monkeypatch, capsys):
    slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)
    words = [*PAIR, "--seeds", "1", "--jobs", "1"]
    assert sweep(*words, "--dry-run", results=results) == 0
    out = capsys.readouterr().out
    assert sweep(*words, "--detach", results=results) == 0
    assert "submitted 2 trials: array 1, 1 at a time" in capsys.readouterr().out
    tickets = read_tickets(results)
    (token,) = {ticket.token for ticket in tickets.values()}
    (text,) = slurm.submissions
    assert text.replace(token, "TOKEN").strip() == out[out.index("#!/bin/bash") :].strip()
    assert "--array=0-1%1" in text
    assert sorted(ticket.job for ticket in tickets.values()) == ["1_0", "1_1"]
    assert len(list((results / "components" / ".jobs" / token).glob("*submitted.pkl"))) == 2
    code = re.findall(r"PYTHONPATH=(\S+?)\$", text)[0]
    assert (Path(code) / "saei" / "train.py").read_text() == (ROOT / "saei" / "train.py").read_text()


def test_a_single_trial_is_a_plain_job_and_its_text_is_that_of_the_dry_run(results, tmp_path, monkeypatch, capsys):
    slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)
    words = ["components", "--only", "grpo", "--on", "slurm", *EXAMPLE, "--seeds", "1"]
    assert sweep(*words, "--dry-run", results=results) == 0
    out = capsys.readouterr().out
    assert sweep(*words, "--detach", results=results) == 0
    (ticket,) = read_tickets(results).values()
    assert ticket.job == "1" and ticket.index == 0
    (text,) = slurm.submissions
    assert text.replace(ticket.token, "TOKEN").strip() == out[out.index("#!/bin/bash") :].strip()
    assert "--array" not in text


def test_on_slurm_an_equal_trial_of_another_sweep_is_pointed_to(results, tmp_path, monkeypatch, capsys):
    slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)
    few = ["--seeds", "1", "--steps", "1", "--no-report"]
    assert sweep("group_split", "--only", "split_12_0", *few, results=results) == 0
    assert sweep("components", "--only", "grpo", *few, "--on", "slurm", *EXAMPLE, results=results) == 0
    assert "1 of 1 trials are finished" in capsys.readouterr().out
    assert len(list(results.glob("components/*/SAME_AS"))) == 1
    assert not slurm.submissions


def test_without_slurm_submitting_ends_with_a_sentence_and_code_2(results, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert sweep(*PAIR, results=results) == 2
    assert "there is no sbatch on PATH" in capsys.readouterr().err
    assert not results.exists()


def test_a_profile_without_slurm_is_refused():
    with pytest.raises(ValueError, match=r"--cluster my\.toml is for --on slurm"):
        Command(name="components", cluster=Path("my.toml"), dry_run=True)
    assert Command(name="components", cluster=Path("my.toml"), plan=True).on == "local"
