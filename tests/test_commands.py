"""The commands that look at a sweep or stop it. Slurm is played by scripts on PATH (tests/fake_slurm.py)."""

import functools
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.status import seconds, write_many, write_tools
from saei import schema
from saei.cli import run_main
from saei.config import Config, with_overrides
from saei.differences import differences, shown_differences
from saei.environment import environment
from saei.job import slurm_job
from saei.recorder import Recorder
from sweeps.commands import logs as logs_command
from sweeps.commands.reasons import plain_reason
from sweeps.commands.shown import short
from sweeps.locks import hold
from sweeps.materials import refuse_missing_models
from sweeps.run import main
from sweeps.slurm.tickets import Ticket, read_ticket, write_ticket
from sweeps.trial import Trial, point_to
from tests import fake_results
from tests.fake_results import fake_id, write_run
from tests.fake_slurm import FakeSlurm

write_sweep = functools.partial(fake_results.write_sweep, problems=2, samples=2)
ROOT = Path(__file__).resolve().parent.parent
HOST = os.uname().nodename
GRPO, SAEI = fake_id("GRPO", 0), fake_id("SaEI", 0)


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


@pytest.fixture
def say(results, capsys):
    """Run a command; returns its exit code, standard output and standard error."""

    def run(*words):
        try:
            code = run_main(lambda: main([*words, "--results", str(results)]))
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def terminal(monkeypatch):
    """Print as in a terminal of so many columns, without colours."""

    def of(columns):
        for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", str(columns))):
            monkeypatch.setenv(name, value)

    return of


def row(out, trial):
    """The cells of a trial's row; columns are two spaces apart, or more."""
    line = next(line for line in out.splitlines() if line.startswith(trial + " "))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def set_status(folder, **changes):
    path = folder / schema.STATUS_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def give_ticket(results, key, *, job, sweep="components", arm="GRPO", **more):
    fields = {"seed": 0, "token": f"t{job}", "index": 0, "logs": str(results / sweep / ".jobs" / "t"), "code": "",
              "gpus": 1, "limit_s": 3600, "parallel": 4, "from_step": 0}  # fmt: skip
    write_ticket(results, Ticket(trial_id=key, sweep=sweep, arm=arm, job=job, **(fields | more)))


def contents(folder):
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in sorted(folder.rglob("*"))}  # fmt: skip


# ---- status: where states come from


def test_a_trials_state_comes_from_its_directory(results, say):
    write_sweep(results, "components", seeds=2, leave_out=[("random third", 1)],
                unfinished={("SaEI", 0): "failed", ("SaEI", 1): "interrupted"})  # fmt: skip
    code, out, _ = say("status", "components")
    assert code == 0
    assert "components: 6 trials: 3 finished, 1 failed, 1 stopped, 1 missing" in out
    assert row(out, "GRPO-s0")[:3] == ["GRPO-s0", "finished", "-"]
    assert row(out, "SaEI-s0")[1:4] == ["failed", "-", "10/20"]
    assert row(out, "SaEI-s1")[1] == "stopped" and row(out, "random third-s1")[1] == "missing"
    assert "failed: RuntimeError: loss is not finite (1 trial)" in out
    assert "why components/SaEI-s0" in out and "the next launch continues SaEI-s1" in out


def test_a_run_whose_process_is_gone_is_stopped_at_its_newest_checkpoint(results, say):
    folder = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "running"}) / GRPO
    set_status(folder, host=HOST, step=9, pid=1)  # a fresh heartbeat of this machine, and nobody holds the lock
    (folder / "checkpoints" / "step-000005").mkdir(parents=True)
    (folder / "checkpoints" / ".step-000009.tmp").mkdir()
    (folder / ".lock").touch()
    _, out, _ = say("status", "components")
    assert row(out, "GRPO-s0")[1:4] == ["stopped", "-", "5/20"]
    with hold(folder / ".lock"):
        _, out, _ = say("status", "components")
    assert row(out, "GRPO-s0")[1:4] == ["running", f"pid {os.getpid()}", "9/20"]


def test_a_run_of_another_machine_lives_while_its_heartbeat_is_fresh(results, say):
    folder = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "running"}) / GRPO
    set_status(folder, host="node7", pid=12, time_step=2.0)
    _, out, _ = say("status", "components")
    # 10 of 20 steps left at 2 s each
    assert row(out, "GRPO-s0")[1:4] == ["running", "node7 pid 12", "10/20"] and row(out, "GRPO-s0")[6] == "20 s"
    set_status(folder, heartbeat=time.time() - 400)
    assert row(say("status", "components")[1], "GRPO-s0")[1] == "stopped"
    set_status(folder, time_step=100.0)  # five steps of silence are 500 s
    _, out, _ = say("status", "components")
    assert row(out, "GRPO-s0")[1] == "running" and "no sign of life for 7 min: GRPO-s0" in out


def test_a_worker_that_still_loads_its_model_is_starting(results, say):
    write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0)])
    with hold(results / ".locks" / f"{GRPO}.lock"):
        assert row(say("status", "components")[1], "GRPO-s0")[1:3] == ["starting", f"pid {os.getpid()}"]


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        ({"state": "PENDING", "reason": "Priority", "node": ""}, ["queued", "12_3 Priority"]),
        ({"state": "RUNNING"}, ["starting", "12_3 n0"]),
        ({"state": "UP_SIDE_DOWN"}, ["up side down", "12_3 n0"]),
        ({"state": "RUNNING", "comment": "saei-other"}, ["stopped", "-"]),  # the number was given out again
        ({"state": "NODE_FAIL"}, ["stopped", "-"]),
    ],
)
def test_a_job_is_shown_with_slurms_own_word(results, say, slurm, job, shown):
    write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "interrupted"})
    give_ticket(results, GRPO, job="12_3")
    slurm.queue({"job": "12_3", "comment": "saei-t12_3", **job})
    assert row(say("status", "components")[1], "GRPO-s0")[1:3] == shown


def test_without_an_answer_of_slurm_the_tickets_are_shown(results, say, slurm):
    write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0)])
    give_ticket(results, GRPO, job="12")
    slurm.away()
    code, out, _ = say("status", "components")
    assert code == 0 and row(out, "GRPO-s0")[1:3] == ["submitted", "12, no answer"]
    assert "Slurm does not answer (slurm_load_jobs error: Unable to contact slurm controller)" in out


def test_a_job_that_ended_before_the_trainer_began_is_a_failure(results, say, slurm):
    write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0), ("SaEI", 0)])
    ended = {"job": "12", "kind": "never started", "sentence": "it ended before the trainer began"}
    give_ticket(results, GRPO, job="12", closed=True, earlier=[ended])
    give_ticket(results, SAEI, job="13", closed=True, cancelled=True, earlier=[ended | {"kind": "cancelled"}])
    _, out, _ = say("status", "components")
    assert row(out, "GRPO-s0")[1] == "failed" and "failed: it ended before the trainer began" in out
    assert row(out, "SaEI-s0")[1] == "cancelled"


def test_what_another_sweep_ran_is_finished_there_and_paid_once(results, say):
    first, second = write_sweep(results, "components", seeds=1), write_sweep(results, "controls", seeds=1)
    set_status(first / GRPO, seconds=7200.0, gpus=2)
    for path in sorted((second / GRPO).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (second / GRPO / schema.SAME_AS_FILE).write_text(f"../../components/{GRPO}\n")
    _, out, _ = say("status", "controls")
    assert row(out, "GRPO-s0")[1:4] == ["finished", "in components", "20/20"] and "GPU-hours" not in out
    assert "spent 4.0 GPU-hours" in say("status", "components")[1]  # two hours on two GPUs
    (second / GRPO / schema.SAME_AS_FILE).unlink()
    (second / GRPO).rmdir()  # not pointed to yet: the next launch will
    assert row(say("status", "controls")[1], "GRPO-s0")[1:3] == ["finished", "in components"]


def test_time_left_is_that_of_all_missing_steps_at_the_usual_speed(results, say):
    folder = write_sweep(results, "components", seeds=1, leave_out=[("SaEI", 0)],
                         unfinished={("GRPO", 0): "running"}) / GRPO  # fmt: skip
    set_status(folder, host="node7", seconds=300.0, gpus=0)
    # 10 steps took 300 s; 10 more of this one and 20 of the missing one at one a time: 900 s; 300 s are .083 h
    assert "spent 0.083 worker-hours; about 15 min 0 s left with 1 at a time" in say("status", "components")[1]


def test_pruned_points_of_a_search_are_told_apart(results, say):
    folder = write_sweep(results, "search", seeds=1, unfinished={("SaEI", 0): "interrupted"})
    plan = json.loads((folder / schema.PLAN_FILE).read_text())
    next(trial for trial in plan["trials"] if trial["arm"] == "SaEI")["pruned"] = True
    (folder / schema.PLAN_FILE).write_text(json.dumps(plan))
    assert "3 trials: 2 finished, 1 pruned" in say("status", "search")[1]
    assert "gave this point up" in say("why", "search/SaEI-s0")[1]


def test_all_sweeps_are_listed_the_newest_first(results, say):
    write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "failed"})
    write_sweep(results, "controls", seeds=1)
    for path in (results / "components").glob("*/status.json"):
        set_status(path.parent, heartbeat=time.time() - 7200)
    os.utime(results / "components", (0, 0))
    _, out, _ = say("status")
    lines = out.splitlines()
    assert lines[1].split() == ["controls", "3/3", "-", "-", "-", "-", "-", "0", "s"]
    assert lines[2].split() == ["components", "2/3", "-", "-", "1", "-", "-", "2.0", "h"]


def test_half_written_and_foreign_files_are_looked_past(results, say):
    folder = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "running"})
    (folder / GRPO / schema.STATUS_FILE).write_bytes(b'{"state": "runn\xff')
    (folder / SAEI / schema.STATUS_FILE).write_text("[1, 2]")
    (folder / SAEI / schema.DONE_FILE).write_text('{"scores": 3}')
    (results / ".jobs").mkdir()
    for name, text in ((f"{GRPO}.json", b"\xff\xfe"), (f"{SAEI}.json", b"[]"), ("note.json", b"{}")):
        (results / ".jobs" / name).write_bytes(text)
    (results / "notes.txt").write_text("mine")
    (folder / "0123456789ab-s0").write_text("a file, not a run")
    (results / "old").mkdir()
    (results / "old" / schema.PLAN_FILE).write_text('{"trials": [3, {"trial_id": 4}, {"trial_id": "x"')
    write_run(results / "byhand" / fake_id("x", 3), effect=0.1, attacked=False, seed=3, steps=4, problems=2, samples=2,
              text="t")  # fmt: skip
    assert say("status")[0] == 0
    code, out, _ = say("status", "components")
    assert code == 0 and row(out, "GRPO-s0")[1] == "missing" and row(out, "SaEI-s0")[1] == "finished"
    assert "old: 0 trials: none" in say("status", "old")[1]
    assert row(say("status", "byhand")[1], fake_id("x", 3))[1] == "finished"


# ---- launches: what continues them, and those with other settings


def give_plans(results, command, *earlier):
    """The plan of components says `command`; `earlier`: (settings, command, arms, seeds) of further plans."""
    path = results / "components" / schema.PLAN_FILE
    plan = json.loads(path.read_text()) | {"command": command}
    plan["earlier_plans"] = [
        {"settings": settings, "command": line, "steps": 2, "trials": [
            {"trial_id": fake_id(f"{arm} {settings}", seed), "arm": arm, "seed": seed, "exploratory": False}
            for arm in arms for seed in seeds]}
        for settings, line, arms, seeds in earlier
    ]  # fmt: skip
    path.write_text(json.dumps(plan))
    return [[trial["trial_id"] for trial in other["trials"]] for other in plan["earlier_plans"]]


def begin(folder, state=schema.INTERRUPTED, **status):
    folder.mkdir()
    (folder / schema.STATUS_FILE).write_text(json.dumps({"state": state, "heartbeat": time.time(), **status}))


def test_what_continues_a_sweep_is_the_command_that_launched_it(results, say, slurm):
    write_sweep(results, "components", seeds=1, leave_out=[("random third", 0)],
                unfinished={("SaEI", 0): "interrupted"})  # fmt: skip
    line = "python sweeps/run.py components --on slurm --cluster 'my cluster.toml' --set optim.lr=1e-4 --jobs 3"
    give_plans(results, line)
    assert f"no runner at work here; {line} goes on with what is missing" in say("status", "components")[1]
    assert say("why", "SaEI-s0")[1].endswith(f"next: {line} continues it from step 10\n")
    assert say("why", "random third-s0")[1].endswith(f"next: {line} starts it\n")
    give_ticket(results, fake_id("random third", 0), job="7", arm="random third", token="t")
    slurm.queue({"job": "7", "state": "PENDING", "comment": "saei-t"})
    assert f"what has run stays; {line} continues it" in say("cancel", "components", "--yes")[1]


def test_a_launch_writes_its_command_line_into_the_plan(results, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "executions"))
    words = ["components", "--only", "grpo", "--only", "saei", "--seeds", "1", "--steps", "1", "--no-report"]
    words += ["--set", "optim.lr=1e-4", "--results", str(results)]
    for more in ("--take-next", "--dry-run"):
        assert run_main(lambda more=more: main([*words, more], trainer="tests.fake_trainer:train")) == 0
        plan = json.loads((results / "components" / schema.PLAN_FILE).read_text())
        assert plan["command"] == shlex.join(["python", "sweeps/run.py", *words])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python sweeps/run.py components --on slurm", "it submits no more jobs"),
        ("python sweeps/run.py components --on=slurm", "it submits no more jobs"),
        ("python sweeps/run.py components", "its local workers write their status and stop with it"),
    ],
)
def test_cancel_says_what_becomes_of_the_workers_of_this_kind_of_runner(results, say, monkeypatch, command, words):
    folder = write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0)])
    give_plans(results, command)
    told = []
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    with hold(folder / ".runner.lock"):
        out = say("cancel", "components", "--yes")[1]
    assert f"the runner of components (pid {os.getpid()}): {words}\n" in out
    assert told == [(os.getpid(), signal.SIGTERM)]


def test_trials_of_launches_with_other_settings_are_told_and_shown_with_all(results, say):
    folder = write_sweep(results, "components", seeds=1)
    line = "python sweeps/run.py components --steps 2"
    (two, three) = give_plans(results, "", ({"steps": 2}, line, ["SaEI"], [0, 1]),
                              ({"steps": 3, "lr": 0.1}, "", ["GRPO"], [0]))  # fmt: skip
    begin(folder / two[0], step=1, steps=2)
    _, out, _ = say("status", "components")
    assert "3 trials: 3 finished" in out
    assert "3 trials of 2 earlier launches with other settings are not shown: --all shows them" in out
    assert two[0] not in out
    _, out, _ = say("status", "components", "--all")
    assert "3 trials: 3 finished" in out and "are not shown" not in out
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    shown = {cells[-1]: (cells[0], cells[1], cells[-2]) for cells in rows if len(cells) > 5}
    assert shown[SAEI] == ("SaEI-s0", "finished", "newest")
    assert shown[two[0]] == ("SaEI-s0", "stopped", "earlier 1") and shown[two[1]][1:] == ("missing", "earlier 1")
    assert shown[three[0]] == ("GRPO-s0", "missing", "earlier 2")
    assert f"  earlier 1: {line}\n  earlier 2: steps 3, lr 0.1\n" in out


def test_a_name_of_several_launches_means_the_newest_trial_that_was_begun(results, say):
    folder = write_sweep(results, "components", seeds=1, leave_out=[("SaEI", 0)])
    line = "python sweeps/run.py components --steps 2"
    (older,) = give_plans(results, "", ({"steps": 2}, line, ["SaEI", "GRPO"], [0]))
    assert f"components/SaEI-s0 ({SAEI}): missing" in say("why", "SaEI-s0")[1]  # neither was begun
    begin(folder / older[0], step=1, steps=2)
    begin(folder / older[1], step=1, steps=2)
    out = say("why", "SaEI-s0")[1]
    assert f"({older[0]}, of an earlier launch with other settings): stopped at step 1 of 2" in out
    assert out.endswith(f"next: {line} continues it from step 1\n")
    assert f"components/GRPO-s0 ({GRPO}): finished" in say("why", "GRPO-s0")[1]  # both were
    assert older[1] in say("why", older[1])[1] and "GRPO-s0" in say("why", str(folder / older[1]))[1]
    give_ticket(results, SAEI, job="", arm="SaEI")  # submitted and not begun: cancel must find it
    assert f"components/SaEI-s0 ({SAEI}): submitted" in say("why", "SaEI-s0")[1]


def test_why_tells_an_attempt_once_and_a_trial_without_a_checkpoint_begins_anew(results, say):
    folder = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "interrupted"}) / GRPO
    (folder / "checkpoints").mkdir()
    ended = {"kind": "cancelled", "sentence": "cancelled (job 9_0, CANCELLED)"}
    attempts = [{"job": "8_0", "kind": "timed out", "sentence": "its time limit was reached"}, {"job": "9_0", **ended}]
    give_ticket(results, GRPO, job="9_0", closed=True, earlier=attempts)
    out = say("why", "GRPO-s0")[1]
    assert "cancelled: cancelled" not in out and out.count("9_0") <= 1
    assert "earlier attempts:\n  job 8_0: timed out: its time limit was reached\nnext: " in out
    assert out.endswith("--on slurm begins anew\n")
    out = say("status", "components")[1]
    assert "stopped before the first checkpoint: the next launch begins GRPO-s0 anew" in out
    assert "from the step shown" not in out


# ---- status: what it looks like


def test_in_a_pipe_every_trial_has_a_whole_line(results, say):
    write_many(results, 60)
    out = say("status", "many")[1]
    shown = [line for line in out.splitlines() if line.startswith("arm_")]
    assert len(shown) == 60 and all(line.endswith("-s0") for line in shown) and "\x1b" not in out


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_many_trials_are_grouped_in_a_terminal_and_no_id_is_cut(results, say, terminal, columns):
    write_many(results, 80)
    terminal(columns)
    out = say("status", "many")[1]
    # of every eight trials three are finished, one waits, one is missing; without squeue's answer one runs elsewhere
    shown = [line for line in out.splitlines() if line.startswith("arm_")]
    assert "80 trials: 30 finished, 10 failed" in out and "Not shown: 30 finished" in out
    assert len(shown) == 30 and all(len(line.rstrip()) <= columns for line in shown) and "…" not in out
    assert all(("0000-s0" in line or "000" in line) is (columns >= 110) for line in shown)
    assert len([line for line in say("status", "many", "--all")[1].splitlines() if line.startswith("arm_")]) == 80


def test_a_thousand_trials_are_shown_within_two_seconds(tmp_path):
    tools = write_tools(tmp_path / "bin", write_many(tmp_path / "results", 1000))
    assert min(seconds(tmp_path / "results", tools, "many") for _ in range(3)) < 2.0


def test_looking_loads_nothing_heavy_and_writes_nothing(results, slurm):
    write_sweep(results, "components", seeds=2, unfinished={("GRPO", 0): "failed", ("GRPO", 1): "running"})
    give_ticket(results, fake_id("GRPO", 1), job="12", seed=1)
    slurm.queue({"job": "12", "state": "RUNNING", "comment": "saei-t12"})
    before = contents(results)
    code = """
import sys
from sweeps.run import main
for words in ("status", "status components", "logs GRPO-s0", "why GRPO-s0", "why GRPO-s1", "why SaEI-s0",
              "diff GRPO-s0 SaEI-s0"):
    assert main([*words.split(), "--results", sys.argv[1]]) == 0, words
print(sorted({"torch", "optuna", "submitit", "pandas", "numpy", "pyarrow", "transformers"} & set(sys.modules)))
"""
    ended = subprocess.run([sys.executable, "-c", code, str(results)], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
    assert contents(results) == before


def test_ctrl_c_ends_the_watching_with_code_0(results):
    write_sweep(results, "components", seeds=1)
    leader, follower = pty.openpty()
    command = [sys.executable, "sweeps/run.py", "status", "components", "--watch", "--results", str(results)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    try:
        shown, deadline = b"", time.monotonic() + 40
        while b"Ctrl-C ends the watching" not in shown:
            assert time.monotonic() < deadline, shown
            shown += os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        drained = threading.Thread(target=drain, args=(leader,), daemon=True)
        drained.start()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert b"Traceback" not in shown


def drain(descriptor):
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:
        pass


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("status", "componets"), "did you mean components?"),
        (("status", "tsec_ratio"), "tsec_ratio has not been launched into"),
        (("status", "components", "--watch"), "--watch needs a terminal"),
        (("why", "GRPO-s7"), "there is no trial 'GRPO-s7'"),
        (("logs", "GRPO-s0", "--lines", "0"), "--lines must be at least 1, got 0"),
        (("diff", "GRPO-s0", "random third-s1"), "has no readable config.json"),
        (("why", "nowhere/GRPO-s0"), "there is no sweep 'nowhere'"),
        (("cancel", "nowhere"), "there is no sweep 'nowhere'"),
    ],
)
def test_bad_words_end_with_code_2_and_a_cure(results, say, words, sentence):
    write_sweep(results, "components", seeds=2, leave_out=[("random third", 1)])
    code, _, err = say(*words)
    assert code == 2 and sentence in err


def test_a_results_folder_that_is_not_there_is_named(results, say):
    code, _, err = say("status")
    assert code == 2 and "cannot be read (No such file or directory)" in err
    results.mkdir()
    assert "There is no sweep" in say("status")[1]


# ---- which trial is meant


def test_a_trial_is_found_by_every_name_it_has(results, say):
    folder = write_sweep(results, "components", seeds=2)
    write_sweep(results, "controls", seeds=1, arms={"GRPO": 0.1})
    for name in (SAEI, SAEI[:12] + "-s0", "SaEI-s0", "components/SaEI-s0", f"components/{SAEI}", str(folder / SAEI)):
        code, out, err = say("why", name)
        assert code == 0 and f"components/SaEI-s0 ({SAEI}): finished" in out, (name, err)


def test_an_ambiguous_trial_is_answered_with_the_candidates(results, say):
    write_sweep(results, "components", seeds=2)
    code, _, err = say("why", SAEI[:4])
    assert code == 2 and f"{SAEI[:4]!r} may be any of 2 trials" in err and f"components/SaEI-s1  {SAEI[:-1]}1" in err
    assert "may be any of 2 trials" in say("why", "GRPO")[2]  # an arm: its seeds
    assert "did you mean SaEI-s" in say("why", "SaEI-s8")[2]


def test_a_run_that_two_sweeps_share_is_one_trial(results, say):
    first = write_sweep(results, "components", seeds=1, arms={"GRPO": 0.1})
    second = write_sweep(results, "controls", seeds=1, arms={"GRPO": 0.1}, leave_out=[("GRPO", 0)])
    config = with_overrides(Config(), {"out": str(second / GRPO)})
    point_to(Trial(trial_id=GRPO, arm="GRPO", seed=0, config=config), first / GRPO)
    assert "components/GRPO-s0" in say("why", "GRPO-s0")[1]
    assert f"run in {first / GRPO}".replace("run in", "its run is in") in say("why", "controls/GRPO-s0")[1]


# ---- logs


def test_logs_show_the_end_of_the_log_and_what_the_worker_said_beside_it(results, say):
    folder = write_sweep(results, "components", seeds=1)
    lines = [f"2026-11-21 10:00:{number:02d} step {number}" for number in range(30)]
    (folder / GRPO / schema.LOG_FILE).write_text("\n".join(lines) + "\n")
    jobs = folder / ".jobs"
    jobs.mkdir()
    for job, key, words in ((41, GRPO, "an older word"), (42, SAEI, "not mine"), (43, GRPO, "a warning of torch")):
        (jobs / f"{job}_submitted.pkl").write_bytes(b"\x80\x05 .. " + key.encode() + b" ..")
        (jobs / f"{job}_0_log.err").write_text("\n".join([*lines[-5:], words]) + "\n")
        os.utime(jobs / f"{job}_0_log.err", (job, job))
    code, out, _ = say("logs", "GRPO-s0", "--lines", "2")
    assert code == 0
    assert out.splitlines() == [
        f"==> {folder / GRPO / 'log.txt'} <==", *lines[-2:], "",
        f"==> {jobs / '43_0_log.err'} <==", "a warning of torch",
    ]  # fmt: skip


def test_logs_of_a_job_lie_where_its_ticket_says(results, say):
    folder = write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0)])
    give_ticket(results, GRPO, job="12_1", closed=True, earlier=[{"job": "9", "kind": "preempted"}])
    for token, name in (("t", "12_1_0_log.err"), ("t", "12_0_log.err"), ("before", "9_0_log.err")):
        path = folder / ".jobs" / token / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"words in {name}\n")
        os.utime(path, (100 + len(name), 100 + len(name)))
    _, out, _ = say("logs", "GRPO-s0")
    assert "has no log yet" in out and "words in 12_1_0_log.err" in out and "words in 12_0" not in out


def test_following_a_log_ends_with_the_run(results, say, monkeypatch):
    monkeypatch.setattr(logs_command, "POLL_S", 0.01)
    monkeypatch.setattr(logs_command, "LOOK_S", 0.02)
    folder = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "running"}) / GRPO
    (folder / schema.LOG_FILE).write_text("first\n")

    def work():
        with open(folder / schema.LOG_FILE, "a") as file:
            for word in ("second\n", "thi", "rd\n"):
                file.write(word)
                file.flush()
                time.sleep(0.1)
        (folder / schema.DONE_FILE).write_text("{}")

    worker = threading.Thread(target=work)
    worker.start()
    code, out, _ = say("logs", "GRPO-s0", "--follow")
    worker.join()
    assert code == 0 and out.splitlines()[1:] == ["first", "second", "third", "--- finished"]


# ---- why


def test_why_names_the_error_the_cure_and_the_next_step(results, say):
    folder = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "failed"}) / GRPO
    set_status(folder, message="OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    (folder / schema.LOG_FILE).write_text("2026-11-21 10:00:00 failed: OutOfMemoryError\n")
    code, out, _ = say("why", "GRPO-s0")
    assert code == 0 and "failed at step 10 of 20" in out
    assert "out of memory: OutOfMemoryError: CUDA out of memory" in out and "cure:" in out
    assert "optim.pack_tokens" in out and "failed: OutOfMemoryError" in out.splitlines()[-2]
    assert "python sweeps/run.py components continues it from step 10" in out.splitlines()[-1]


def test_why_tells_the_earlier_attempts_and_slurms_reason_in_plain_words(results, say, slurm):
    write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "interrupted"})
    give_ticket(results, GRPO, job="12_3", earlier=[{"job": "9_3", "kind": "preempted", "sentence": "pre-empted by x"}])
    slurm.queue({"job": "12_3", "state": "PENDING", "comment": "saei-t12_3", "reason": "launch failed requeued held"})
    _, out, _ = say("why", "GRPO-s0")
    assert "could not start it on a node" in out and "cure: scontrol release 12_3" in out
    assert "earlier attempts:\n  job 9_3: preempted: pre-empted by x" in out


def test_why_asks_the_job_that_ended(results, say, slurm):
    write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0)])
    give_ticket(results, GRPO, job="12")
    slurm.queue({"job": "12", "state": "NODE_FAIL", "comment": "saei-t12"})
    _, out, _ = say("why", "GRPO-s0")
    assert "node failed: its node failed (job 12, NODE_FAIL)" in out
    assert "run.py components --on slurm starts it" in out


def test_why_of_a_trial_that_never_started(results, say):
    write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0)])
    assert (
        "missing\n  it has not been started\nnext: python sweeps/run.py components starts it"
        in say("why", "GRPO-s0")[1]
    )


@pytest.mark.parametrize(
    ("reason", "words", "cure"),
    [
        ("Priority", "higher priority", ""),
        ("Resources", "enough free GPUs", ""),
        ("QOSMaxJobsPerUserLimit", "no more of your jobs at a time", "others of yours end"),
        ("QOSMaxWallDurationPerJobLimit", "never starts", "lower time"),
        ("AssocGrpGRES", "share is used up", "administers"),
        ("AssocMaxWallDurationPerJobLimit", "never starts", "lower time"),
        ("DependencyNeverSatisfied", "will never start", "cancel tsec_ratio"),
        ("ReqNodeNotAvail, UnavailableNodes:n0", "down, drained or reserved", "sinfo -R"),
        ("Nodes_required_for_job_are_DOWN,_DRAINED", "down, drained or reserved", "sinfo -R"),
        ("launch failed requeued held", "holds it", "scontrol release 12_3"),
        ("SomethingNew", "Slurm says SomethingNew", ""),
        ("", "Slurm gives no reason", ""),
    ],
)
def test_reasons_of_slurm_are_said_in_plain_words(reason, words, cure):
    means, told = plain_reason(reason, "12_3", "tsec_ratio")
    assert words in means and (cure in told if cure else not told)


# ---- cancel


def test_cancel_stops_its_own_jobs_waiting_ones_first(results, say, slurm):
    write_sweep(results, "components", seeds=2, leave_out=[(arm, seed) for arm in ("GRPO", "SaEI") for seed in (0, 1)])
    for job, arm, seed in (("7_0", "GRPO", 0), ("7_1", "SaEI", 0), ("7_2", "GRPO", 1), ("7_3", "SaEI", 1)):
        give_ticket(results, fake_id(arm, seed), job=job, arm=arm, seed=seed, token="t")
    slurm.queue(
        {"job": "7_0", "state": "RUNNING", "comment": "saei-t"},
        {"job": "7_1", "state": "PENDING", "comment": "saei-t"},
        {"job": "7_2", "state": "RUNNING", "name": "somebody", "comment": "(null)"},  # a number given out again
        {"job": "7_3", "state": "COMPLETED", "comment": "saei-t"},
        {"job": "8", "state": "RUNNING", "comment": "saei-t"},  # no ticket leads to it
    )
    code, out, _ = say("cancel", "components", "--yes")
    assert code == 0 and slurm.cancelled == ["7_1 7_0"]
    assert "1 waiting job: 7_1 (SaEI-s0)" in out and "1 running job: 7_0 (GRPO-s0)" in out
    assert "left: job 7_2 is not GRPO-s1's any more" in out and "cancelled 2 of 2 jobs" in out
    marked = {arm + str(seed): read_ticket(results, fake_id(arm, seed)).cancelled
              for arm in ("GRPO", "SaEI") for seed in (0, 1)}  # fmt: skip
    assert marked == {"GRPO0": True, "SaEI0": True, "GRPO1": False, "SaEI1": False}


def test_cancel_leaves_what_another_sweep_needs(results, say, slurm):
    first = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "running"})
    second = write_sweep(results, "controls", seeds=1, leave_out=[("GRPO", 0)])
    (second / GRPO).mkdir()
    (second / GRPO / schema.SAME_AS_FILE).write_text(os.path.relpath(first / GRPO, second / GRPO) + "\n")
    give_ticket(results, GRPO, job="7", token="t")
    slurm.queue({"job": "7", "state": "RUNNING", "comment": "saei-t"})
    code, out, _ = say("cancel", "components", "--yes")
    assert code == 0 and "left: GRPO-s0 is needed by controls too; scancel 7 stops it all the same" in out
    code, out, _ = say("cancel", "controls", "--yes")
    assert code == 0 and "left: GRPO-s0 is run by the sweep components, whose job 7 this is" in out
    assert slurm.cancelled == []


def test_cancel_may_be_limited_to_some_trials(results, say, slurm):
    write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0), ("SaEI", 0)])
    for job, arm in (("7_0", "GRPO"), ("7_1", "SaEI")):
        give_ticket(results, fake_id(arm, 0), job=job, arm=arm, token="t")
    slurm.queue(*({"job": f"7_{number}", "state": "PENDING", "comment": "saei-t"} for number in (0, 1)))
    assert say("cancel", "components", "SaEI-s0", "--yes")[0] == 0
    assert slurm.cancelled == ["7_1"]


def test_cancel_asks_and_without_a_terminal_demands_yes(results, say, slurm):
    write_sweep(results, "components", seeds=1, leave_out=[("GRPO", 0)])
    give_ticket(results, GRPO, job="7", token="t")
    slurm.queue({"job": "7", "state": "PENDING", "comment": "saei-t"})
    code, _, err = say("cancel", "components")
    assert code == 2 and "add --yes" in err and slurm.cancelled == []
    slurm.away()
    code, _, err = say("cancel", "components", "--yes")
    assert code == 1 and "nothing was cancelled: Slurm does not answer" in err and slurm.cancelled == []
    slurm.away(False)
    (slurm.folder / "bin" / "scancel").write_text("#!/bin/sh\necho 'scancel: error: Kill job error' >&2; exit 1\n")
    code, _, err = say("cancel", "components", "--yes")
    assert code == 1 and "Kill job error" in err
    assert not read_ticket(results, GRPO).cancelled  # it still runs, and is not given up


def test_cancel_ends_the_local_runner_of_the_sweep_and_no_other(results, say):
    for name in ("components", "controls"):
        write_sweep(results, name, seeds=1, leave_out=[("GRPO", 0)])
    code = "import sys, time; from pathlib import Path; from sweeps.locks import hold\n" \
           "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"  # fmt: skip
    runners = {
        name: subprocess.Popen([sys.executable, "-c", code, str(results / name / ".study.lock")], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
        for name in ("components", "controls")
    }  # fmt: skip
    try:
        for runner in runners.values():
            assert runner.stdout.readline() == "held\n"
        pid = runners["components"].pid
        assert f"a runner is at work (pid {pid} on this machine)" in say("status", "components")[1]
        code, out, _ = say("cancel", "components", "--yes")
        assert code == 0 and f"the runner of components (pid {pid})" in out
        assert runners["components"].wait(20) == -signal.SIGTERM
        assert runners["controls"].poll() is None
        assert "nothing of it is running or waiting here" in say("cancel", "components", "--yes")[1]
    finally:
        for runner in runners.values():
            runner.kill()
            runner.wait()


def test_cancel_tells_of_runs_that_no_ticket_leads_to(results, say):
    folder = write_sweep(results, "components", seeds=1, unfinished={("GRPO", 0): "running"}) / GRPO
    set_status(folder, host="node3", job="55_2")
    code, out, _ = say("cancel", "components", "--yes")
    assert code == 0 and "left: GRPO-s0 is at work (55_2 node3) without a job of the runner: scancel 55_2" in out


# ---- diff


def claimed(results, sweep, key, **overrides):
    folder = results / sweep / key
    folder.mkdir(parents=True, exist_ok=True)
    Recorder(with_overrides(Config(), {**overrides, "out": str(folder)})).claim()
    return folder


def test_diff_says_equal_settings_and_the_seeds(results, say):
    for seed in (0, 1):
        claimed(results, "components", f"{'a' * 12}-s{seed}", seed=seed)
    _, out, _ = say("diff", "aaaaaaaaaaaa-s0", "aaaaaaaaaaaa-s1")
    assert "Equal settings, seeds 0 and 1." in out
    assert [line.split() for line in out.splitlines() if line.startswith("seed ")] == [["seed", "0", "1"]]
    assert "One and the same run." in say("diff", "aaaaaaaaaaaa-s0", "aaaaaaaaaaaa-s0")[1]


def test_diff_names_settings_code_and_versions(results, say):
    first = claimed(results, "components", f"{'a' * 12}-s0", **{"view.step_size": 2.0})
    second = claimed(results, "components", f"{'b' * 12}-s0", **{"view.step_size": 4.0, "checkpoint.every": 7})
    for folder, sha, torch in ((first, "1" * 40, "2.13"), (second, "2" * 40, "2.14")):
        tree = {"git_sha": sha, "host": "h", "packages": {"torch": torch, "numpy": "2"}}
        (folder / schema.ENVIRONMENT_FILE).write_text(json.dumps(tree))
    _, out, _ = say("diff", "aaaa", "bbbb")
    assert "Different settings, both with seed 0." in out
    rows = [line.split() for line in out.splitlines()]
    assert ["view.step_size", "2", "4"] in rows and ["torch", "2.13", "2.14"] in rows
    assert ["checkpoint.every", "(changes", "no", "number)", "25", "7"] in rows
    assert "Different commits: 111111111111 and 222222222222" in out
    assert not any(words[:1] in (["out"], ["host"], ["numpy"]) for words in rows)


def test_a_run_records_the_job_as_slurms_tools_call_it(tmp_path, monkeypatch):
    for name, value in (("SLURM_JOB_ID", "7"), ("SLURM_ARRAY_JOB_ID", "5"), ("SLURM_ARRAY_TASK_ID", "1")):
        monkeypatch.setenv(name, value)
    assert environment("cpu", tmp_path / "none")["slurm_job_id"] == slurm_job() == "5_1"


def test_differences_are_leaves_by_dotted_name():
    first = {"a": 1, "b": {"c": [1, 2], "d": None}, "same": 0}
    second = {"a": 2, "b": {"c": [1, 3]}, "same": 0, "new": True}
    assert [tuple(pair) for pair in differences(first, second)] == [
        ("a", 1, 2), ("b.c", [1, 2], [1, 3]), ("b.d", None, "(not there)"), ("new", "(not there)", True),
    ]  # fmt: skip
    assert shown_differences(first, second, most=2) == "a (1 there, 2 here), b.c (1 2 there, 1 3 here) and 2 more"
    assert shown_differences(first, first) == ""


# ---- a model that is not there


def test_a_launch_with_a_model_that_is_not_there_is_refused_before_it_begins(results, say):
    code, _, err = say("components", "--only", "grpo", "--only", "saei", "--set", "model.path=/nowhere/model")
    assert code == 2 and "model.path: there is no folder '/nowhere/model'" in err
    assert not (results / "components").exists()


def test_a_hub_id_is_looked_up_once_and_a_silent_hub_is_no_error(monkeypatch, capsys):
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    trials = [Trial(trial_id=f"x-s{seed}", arm="a", seed=seed, config=with_overrides(Config(), {
        "model.path": "Nobody/none", "seed": seed})) for seed in range(3)]  # fmt: skip
    asked = []

    def answer(self, path, **more):
        asked.append(path)
        raise error

    monkeypatch.setattr(HfApi, "model_info", answer)
    error: Exception = ConnectionError("no route")
    refuse_missing_models(trials)
    assert "Nobody/none is no folder and not in this machine's cache" in capsys.readouterr().err
    assert asked == ["Nobody/none"]
    response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co/api/models/Nobody/none"))
    error = RepositoryNotFoundError("no", response=response)
    with pytest.raises(ValueError, match="no folder 'Nobody/none' and no model of that name on the hub"):
        refuse_missing_models(trials)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE forbids"):
        refuse_missing_models(trials)


def test_short_times():
    assert [short(value) for value in (None, 90.4, 600, 7200, 200_000)] == ["-", "90 s", "10 min", "2.0 h", "2.3 d"]
