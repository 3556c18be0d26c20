"""The local runner when workers, disks and people misbehave; `tests/test_sweeps.py` has its ordinary life."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sweeps.definition import load_sweep
from sweeps.plan import make_trials
from sweeps.slurm import given
from sweeps.slurm.queue import JobFact, Queue
from sweeps.slurm.tickets import Ticket, update_ticket, write_ticket
from tests.test_sweeps import PAIR, ROOT, executions, is_alive, running_pids, start, sweep, wait_for

SIX = [*PAIR, "--seeds", "3", "--steps", "2", "--jobs", "1"]


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "executions"))
    return tmp_path / "results"


def done(results):
    return len(list(results.glob("components/*/DONE")))


# ---- trying again


def test_a_killed_worker_is_tried_again_from_its_checkpoint_when_asked(results, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_KILL_AT", "2")
    words = [*PAIR, "--seeds", "1", "--steps", "4", "--jobs", "2", "--retry-failed", "1"]
    assert sweep(*words, results=results) == 0
    first_steps = Counter(int(first) for _, first, _ in executions(results))
    assert first_steps == {0: 2, 2: 2} and done(results) == 2
    out = capsys.readouterr().out
    assert out.count("killed, probably by") == 2 and "try 2 of 2" in out


def test_a_trial_that_fails_every_time_is_given_up_after_its_tries(results, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAIL_SEED", "0")
    words = [*PAIR, "--seeds", "2", "--steps", "1", "--jobs", "2", "--retry-failed", "2"]
    assert sweep(*words, results=results) == 1
    counts = Counter(trial for trial, *_ in executions(results))
    assert sorted(counts.values()) == [1, 1, 3, 3] and done(results) == 2
    assert capsys.readouterr().err.count("failed: ") == 1


# ---- failures that are alike


def test_the_same_error_in_the_first_three_trials_stops_the_sweep_with_one_message(results, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_ERROR", "no such thing at step 1 of seed {seed}")
    assert sweep(*SIX, results=results) == 1
    shown = capsys.readouterr()
    assert len(executions(results)) == 3  # one at a time: three trials, not six
    assert "the first 3 trials failed of the same cause" in shown.err and "; 3 failed; 3 not run" in shown.out
    assert shown.err.count("no such thing") == 1 and "run.py why components/grpo-s0" in shown.err


def test_a_stop_interrupts_the_workers_that_still_run(results, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL_SEED", "0")
    # three arms fail at seed 0, the fourth worker is in the middle of its run
    arms = ["grpo", "saei", "grpo_matched"]
    words = ["components", *(word for arm in arms for word in ("--only", arm)), "--seeds", "2", "--steps", "400"]
    runner = start(*words, "--jobs", "4", "--no-report", results=results, step_s=0.05)
    out, _ = runner.communicate(timeout=90)
    assert runner.returncode == 1 and "the sweep was stopped" in out, out
    assert not any(is_alive(pid) for pid in running_pids(results)) and done(results) == 0


def test_different_errors_do_not_stop_the_sweep(results, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_ERROR", "it fails otherwise")
    monkeypatch.setenv("FAKE_FAIL_SEED", "1")  # another type for seed 1
    assert sweep(*SIX, results=results) == 1
    assert len(executions(results)) == 6
    err = capsys.readouterr().err
    assert "stopped" not in err and err.count("failed: ") == 2


def test_a_full_gpu_is_told_apart_and_names_the_settings(results, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_ERROR", "CUDA out of memory. Tried to allocate 2.{seed}0 GiB. GPU 0 has a total")
    assert sweep(*SIX, "--retry-failed", "5", results=results) == 1
    assert len(executions(results)) == 3  # out of memory is not tried again
    err = capsys.readouterr().err
    assert "optim.pack_tokens" in err and "rollout.batch_rows" in err and err.count("CUDA out of memory") == 1


# ---- disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 20 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("this machine mounts no tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_told_and_the_same_command_continues(small_disk, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "executions"))
    monkeypatch.setenv("FAKE_BYTES", str(6_000_000))  # full at the fourth step
    words = [*PAIR[:3], "--no-report", "--seeds", "1", "--steps", "6", "--jobs", "1"]
    results = small_disk / "results"
    assert sweep(*words, results=results) == 1
    err = capsys.readouterr().err
    assert "the disk is full: " in err and "free some space" in err and "Traceback" not in err
    monkeypatch.setenv("FAKE_BYTES", "10")
    for ballast in results.glob("*/*/ballast-*"):
        ballast.unlink()
    assert sweep(*words, results=results) == 0
    assert [int(first) for _, first, _ in executions(small_disk.parent / "results")] == [0, 3]


def test_a_disk_without_room_for_the_plan_is_a_sentence(small_disk, tmp_path, capsys):
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as file:
        while file.write(bytes(1 << 16)):
            pass
    assert sweep(*PAIR, "--seeds", "1", results=small_disk / "results") == 1
    err = capsys.readouterr().err
    assert "the disk is full" in err and "free some space" in err and "Traceback" not in err


def test_a_results_folder_that_cannot_be_written_is_bad_input(small_disk, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert sweep(*PAIR, "--seeds", "1", results=small_disk / "results") == 2
    err = capsys.readouterr().err
    assert "Read-only file system" in err and "Traceback" not in err


# ---- what a crash leaves


def test_locks_of_a_crash_do_not_stop_the_next_launch(results):
    words = [*PAIR, "--seeds", "1", "--steps", "400", "--jobs", "2"]
    runner = start(*words, results=results, step_s=0.05)
    pids = wait_for(lambda: len(running_pids(results)) == 2 and running_pids(results), "two running trials")
    runner.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    runner.wait(timeout=10)
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "the workers to be gone", 10)
    assert list(results.glob(".locks/*.lock")) and list(results.glob(".locks/runner-*"))  # files, that nobody holds
    assert sweep(*words, results=results) == 0
    assert done(results) == 2 and not list(results.glob(".locks/runner-*"))


def test_a_worker_that_a_person_stops_is_not_started_again(results):
    words = [*PAIR, "--seeds", "1", "--steps", "60", "--jobs", "2", "--retry-failed", "3"]
    runner = start(*words, results=results, step_s=0.1)
    victim, *_ = wait_for(lambda: len(running_pids(results)) == 2 and running_pids(results), "two running trials")
    os.kill(victim, signal.SIGTERM)
    out, _ = runner.communicate(timeout=90)
    assert runner.returncode == 1 and "its worker was told to stop by a signal" in out, out
    assert len(executions(results)) == 2 and done(results) == 1


def test_sigterm_ends_the_runner_as_ctrl_c_does(results):
    runner = start(*PAIR, "--seeds", "1", "--steps", "400", "--jobs", "2", results=results, step_s=0.05)
    pids = wait_for(lambda: len(running_pids(results)) == 2 and running_pids(results), "two running trials")
    runner.terminate()
    out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 130 and "Traceback" not in out, out
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("after_s", [0.1, 0.4, 0.8, 1.5, 3.0])
def test_ctrl_c_while_everything_is_imported_shows_no_traceback(tmp_path, after_s):
    command = [sys.executable, "sweeps/run.py", *PAIR, "--seeds", "1", "--steps", "400"]
    runner = subprocess.Popen(
        [*command, "--results", str(tmp_path / "results")], cwd=ROOT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    # the interpreter's own start is not ours: wait until it runs our file
    wait_for(lambda: "_multiarray" in Path(f"/proc/{runner.pid}/maps").read_text() or runner.poll() is not None
             if after_s > 1 else handles_sigint(runner.pid), "its handler", 30)  # fmt: skip
    time.sleep(after_s)
    os.killpg(runner.pid, signal.SIGINT)
    out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 130, out
    assert "Traceback" not in out and "Error" not in out, out


def handles_sigint(pid):
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and int(caught[1], 16) >> (signal.SIGINT - 1) & 1


# ---- limits and Slurm


def test_max_trials_starts_so_many_and_the_same_command_goes_on(results, capsys):
    words = [*PAIR, "--seeds", "2", "--steps", "1", "--jobs", "2", "--max-trials", "3"]
    assert sweep(*words, results=results) == 0
    shown = capsys.readouterr()
    assert len(executions(results)) == 3 and done(results) == 3
    assert shown.out.count("not started: --max-trials 3") == 1 and "; 1 not run to their end" in shown.out
    assert sweep(*words, results=results) == 0
    assert len(executions(results)) == done(results) == 4


def test_a_trial_that_a_slurm_job_was_given_is_waited_for(results, monkeypatch, capsys):
    (trial,) = make_trials("components", load_sweep("components"), ["grpo"], [0], {"steps": 1}, results)
    ticket = Ticket(trial_id=trial.trial_id, sweep="components", arm="grpo", seed=0, token="abc", index=0, logs="",
                    code="", gpus=0, limit_s=60, parallel=1, from_step=0, job="7_0")  # fmt: skip
    write_ticket(results.resolve(), ticket)
    words = ["components", "--only", "grpo", "--seeds", "1", "--steps", "1", "--no-report"]

    def queue(state):
        job = JobFact(job="7_0", name="saei-components", state=state, comment=ticket.comment)
        return lambda results: Queue(answered=True, jobs={"7_0": job})

    looks = []

    def look(results):
        looks.append(results)
        return queue("RUNNING" if len(looks) < 3 else "FAILED")(results)

    monkeypatch.setattr(given, "look", look)
    monkeypatch.setattr(given, "LOOK_EVERY_S", 0.1)
    assert sweep(*words, results=results) == 0
    assert "Slurm job 7_0 has it; waiting for it" in capsys.readouterr().out and len(looks) >= 3
    assert len(executions(results)) == 1  # here, after the job had ended without finishing it


def test_a_ticket_alone_does_not_keep_a_trial_from_running(results, monkeypatch):
    (trial,) = make_trials("components", load_sweep("components"), ["grpo"], [0], {"steps": 1}, results)
    ticket = Ticket(trial_id=trial.trial_id, sweep="components", arm="grpo", seed=0, token="abc", index=0, logs="",
                    code="", gpus=0, limit_s=60, parallel=1, from_step=0, job="7_0")  # fmt: skip
    write_ticket(results.resolve(), ticket)
    asked = given.Given(results.resolve())
    monkeypatch.setattr(given, "look", lambda results: Queue(answered=False))
    assert asked.job_of(trial) == ""
    other = JobFact(job="7_0", name="somebody", state="RUNNING")  # the number was given out again
    monkeypatch.setattr(given, "look", lambda results: Queue(answered=True, jobs={"7_0": other}))
    assert given.Given(results.resolve()).job_of(trial) == ""
    update_ticket(results.resolve(), trial.trial_id, job="")
    sent = JobFact(job="8_0", name="saei-components", state="PENDING", comment=ticket.comment)
    monkeypatch.setattr(given, "look", lambda results: Queue(answered=True, jobs={"8_0": sent}))
    assert given.Given(results.resolve()).job_of(trial) == "8_0"
