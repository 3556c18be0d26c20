import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from saei import schema
from saei.checkpoint import checkpoints, read_cursor
from saei.cli import BadInput
from saei.config import to_dict
from saei.recorder import Recorder, RunBusy, run_lock
from saei.train import train
from tests.runs import assert_same_run, small_config

ROOT = Path(__file__).resolve().parent.parent


def launch(folder: Path, moment: str, count: int) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tests/kill_child.py"), str(folder / "config.in.json"), moment, str(count)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    train(small_config(run))
    return run


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_equals_a_straight_one(tmp_path, straight, seed):
    rng = np.random.default_rng(seed)
    run = tmp_path / "run"
    (tmp_path / "config.in.json").write_text(json.dumps(to_dict(small_config(run))))
    moments = {"sampling": (1, 4), "update": (1, 5), "checkpoint": (1, 2), "rename": (2, 9)}
    for moment in rng.permutation(list(moments)):
        low, high = moments[moment]
        ended = launch(tmp_path, moment, int(rng.integers(low, high)))
        assert ended.returncode == -signal.SIGKILL, f"{moment}: {ended.stderr[-2000:]}"
        assert not (run / schema.DONE_FILE).exists()
    ended = launch(tmp_path, "never", 0)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert_same_run(run, straight)


def test_another_checkpoint_interval_changes_no_number(tmp_path, straight):
    run = tmp_path / "run"
    train(small_config(run, checkpoint__every=3, checkpoint__keep=1))
    assert_same_run(run, straight)
    assert [read_cursor(path).step for path in checkpoints(run / "checkpoints")] == [4]


def test_resuming_cuts_a_part_that_reaches_beyond_the_checkpoint(tmp_path):
    recorder = Recorder(small_config(tmp_path))
    recorder.claim()
    recorder.open_part(0, 9)
    row = dict.fromkeys(schema.VIEWS, 0.0) | {"view": "clean", "completions": 1}
    recorder.add("views", [row | {"step": step} for step in range(10)])
    recorder.flush()
    (tmp_path / "images" / "step-000007-egas-p.png").write_bytes(b"")
    (tmp_path / "images" / "step-000003-egas-p.png").write_bytes(b"")
    recorder.forget_from(4)
    parts = list((tmp_path / "views").iterdir())
    assert [part.name for part in parts] == ["part-000000-000003.parquet"]
    assert pq.read_table(parts[0])["step"].to_pylist() == [0, 1, 2, 3]
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["step-000003-egas-p.png"]


def test_a_folder_of_another_trial_is_refused(tmp_path):
    Recorder(small_config(tmp_path)).claim()
    with pytest.raises(ValueError, match=r"they differ in seed \(0 there, 1 here\); choose another --out"):
        Recorder(small_config(tmp_path, seed=1)).claim()


def test_a_finished_folder_of_another_trial_is_refused_too(tmp_path):
    recorder = Recorder(small_config(tmp_path))
    recorder.claim()
    recorder.done({})
    with pytest.raises(BadInput, match="choose another --out"):
        train(small_config(tmp_path, seed=1))


def test_a_run_directory_has_one_writer(tmp_path):
    with run_lock(tmp_path), pytest.raises(RunBusy, match="another process"), run_lock(tmp_path):
        pass
    with run_lock(tmp_path):  # released with its holder
        pass


def test_sigterm_leaves_code_130_a_status_and_a_run_that_continues(tmp_path, straight):
    run = tmp_path / "run"
    arguments = []
    for name, value in {"steps": 4, "out": run}.items():
        arguments += [f"--{name}", str(value)]
    from tests.runs import SMALL

    for name, value in SMALL.items():
        if name != "steps":
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    command = [sys.executable, "-m", "saei.train", "--preset", "saei", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not list((run / "steps").glob("part-*")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "interrupted" in shown
    status = json.loads((run / schema.STATUS_FILE).read_text())
    kept = [int(path.name.removeprefix("step-")) for path in (run / schema.CHECKPOINTS_FOLDER).glob("step-*")]
    assert (status["state"], status["step"]) == (schema.INTERRUPTED, max(kept, default=0))
    train(small_config(run))
    assert_same_run(run, straight)
