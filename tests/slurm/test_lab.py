"""The lab itself: what the other tests rely on is true of this Slurm."""

import os
import subprocess

from sweeps.slurm.queue import history
from tests.slurm.lab import SCRIPT, wait_for


def counter(folder):
    """Shell lines of a job that counts its starts, notes the warning signal, and runs until it is told to stop."""
    return f"echo started >> {folder}/starts; trap 'echo warned >> {folder}/starts; exit 0' USR2; sleep 60 & wait"


def starts(folder):
    path = folder / "starts"
    return path.read_text().split() if path.exists() else []


def test_an_array_keeps_its_throttle_and_gpus_are_given_out(slurm, tmp_path):
    line = f"echo $CUDA_VISIBLE_DEVICES > {tmp_path}/gpu-$SLURM_ARRAY_TASK_ID; sleep 0.5"
    job = slurm.sbatch(line, "--array=0-2%2", "--gpus-per-node=1")
    assert sum(state == "RUNNING" for state in slurm.jobs().values()) <= 2
    wait_for(lambda: [slurm.state(f"{job}_{task}") for task in range(3)] == ["COMPLETED"] * 3, "the array to end")
    assert {path.read_text().strip() for path in tmp_path.glob("gpu-*")} <= {"0", "1"}


def test_main_preempts_low_with_a_warning_and_a_requeue_and_cancel_for_good(slurm, tmp_path):
    jobs = {}
    for partition in ("low", "cancel"):
        folder = tmp_path / partition
        folder.mkdir()
        options = ("-p", partition, "--gpus-per-node=2", "--signal=B:USR2@30")
        jobs[partition] = slurm.sbatch(counter(folder), *options)
        wait_for(lambda folder=folder: starts(folder), "the job to start")
    slurm.preempt()
    wait_for(lambda: starts(tmp_path / "cancel")[1:] == ["warned"], "the warning before the cancellation")
    wait_for(lambda: starts(tmp_path / "low")[:2] == ["started", "warned"], "the warning before the requeue")
    assert slurm.wait_for_state(jobs["cancel"], "PREEMPTED", "CANCELLED", "COMPLETED")


def test_accounting_is_off(slurm):
    ended = subprocess.run(["sacct"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "accounting storage is disabled" in ended.stderr


def test_jobs_outlive_a_restart_of_slurmctld_and_a_lost_node_gives_them_back(slurm, tmp_path):
    job = slurm.sbatch(counter(tmp_path))
    wait_for(lambda: starts(tmp_path), "the job to start")
    slurm.restart_controller()
    assert slurm.state(job) == "RUNNING"
    slurm.node_down()
    slurm.wait_for_state(job, "PENDING")
    wait_for(lambda: starts(tmp_path) == ["started"] * 2, "the job to start again")  # the node is back by itself


def test_sacct_tells_the_runner_how_jobs_ended_that_squeue_forgot(accounting):
    failed = accounting.sbatch("exit 3", "-J", "saei-components")
    cancelled = accounting.sbatch("sleep 60", "-J", "saei-components")
    other = accounting.sbatch("exit 0", "-J", "of-somebody-else")
    accounting.wait_for_state(cancelled, "RUNNING")
    accounting.run("scancel", cancelled)
    expected = {failed: "FAILED", cancelled: "CANCELLED"}  # sacct says "CANCELLED by 0"
    wait_for(lambda: history([failed, cancelled, other], ["components"]) == expected, "sacct to know both ends")


def test_a_lab_ends_with_the_process_that_owns_it(slurm):
    owner = subprocess.Popen(["sleep", "100"])
    port = str(int(slurm.environment["SLURM_LAB_PORT"]) + 5)
    folder = f"{slurm.root}/other"
    environment = {**os.environ, "SLURM_LAB": folder, "SLURM_LAB_PORT": port, "SLURM_LAB_OWNER": str(owner.pid)}
    try:
        subprocess.run(["bash", str(SCRIPT), "start"], env=environment, check=True, capture_output=True)
        asked = ["bash", str(SCRIPT), "status"]
        daemons = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
        pids = [int(line.split()[1]) for line in daemons.splitlines()[:5] if line.split()[1] != "-"]
        assert len(pids) == 3  # munged, slurmctld, slurmd
    finally:
        owner.kill()
        owner.wait()
    wait_for(lambda: not any(_runs(pid) for pid in pids), "the daemons to end", 30)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
