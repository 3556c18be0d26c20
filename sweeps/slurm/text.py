"""A profile in submitit's words, and the exact text that submitit hands to sbatch for it."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _convert_mem, _make_sbatch_string

from sweeps.slurm.profile import Profile
from sweeps.slurm.queue import job_name
from sweeps.slurm.tickets import COMMENT

PLACEHOLDER = "TOKEN"
"""Stands in a dry run for the token that is drawn at submission."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One call of sbatch: `count` trials of `sweep`, at most `throttle` at a time.

    `logs` is submitit's folder, one of its own per submission: a controller that lost its state gives job numbers out
    again, and an old result must not be taken for a new one. `folder`: where the launch stands, for relative paths.
    """

    sweep: str
    token: str
    count: int
    throttle: int
    code: Path
    results: Path
    folder: Path
    threads: int = 1

    @property
    def logs(self) -> Path:
        return self.results / self.sweep / ".jobs" / self.token


def parameters(profile: Profile, batch: Batch) -> dict[str, Any]:
    """For submitit's `SlurmExecutor.update_parameters`; what is left out is left to Slurm."""
    given = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "gpus_per_node": profile.gpus,
        "cpus_per_task": profile.cpus,
        "mem": _convert_mem(profile.mem_gb) if profile.mem_gb else "",
    }
    return {name: value for name, value in given.items() if value} | {
        "job_name": job_name(batch.sweep),
        "time": profile.time,
        "nodes": profile.nodes,
        "ntasks_per_node": profile.tasks_per_node,
        "comment": COMMENT + batch.token,
        "wckey": None,  # submitit's own would be refused where wckeys are enforced
        "signal_delay_s": profile.signal_delay_s,
        "array_parallelism": batch.throttle,
        "setup": setup_lines(profile, batch),
        "srun_args": srun_options(profile, batch),
        "additional_parameters": {
            "chdir": str(batch.folder),
            ("requeue" if profile.requeue else "no-requeue"): True,
            **profile.extra,
        },
    }


def setup_lines(profile: Profile, batch: Batch) -> list[str]:
    """Shell lines before the trial starts; the code's own come last, so that no module hides the snapshot."""
    threads = [f"export {name}={batch.threads}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    return [
        *(f"module load {shlex.quote(module)}" for module in profile.modules),
        *profile.setup,
        *threads,
        "export TOKENIZERS_PARALLELISM=false",
        *(f"export {name}={shlex.quote(value)}" for name, value in profile.env.items()),
        f"export PYTHONPATH={shlex.quote(str(batch.code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1  # the snapshot, not the current folder",
    ]


def srun_options(profile: Profile, batch: Batch) -> list[str]:
    """Options of srun: a process that dies ends the others of its trial."""
    options = ["--kill-on-bad-exit=1"]
    if profile.cpus:
        options.append(f"--cpus-per-task={profile.cpus}")  # since Slurm 22.05 not inherited from sbatch
    if profile.container:
        mounts = [f"{path}:{path}" for path in dict.fromkeys((batch.results, batch.folder))]
        options += [
            f"--container-image={profile.container}",
            f"--container-mounts={','.join([*mounts, *profile.container_mounts])}",
            f"--container-workdir={batch.folder}",
        ]
    return [*options, *profile.srun]


def python_command(profile: Profile) -> str:
    """What starts Python on the nodes, as a piece of shell."""
    inside = bool(profile.container or profile.container_command)
    python = profile.python or ("python" if inside else shlex.quote(sys.executable))
    return f"{profile.container_command} {python}".strip()


def sbatch_text(profile: Profile, batch: Batch) -> str:
    """The text that `submit` hands to sbatch, made without a Slurm."""
    command = f"{python_command(profile)} -u -m submitit.core._submit {shlex.quote(str(batch.logs))}"
    # private in submitit 1.5.4: a test holds this text against what submission really writes
    count = batch.count if batch.count > 1 else None
    return _make_sbatch_string(command=command, folder=batch.logs, map_count=count, **parameters(profile, batch))
