import json
import os
import time

import pytest

from sweeps.judging import from_error, from_run_directory, signature
from sweeps.outcome import Kind

STAMP = "2026-03-01 12:00:00"
THEN = time.mktime(time.strptime(STAMP, "%Y-%m-%d %H:%M:%S"))


def traceback_of(error, file="saei/update.py"):
    return f'Traceback (most recent call last):\n  File "/code/{file}", line 12, in f\n    loss = 1 / 0\n{error}\n'


@pytest.fixture
def run(tmp_path):
    """A run directory and the file of its process's standard error."""
    (tmp_path / "run").mkdir()

    def write(state="", *, words="", **status):
        if state:
            (tmp_path / "run" / "status.json").write_text(json.dumps({"state": state, **status}))
        (tmp_path / "7_0_log.err").write_text(words)
        return tmp_path / "run", tmp_path / "7_0_log.err"

    return write


def judge(written, **more):
    folder, stderr = written
    return from_run_directory(folder, stderr=stderr, **more)


def test_a_sealed_run_is_finished_whatever_else_is_there(run, tmp_path):
    folder, stderr = run("failed", message="ValueError: x", words=traceback_of("ValueError: x"))
    (folder / "DONE").write_text("{}")
    assert from_run_directory(folder, stderr=stderr).kind == Kind.FINISHED
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "SAME_AS").write_text("../run\n")
    assert from_run_directory(tmp_path / "other").kind == Kind.FINISHED


def test_an_unknown_error_keeps_its_type_and_message(run):
    outcome = judge(run("failed", message="ArithmeticError: 3 of 7 in /a/b-c/d.txt"))
    assert outcome.kind == Kind.FAILED and outcome.sentence == "ArithmeticError: 3 of 7 in /a/b-c/d.txt"
    assert outcome.error == "ArithmeticError: N of N in PATH" and outcome.log.endswith("7_0_log.err")


def test_two_failures_of_one_cause_have_one_signature():
    a = signature("RuntimeError: step 12 of trial 3fa9c01b22: value 1.5e-3 in '/x/y', line 4\nmore 1")
    b = signature("RuntimeError: step 7 of trial 00ab12cd34: value 0.2 in '/z/w/v', line 81\nmore 2")
    assert a == b == "RuntimeError: step N of trial N: value N in 'PATH', line N"
    assert signature("RuntimeError: other") != a


KNOWN = {
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has": (
        Kind.OUT_OF_MEMORY, ("optim.pack_tokens", "rollout.batch_rows")),
    "MemoryError: Unable to allocate 9 GiB": (Kind.OUT_OF_MEMORY, ("mem_gb", "--jobs")),
    "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried": (
        Kind.OUT_OF_MEMORY, ("mem_gb",)),
    "OSError: [Errno 28] No space left on device: '/results/x'": (Kind.DISK_FULL, ("free some space",)),
    "OSError: [Errno 122] Disk quota exceeded": (Kind.DISK_FULL, ("quota",)),
    "OSError: [Errno 30] Read-only file system: 'x'": (Kind.FAILED, ("--results",)),
    "ModuleNotFoundError: No module named 'torch'": (Kind.NEVER_STARTED, ("setup lines",)),
    "BadInput: model.device is cuda, but torch sees 0 GPUs here; use": (Kind.FAILED, ("gpus = 1", "nvidia-smi")),
    "OSError: We couldn't connect to 'https://huggingface.co' to load": (Kind.FAILED, ("hf download",)),
    "BadInput: model.path: there is no folder './x'": (Kind.FAILED, ("model.path",)),
    "BadInput: data.path must be a folder": (Kind.FAILED, ("data.path",)),
    "RunBusy: /x is being written by another process": (Kind.BUSY, ()),
    "DistBackendError: NCCL error in: x.cpp:12, remote process exited": (Kind.FAILED, ("other tasks",)),
    "RuntimeError: [gloo/transport/tcp/pair.cc] Connection closed by peer": (Kind.FAILED, ("other tasks",)),
    "KeyboardInterrupt": (Kind.INTERRUPTED, ("continues",)),
}  # fmt: skip


@pytest.mark.parametrize("error", KNOWN)
def test_a_known_error_is_told_with_its_cure(error):
    kind, cures = KNOWN[error]
    outcome = from_error(error)
    assert outcome.kind == kind
    assert error.split(": ", 1)[-1] in outcome.sentence
    for part in cures:
        assert part in f"{outcome.sentence} {outcome.cure}"


def test_a_full_gpu_while_sampling_names_the_decoded_rows_only(run):
    error = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"
    sampling = judge(run("failed", message=error[6:], words=traceback_of(error, "saei/sampler.py")))
    updating = judge(run("failed", message=error[6:], words=traceback_of(error)))
    assert "rollout.batch_rows" in sampling.cure and "pack_tokens" not in sampling.cure
    assert "optim.pack_tokens" in updating.cure
    assert sampling.error == updating.error  # one cause: it stops a sweep


def test_what_the_trainer_has_put_in_plain_words_is_not_said_twice():
    full = "out of memory while sampling (CUDA out of memory. Tried 2 GiB): lower rollout.batch_rows (now 96)"
    for error in (full, f"OutOfMemory: {full}"):
        outcome = from_error(error)
        assert outcome.kind == Kind.OUT_OF_MEMORY and outcome.sentence == full
        assert outcome.cure == "a setting that is lowered makes new trials: set it for the whole sweep (--set FIELD=N)"
    disk = from_error("DiskFull: no space left on /r (needs about 9 MB): free some, then the same command continues")
    assert disk.kind == Kind.DISK_FULL and disk.sentence.startswith("no space left on /r") and disk.cure == ""
    bad = from_error("BadInput: loss.name is one of grpo, got x")
    assert (bad.kind, bad.sentence) == (Kind.FAILED, "loss.name is one of grpo, got x")
    assert bad.error.startswith("BadInput")  # by which no second try is made
    lost = from_error("ProcessLost: another of the 2 processes of this trial ended (killed, out of memory, ...)")
    assert lost.kind == Kind.FAILED and "other tasks" in lost.cure


SLURM_SAYS = {
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0. Some of the step tasks": Kind.OUT_OF_MEMORY,
    "srun: error: n0: task 0: Out Of Memory": Kind.OUT_OF_MEMORY,
    "slurmstepd: error: *** JOB 7 ON n0 CANCELLED AT 2026-03-01T12:00:00 DUE TO TIME LIMIT ***": Kind.TIMED_OUT,
    "slurmstepd: error: *** JOB 7 ON n0 CANCELLED AT 2026-03-01T12:00:00 DUE TO PREEMPTION ***": Kind.PREEMPTED,
    "slurmstepd: error: *** JOB 7 ON n0 CANCELLED AT 2026-03-01T12:00:00 ***": Kind.CANCELLED,
    "bash: line 3: module: command not found": Kind.NEVER_STARTED,
    "slurmstepd: error: execve(): /no/such/python: Permission denied": Kind.NEVER_STARTED,
    "srun: error: something else": Kind.KILLED,
}


@pytest.mark.parametrize("line", SLURM_SAYS)
def test_what_slurm_and_the_shell_said_is_read(run, line):
    assert judge(run("running", words=f"{STAMP} step 3: reward 0.5\n{line}\n")).kind == SLURM_SAYS[line]


def test_an_interpreter_that_srun_cannot_start_names_the_key_of_the_profile(run):
    line = "slurmstepd: error: execve(): /no/such/python: No such file or directory"
    found = judge(run(words=f"{line}\nsrun: error: n0: task 0: Exited with exit code 2\n"))
    assert found.sentence == f"the node cannot start the interpreter: {line}"
    assert found.cure.startswith("correct python in the cluster profile") and "pip" not in found.cure


def test_a_process_that_ended_without_a_word_was_killed(run):
    outcome = judge(run("running"), exit_sentence="exit code 137")
    assert outcome.kind == Kind.KILLED and "out-of-memory killer or by a person (exit code 137)" in outcome.sentence
    assert "continues from its checkpoint" in outcome.cure and outcome.error == "killed"


def test_a_process_that_left_no_status_never_started(run):
    outcome = judge(run(words="sh: 1: source: something odd\n"))
    assert outcome.kind == Kind.NEVER_STARTED and outcome.sentence.endswith("source: something odd")
    assert "setup lines" in outcome.cure


def test_an_interruption_is_told_with_its_reason_where_slurm_gives_one(run):
    assert judge(run("interrupted", message="warned by SIGUSR2")).kind == Kind.INTERRUPTED
    line = "slurmstepd: error: *** JOB 7 ON n0 CANCELLED AT 2026-03-01T12:00:00 DUE TO PREEMPTION ***\n"
    outcome = judge(run("interrupted", message="warned by SIGUSR2", words=line))
    assert outcome.kind == Kind.PREEMPTED and outcome.sentence == "pre-empted; warned by SIGUSR2"


def test_the_words_of_an_earlier_process_are_not_taken_for_its_own(run):
    earlier = f"{STAMP} failed: OSError: x\n" + traceback_of("OSError: [Errno 28] No space left on device")
    written = run("failed", message="OSError: [Errno 28] No space left on device", heartbeat=THEN, words=earlier)
    os.utime(written[1], (THEN, THEN))
    assert judge(written).kind == Kind.DISK_FULL
    later = judge(written, since=THEN + 60)  # its status is older than the process, and so are these words
    assert later.kind == Kind.NEVER_STARTED
    # an error that the trainer survived, then its log goes on: the end came without a word
    survived = traceback_of("ValueError: survived") + f"{STAMP} step 3: reward 0.5\n"
    assert judge(run("running", words=survived)).kind == Kind.KILLED


def test_of_two_processes_the_one_that_fell_first_is_told(run):
    lost = "RuntimeError: [gloo/pair.cc] Connection closed by peer [127.0.0.1]:4"
    folder, stderr = run("failed", message=lost, words=traceback_of(lost))
    assert "other tasks" in from_run_directory(folder, stderr=stderr).cure
    stderr.with_name("7_1_log.err").write_text(traceback_of("ZeroDivisionError: division by zero"))
    outcome = from_run_directory(folder, stderr=stderr)
    assert outcome.sentence == "ZeroDivisionError: division by zero (in 7_1_log.err)"


def test_the_last_error_of_a_chain_is_the_one_told(run):
    words = traceback_of("ValueError: inner") + "\nDuring handling of it, another exception occurred:\n\n"
    words += traceback_of("saei.errors.Outer: the outer one")
    assert judge(run("running", words=words)).sentence == "Outer: the outer one"


def test_missing_and_broken_files_are_no_error(tmp_path):
    (tmp_path / "status.json").write_text('{"state": ')
    assert from_run_directory(tmp_path, stderr=tmp_path / "none").kind == Kind.NEVER_STARTED
    assert from_run_directory(tmp_path / "nowhere").kind == Kind.NEVER_STARTED
