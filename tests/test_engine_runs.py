"""Whole runs whose completions come from another process: our own sampler there, so every figure is known."""

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from saei.engines import served
from saei.engines.process import Worker
from saei.train import train
from tests.runs import frame, small_config

SHIFT = -0.25


@pytest.fixture(autouse=True)
def our_sampler_as_engine(monkeypatch):
    monkeypatch.setitem(served.WORKERS, "vllm", Worker("tests.engine_fake", alone=False))


def run_with_engine(out: Path, name: str = "saei", **overrides) -> pd.DataFrame:
    settings = {
        "steps": 2,
        "eval__every": 0,
        "eval__problems": 1,
        "eval__test_problems": 1,
        "optim__lr": 1e-3,
        "optim__warmup_steps": 0,
        "rollout__engine": "vllm",
        "rollout__engine_python": sys.executable,
        "rollout__engine_options": (f"shift={SHIFT}",),
        **overrides,
    }
    train(small_config(out, name, **settings))
    return frame(out, "steps")


def test_a_run_with_an_engine_knows_its_mismatch_and_hands_every_step_its_weights(tmp_path):
    steps = run_with_engine(
        tmp_path / "run", loss__engine_correction="token_truncated", loss__engine_cap=2.0, eval__engine="vllm"
    )
    # the engine says exp(-0.25) times the probability; had it kept step 0's weights, step 1 would say otherwise
    for column, value in {
        "engine_gap": -SHIFT,
        "engine_gap_max": -SHIFT,
        "engine_kl": SHIFT,
        "engine_kl_k3": math.exp(-SHIFT) - 1 + SHIFT,
        "engine_weight": math.exp(-SHIFT),
        "engine_unknown_share": 0,
        "engine_capped_share": 0,
    }.items():
        assert steps[column].tolist() == pytest.approx([value] * 2, abs=2e-4), column
    assert steps["engine_sequence_gap"].tolist() == pytest.approx(list(-SHIFT * steps["completion_length"]), rel=1e-3)
    views = frame(tmp_path / "run", "views").set_index(["step", "view"])
    assert views.loc[(0, "clean"), "view_gap"] == pytest.approx(0, abs=1e-5)  # the trainer's log-probs on both sides
    assert abs(views.loc[(0, "egas"), "view_gap"]) > 1e-4
    evaluated = frame(tmp_path / "run", "eval")
    assert set(evaluated["decoding"]) == {"sampled", "greedy"} and evaluated["entropy"].notna().all()
    assert not list((tmp_path / "run").glob("engine*"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "completions by fake: seeded one by one, so arms of a sweep are not paired token by token" in log


@pytest.mark.slow
def test_older_weights_show_in_the_mismatch(tmp_path):
    steps = run_with_engine(
        tmp_path / "run", "grpo", rollout__engine_sync_every=2, rollout__engine_options=("shift=0.0",), optim__lr=3e-3
    )
    first, second = steps["engine_kl_k3"]
    assert first == pytest.approx(0, abs=1e-6) and second > 1e-3
    assert math.isnan(steps["engine_weight"][0])


@pytest.mark.slow
def test_every_process_of_a_trial_has_an_engine_with_all_weights(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.engine_processes", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = frame(tmp_path / "run", "steps")
    assert steps["engine_gap"].tolist() == pytest.approx([-SHIFT] * 2, abs=2e-4)
    assert steps["engine_gap_max"].tolist() == pytest.approx([-SHIFT] * 2, abs=2e-4)
    assert not list((tmp_path / "run").glob("engine*"))
