"""`--take-next`, what each task of slurm/array.sbatch runs, without a Slurm: a stand-in answers for scontrol."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter

import pytest

from saei import schema
from saei.cli import BadInput
from sweeps.definition import load_sweep
from sweeps.locks import hold
from sweeps.plan import make_trials
from sweeps.take import take_next
from tests.fake_trainer import TRAINER, train


@pytest.fixture
def trials(tmp_path, monkeypatch):
    """Three trials, no Slurm job around us, and a scontrol that notes what it was asked."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "executions"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    tools = tmp_path / "bin"
    tools.mkdir()
    answer_scontrol(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return make_trials("components", load_sweep("components"), ["grpo"], range(3), {"steps": 2}, tmp_path / "results")


def answer_scontrol(folder, answer):
    path = folder / "bin" / "scontrol"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{answer}\n')
    path.chmod(0o755)


def asked(folder):
    path = folder / "asked"
    return path.read_text().splitlines() if path.exists() else []


def task(monkeypatch, number, array="12"):
    """Be this task of an array."""
    monkeypatch.setenv("SLURM_JOB_ID", str(100 + number))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(number))


def finished(trials):
    return [trial.seed for trial in trials if (trial.folder / schema.DONE_FILE).exists()]


def warned(config):
    """A trainer that Slurm warns: it leaves by way of the handler that was there before."""
    signal.raise_signal(signal.SIGUSR2)


def failing_first(config):
    if config.seed == 0:
        raise ArithmeticError("seed 0 does not work")
    train(config)


def busy(config):
    """As the trainer when another process holds the run directory."""
    if config.seed == 0:
        raise type("RunBusy", (RuntimeError,), {})("seed 0 is busy")
    train(config)


def test_each_call_trains_the_next_missing_trial_and_then_there_is_nothing_left(trials, capsys):
    for done in ([0], [0, 1], [0, 1, 2]):
        assert take_next(trials, TRAINER) == 0
        assert finished(trials) == done
    assert take_next(trials, TRAINER) == 0
    assert "nothing left to take: all 3 trials are finished" in capsys.readouterr().out


def test_tasks_that_start_together_never_take_the_same_trial(trials, monkeypatch, tmp_path):
    # as many tasks as trials, and a trial takes longer than all of them need to have looked
    monkeypatch.setenv("FAKE_STEP_S", "2")
    fork = multiprocessing.get_context("fork")  # ready at once: nothing is imported anew
    tasks = []
    for number in range(3):
        task(monkeypatch, number)
        tasks.append(fork.Process(target=lambda: sys.exit(take_next(trials, TRAINER))))
        tasks[-1].start()
    for process in tasks:
        process.join(60)
    assert [process.exitcode for process in tasks] == [0, 0, 0]
    executions = Counter(line.split()[0] for line in (tmp_path / "executions").read_text().splitlines())
    assert executions == {trial.trial_id: 1 for trial in trials}


def test_a_trial_that_others_hold_is_passed_over(trials, capsys):
    with hold(trials[0].lock), hold(trials[1].folder / ".lock"):
        assert take_next(trials, TRAINER) == 0
        assert finished(trials) == [2]
        assert take_next(trials, TRAINER) == 0
    assert "1 of 3 trials are finished; 2 are being trained" in capsys.readouterr().out


def test_a_run_directory_that_is_busy_after_all_is_passed_over(trials):
    assert take_next(trials, "tests.test_take:busy") == 0
    assert finished(trials) == [1]


def test_one_bad_trial_does_not_use_up_the_tasks_of_all(trials, monkeypatch, capsys):
    trainer = "tests.test_take:failing_first"
    task(monkeypatch, 0)
    with pytest.raises(ArithmeticError):
        take_next(trials, trainer)
    for number in (1, 2, 3):
        task(monkeypatch, number)
        assert take_next(trials, trainer) == 0
    assert finished(trials) == [1, 2]
    assert "1 did not end well in this array (grpo seed 0): read why" in capsys.readouterr().out
    task(monkeypatch, 0)  # Slurm started the same task again, after a lost node for one
    assert take_next(trials, TRAINER) == 0
    assert finished(trials) == [0, 1, 2]


def test_the_next_array_tries_again_what_failed(trials, monkeypatch):
    task(monkeypatch, 0)
    with pytest.raises(ArithmeticError):
        take_next(trials, "tests.test_take:failing_first")
    task(monkeypatch, 1, array="13")
    assert take_next(trials, TRAINER) == 0
    assert finished(trials) == [0]


def test_a_warned_task_puts_itself_back_into_the_queue_and_any_task_continues_its_trial(
    trials, monkeypatch, tmp_path, capsys
):
    task(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        take_next(trials, "tests.test_take:warned")
    assert asked(tmp_path) == ["requeue 12_0"]
    assert "job 12_0 was warned and is back in the queue" in capsys.readouterr().err
    task(monkeypatch, 1)
    assert take_next(trials, TRAINER) == 0
    assert finished(trials) == [0]


def test_a_refused_requeue_names_the_cure(trials, monkeypatch, tmp_path, capsys):
    answer_scontrol(tmp_path, "echo 'Requested operation is presently disabled' >&2; exit 1")
    task(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        take_next(trials, "tests.test_take:warned")
    told = capsys.readouterr().err
    assert "(Requested operation is presently disabled)" in told and "submit the array again" in told


def test_ctrl_c_asks_for_no_requeue(trials, monkeypatch, tmp_path):
    task(monkeypatch, 0)
    monkeypatch.setenv("FAKE_STEP_S", "60")
    # a shell's background job ignores SIGINT and hands that down; a terminal's does not
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            take_next(trials, TRAINER)
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked(tmp_path) == []


def test_a_job_of_several_processes_is_refused(trials, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(BadInput, match=r"SLURM_NTASKS=2: set --ntasks=1, or launch .* with --on slurm"):
        take_next(trials, TRAINER)
