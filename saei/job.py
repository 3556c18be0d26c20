"""The Slurm job that this process is part of, as its environment says."""

import os


def in_slurm() -> bool:
    """Does this process run inside a Slurm job?"""
    return bool(os.environ.get("SLURM_JOB_ID"))


def slurm_job() -> str:
    """Its id as Slurm's tools write it: "12_3" for a task of an array, "12", or "" outside of Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """How often Slurm has put this job back into the queue and started it again."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if in_slurm() and count.isdecimal() else 0
