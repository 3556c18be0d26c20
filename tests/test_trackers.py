import json
import math
import os
import signal
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import saei.trackers
from saei import schema
from saei.cli import BadInput
from saei.options import check_names
from saei.trackers import LEDGER_FILE, Trackers
from saei.train import train
from tests.runs import frame, small_config


def told(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Curve -> its points (step, value), in the order in which they were written."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_gets_every_step_and_evaluation_once_also_after_an_interruption(tmp_path, monkeypatch):
    settings = {"record__trackers": ("tensorboard",), "checkpoint__every": 2}
    original, calls = saei.train.train_step, []

    def step_then_ctrl_c(*args):
        row = original(*args)
        calls.append(row["step"])
        return row

    with monkeypatch.context() as patched:
        patched.setattr(saei.train, "train_step", step_then_ctrl_c)
        save = saei.train.save_run
        # after the fourth step has been recorded and told, and before its checkpoint
        patched.setattr(saei.train, "save_run", lambda run, step: _interrupt() if step == 4 else save(run, step))
        with pytest.raises(KeyboardInterrupt):
            train(small_config(tmp_path, **settings))
    assert calls == [0, 1, 2, 3]
    final = train(small_config(tmp_path, **settings))  # does steps 2 and 3 again
    curves = told(tmp_path)
    rows = frame(tmp_path, "steps")
    assert curves["steps/reward"] == [(step, pytest.approx(rows["reward"][step])) for step in range(4)]
    assert curves["steps/time_step"][3][1] > 0
    name = "validation/mean@2"
    shown = next(curves[tag] for tag in (name, name.replace("@", "_")) if tag in curves)
    assert [step for step, _ in shown] == [0, 2, 4] and shown[-1][1] == pytest.approx(final[name])
    assert not any(math.isnan(value) for points in curves.values() for _, value in points)
    settings_files = list((tmp_path / "tensorboard").glob("*/hparams.yml"))
    assert len(settings_files) == 1 and "optim.lr: 0.0001" in settings_files[0].read_text()


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_unknown_tracker_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(BadInput, match=r"record.trackers may name aim, .*tensorboard.*, got 'tensorbord'; installed: "):
        check_names(small_config(tmp_path, record__trackers=("tensorbord",)))


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(saei.trackers, "_available", lambda: set())
    with pytest.raises(BadInput, match=r"names tensorboard, whose package is not installed; none is installed: pip"):
        check_names(small_config(tmp_path, record__trackers=("tensorboard",)))


def test_a_tracker_named_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names an entry twice"):
        small_config(tmp_path, record__trackers=("tensorboard", "tensorboard"))


class Broken:
    """A tracker whose server is away."""

    def __init__(self, run_name, logging_dir): ...

    def start(self): ...

    def store_init_configuration(self, values): ...

    def log(self, values, step):
        raise ConnectionError("the server is away")

    def finish(self):
        raise ConnectionError("still away")


def test_a_tracker_that_fails_is_a_counted_warning_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(saei.trackers, "_classes", lambda: {"tensorboard": Broken})
    train(small_config(tmp_path, steps=2, record__trackers=("tensorboard",)))
    assert (tmp_path / schema.DONE_FILE).exists()
    log = (tmp_path / schema.LOG_FILE).read_text()
    assert log.count("tracker tensorboard failed, the run goes on: ConnectionError: the server is away") == 1
    # the evaluation before step 0, 2 steps, the final scores, and the end
    assert "tracker tensorboard failed 5 times in this launch" in log


def test_a_tracker_that_does_not_start_is_told_nothing(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError("log in first")

    monkeypatch.setattr(Broken, "start", refuse)
    monkeypatch.setattr(saei.trackers, "_classes", lambda: {"tensorboard": Broken})
    said: list[str] = []
    trackers = Trackers(tmp_path, said.append)
    trackers.start(small_config(tmp_path, record__trackers=("tensorboard",)), "t")
    trackers.step({"step": 0, "reward": 1.0})
    trackers.finish()
    assert said == [
        "tracker tensorboard failed, the run goes on: PermissionError: log in first",
        "tracker tensorboard failed 1 times in this launch; the tables have everything",
    ]


def test_without_trackers_nothing_is_left(tmp_path):
    train(small_config(tmp_path, steps=0))
    assert not (tmp_path / LEDGER_FILE).exists() and not (tmp_path / "tensorboard").exists()


def test_the_ledger_is_written_before_the_tracker_is_told(tmp_path, monkeypatch):
    seen = []

    class Reader(Broken):
        def log(self, values, step):
            seen.append(json.loads((tmp_path / LEDGER_FILE).read_text())["tensorboard"]["steps"])

    monkeypatch.setattr(saei.trackers, "_classes", lambda: {"tensorboard": Reader})
    trackers = Trackers(tmp_path)
    trackers.start(small_config(tmp_path, record__trackers=("tensorboard",)), "t")
    trackers.step({"step": 7, "reward": 1.0})
    trackers.step({"step": 7, "reward": 1.0})
    assert seen == [7]


@pytest.mark.parametrize("content", [b"\xff", b"[1]", b'{"tensorboard": 3}', b'{"tensorboa'])
def test_a_broken_ledger_stops_no_run(tmp_path, monkeypatch, content):
    (tmp_path / LEDGER_FILE).write_bytes(content)
    monkeypatch.setattr(saei.trackers, "_classes", lambda: {"tensorboard": Broken})
    trackers = Trackers(tmp_path, lambda _: None)
    trackers.start(small_config(tmp_path, record__trackers=("tensorboard",)), "t")
    trackers.step({"step": 2, "reward": 1.0})
    assert json.loads((tmp_path / LEDGER_FILE).read_text()) == {"tensorboard": {"steps": 2}}
