import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from submitit.core import job_environment
from submitit.core.utils import DelayedSubmission

import saei.recorder
import saei.train
from saei import schema
from saei.checkpoint import checkpoints, read_cursor
from saei.distributed import ALONE
from saei.recorder import LOCK_FILE, RunBusy, claimed, run_lock
from saei.standing import Standing
from saei.stopping import Warned, until_warned
from saei.train import train
from sweeps.locks import is_held
from tests.processes import ended, outcomes, output, start
from tests.runs import assert_same_run, frame, small_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _outside_of_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def requeued(monkeypatch):
    """Signals that reached the handler which was there before, as submitit's is: it ends the process."""
    heard = []

    def handler(number, frame):
        heard.append(number)
        sys.exit(-1)

    before = signal.signal(signal.SIGUSR2, handler)
    yield heard
    signal.signal(signal.SIGUSR2, before)


def warn(number: int = signal.SIGUSR2) -> None:
    os.kill(os.getpid(), number)


def test_usr2_only_sets_a_flag_and_goes_on_to_the_handler_before_when_the_run_has_stopped(requeued):
    with pytest.raises(SystemExit), until_warned() as stopping:
        warn()
        assert stopping.agreed(ALONE) == signal.SIGUSR2 and not requeued
        raise Warned(stopping.number)
    assert requeued == [signal.SIGUSR2]


def test_usr2_without_a_handler_before_interrupts_the_run(monkeypatch):
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt, match="warned by SIGUSR2"), until_warned() as stopping:
            warn()
            raise Warned(stopping.number)
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_sigterm_interrupts_at_once_outside_of_slurm():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), until_warned():
        warn(signal.SIGTERM)
        time.sleep(5)  # never slept to its end: the handler raises
        raise AssertionError("SIGTERM was not heard")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_sigterm_in_a_slurm_job_warns_and_the_second_interrupts(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with until_warned() as stopping:
        warn(signal.SIGTERM)
        assert stopping.number == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            warn(signal.SIGTERM)


def test_only_an_evaluation_that_may_be_left_is_cut_short():
    with until_warned() as stopping:
        stopping.cuts = True
        stopping.cut_short()  # not warned
        warn()
        stopping.cuts = False
        stopping.cut_short()  # warned in a step
        stopping.cuts = True
        with pytest.raises(saei.stopping.CutShort):
            stopping.cut_short()


def test_submitit_puts_the_same_call_back(tmp_path):
    config = small_config(tmp_path / "run")
    pickled = tmp_path / "submitted.pkl"
    # "" means: nothing speaks against a requeue
    assert job_environment._checkpoint(DelayedSubmission(train, config), pickled, 3) == ""
    again = DelayedSubmission.load(pickled)
    assert again.function is train and again.args == (config,) and not again.kwargs


def status(run: Path) -> dict:
    return json.loads((run / schema.STATUS_FILE).read_text())


def steps_of(run: Path) -> list[int]:
    return [read_cursor(path).step for path in checkpoints(run / schema.CHECKPOINTS_FOLDER)]


def warned_in(monkeypatch, name: str, step: int, *, after: bool):
    """The next train() is warned around the call of `saei.train.<name>` for this step."""
    original = getattr(saei.train, name)

    def wrapped(*args, **kwargs):
        now = kwargs["step"] if "step" in kwargs else args[-1]
        if now == step and not after:
            warn()
        result = original(*args, **kwargs)
        if now == step and after:
            warn()
        return result

    monkeypatch.setattr(saei.train, name, wrapped)


def test_a_run_warned_in_a_step_in_an_evaluation_and_at_the_end_equals_a_straight_one(tmp_path, monkeypatch, requeued):
    settings = {"steps": 9, "checkpoint__every": 25, "eval__every": 4, "view__back_off": True}
    straight, run = tmp_path / "straight", tmp_path / "run"
    train(small_config(straight, **settings))
    # (where it is warned, for which step) -> the step it stops at, its checkpoints (keep is 2)
    moments = [("train_step", 6, True, 7, [7]), ("evaluate_split", 8, False, 8, [7, 8]),
               ("evaluate_split", 9, False, 9, [8, 9])]  # fmt: skip
    for name, step, after, stops, kept in moments:
        with monkeypatch.context() as patched, pytest.raises(SystemExit):
            warned_in(patched, name, step, after=after)
            train(small_config(run, **settings))
        told = status(run)
        assert (told["state"], told["step"]) == (schema.INTERRUPTED, stops)
        assert "warned by SIGUSR2" in told["message"]
        assert steps_of(run) == kept
        assert not (frame(run, "eval")["step"] >= max(stops, 8)).any(), "rows of an evaluation that was left"
        assert not (run / schema.DONE_FILE).exists()
    assert requeued == [signal.SIGUSR2] * 3
    train(small_config(run, **settings))
    assert_same_run(run, straight)


def test_all_processes_of_a_trial_stop_at_the_step_at_which_one_was_warned(tmp_path):
    run = small_config(tmp_path / "run", checkpoint__every=25)
    processes = start(tmp_path, [run, run], 2, plants=[(0, 1, "warned")])  # the second one, in its first step
    assert ended(processes, 120) == [0, 0], output(tmp_path, 0).read_text()
    for rank in (0, 1):
        first, second = outcomes(tmp_path, rank)
        assert first.startswith("Warned: warned by SIGUSR2") and second == "done"
    assert "continuing from step 1" in (tmp_path / "run" / schema.LOG_FILE).read_text()
    assert frame(tmp_path / "run", "steps")["step"].tolist() == [0, 1, 2, 3]
    assert status(tmp_path / "run")["world_size"] == 2


def test_a_run_warned_before_its_first_step_leaves_no_checkpoint(tmp_path, monkeypatch, requeued):
    original = saei.train.load_policy
    monkeypatch.setattr(saei.train, "load_policy", lambda *args: (warn(), original(*args))[1])
    with pytest.raises(SystemExit):
        train(small_config(tmp_path))
    assert steps_of(tmp_path) == [] and status(tmp_path)["state"] == schema.INTERRUPTED


def test_somebody_who_looks_whether_a_run_is_busy_makes_it_busy_for_nobody(tmp_path):
    lock = tmp_path / LOCK_FILE
    lock.touch()
    with open(lock) as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)  # as `is_held` does, only longer
        threading.Timer(0.05, lambda: fcntl.flock(glance, fcntl.LOCK_UN)).start()
        with run_lock(tmp_path):
            assert is_held(lock)


def test_a_restarted_job_waits_for_its_predecessor(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held, let_go = threading.Event(), threading.Event()

    def predecessor():
        with run_lock(tmp_path):
            held.set()
            let_go.wait(60)

    other = threading.Thread(target=predecessor)
    other.start()
    assert held.wait(30)
    with pytest.raises(RunBusy), run_lock(tmp_path, patience_s=0.6):
        pass
    threading.Timer(0.7, let_go.set).start()
    with claimed(tmp_path, ALONE):
        assert let_go.is_set()
    other.join()


def test_a_job_that_was_not_restarted_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(saei.recorder, "PREDECESSOR_S", 3600.0)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with run_lock(tmp_path), pytest.raises(RunBusy, match="another process"), claimed(tmp_path, ALONE):
        pass


def test_the_status_says_job_restarts_metric_and_the_seconds_of_all_launches(tmp_path, monkeypatch):
    for name, value in {"JOB_ID": "15", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(saei.recorder, "PREDECESSOR_S", 0.0)
    (tmp_path / schema.STATUS_FILE).write_text('{"seconds": 1000.0}')
    train(small_config(tmp_path, steps=2))
    told = status(tmp_path)
    assert (told["job"], told["restarts"], told["world_size"], told["gpus"]) == ("12_3", 2, 1, 0)
    assert 1000 < told["seconds"] < 2000
    assert told["metric_step"] == 2 and told["state"] == schema.FINISHED
    rows = frame(tmp_path, "eval")
    last = rows[(rows["step"] == 2) & (rows["split"] == "validation") & (rows["decoding"] == "sampled")]
    assert told["metric"] == last["accuracy"].mean()


def test_a_job_without_an_array_has_its_plain_number(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert Standing(tmp_path, "t", 1).facts["job"] == "12"


def test_the_heart_beats_within_a_step_but_not_with_every_forward_pass(tmp_path, monkeypatch):
    clock = iter([0.0, 1.0, 5.0, 20.0, 20.0, 21.0])  # begin, write, beat (5), beat (20) that writes, beat (21)
    monkeypatch.setattr("saei.standing.time.monotonic", lambda: next(clock))
    standing = Standing(tmp_path, "t", 9)
    standing.write(schema.RUNNING, step=3, message="evaluating validation", reward=0.5)
    seconds = []
    for _ in range(3):
        standing.beat()
        seconds.append(status(tmp_path)["seconds"])
    assert seconds == [1.0, 20.0, 20.0]
    assert (status(tmp_path)["message"], status(tmp_path)["reward"]) == ("evaluating validation", 0.5)


def test_ctrl_c_while_loading_shows_no_traceback(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "saei.train", "--out", str(tmp_path / "run")],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a shell's background job ignores SIGINT and hands that down; a terminal's does not
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "interrupted" in shown and "Traceback" not in shown
