"""A sweep as one plain Slurm array through submitit: what the site says (a profile), the exact sbatch text, submission.

Only `saei.train.train(Config)` is pickled; it locks, resumes and seals its run directory by itself.
"""

import difflib
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from saei.cli import BadInput
from sweeps.trial import Trial

_TEXT, _NUMBER, _LINES = (str,), (int,), (list,)
KEYS: dict[str, tuple[str, tuple[type, ...]]] = {
    # key of the profile: (submitit's name of it, type)
    "partition": ("slurm_partition", _TEXT),
    "account": ("slurm_account", _TEXT),
    "qos": ("slurm_qos", _TEXT),
    "constraint": ("slurm_constraint", _TEXT),
    "gpus": ("gpus_per_node", _NUMBER),
    "cpus": ("cpus_per_task", _NUMBER),
    "mem_gb": ("mem_gb", _NUMBER),
    "time": ("timeout_min", (str, int)),
    "parallel": ("slurm_array_parallelism", _NUMBER),
    "setup": ("slurm_setup", _LINES),
    "python": ("python", _TEXT),
}
"""What a profile may say; slurm/README.md explains each."""


def read_profile(path: Path) -> dict[str, Any]:
    """The profile at `path`. Raises BadInput naming the key, the value and the rule."""
    try:
        profile = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(
            f"--cluster: there is no profile {path}; copy slurm/example.toml to slurm/cluster.toml and edit it"
        ) from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"--cluster: {path} cannot be read: {error}") from error
    for key, value in profile.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            cure = f"did you mean {near[0]}? " if near else ""
            raise BadInput(f"{path}: unknown key {key}: {cure}Keys: {', '.join(KEYS)}")
        kinds = KEYS[key][1]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise BadInput(f"{path}: {key} must be {' or '.join(kind.__name__ for kind in kinds)}, got {value!r}")
        if isinstance(value, int) and value < (0 if key == "gpus" else 1):
            raise BadInput(f"{path}: {key} must be positive, got {value}")
        if isinstance(value, list) and not all(isinstance(line, str) for line in value):
            raise BadInput(f"{path}: {key} must be a list of shell lines, got {value!r}")
    if "time" not in profile:
        raise BadInput(f'{path}: time is missing, such as time = "08:00:00"; Slurm would stop a trial after 5 minutes')
    profile["time"] = minutes(profile["time"], path)
    return profile


def minutes(text: str | int, path: Path) -> int:
    """Slurm's `D-HH:MM:SS` or `HH:MM:SS`, or whole minutes, in minutes, rounded up."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if match is None:
        raise BadInput(f'{path}: time reads "HH:MM:SS" or "D-HH:MM:SS" (or whole minutes as a number), got {text!r}')
    days, hours, mins, seconds = (int(part or 0) for part in match.groups())
    return max(1, (days * 24 + hours) * 60 + mins + (seconds > 0))


def submitit_parameters(profile: Mapping[str, Any], sweep: str, jobs: int | None) -> dict[str, Any]:
    """The profile in submitit's words; `jobs` limits how many tasks of the array run at a time."""
    parameters = {KEYS[key][0]: value for key, value in profile.items() if key != "python"}
    parameters["name"] = f"saei-{sweep}"
    if jobs is not None:
        parameters["slurm_array_parallelism"] = jobs
    return parameters


def sbatch_text(profile: Mapping[str, Any], sweep: str, trials: int, folder: Path, jobs: int | None) -> str:
    """The text that `submit` hands to sbatch for so many trials, made without a Slurm."""
    renamed = {"name": "job_name", "timeout_min": "time", "mem_gb": "mem"}
    given = submitit_parameters(profile, sweep, jobs)
    parameters = {renamed.get(key, key.removeprefix("slurm_")): value for key, value in given.items()}
    if "mem" in parameters:
        parameters["mem"] = f"{parameters['mem']}GB"
    folder = folder.resolve()
    command = f"{_python(profile)} -u -m submitit.core._submit {folder}"
    # private in submitit 1.5.4: a test holds this text against what submission really writes
    return _make_sbatch_string(command=command, folder=folder, map_count=trials if trials > 1 else None, **parameters)


def _python(profile: Mapping[str, Any]) -> str:
    return profile.get("python") or sys.executable


def submit(
    trials: Sequence[Trial], profile: Mapping[str, Any], sweep: str, folder: Path, jobs: int | None
) -> list[str]:
    """Submit the trials as one array and return the job ids. Raises BadInput where there is no Slurm."""
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise BadInput(
                f"--on slurm: there is no {command} on PATH; log in to the cluster's submit node, use --on local, or "
                "add --dry-run to see what would be submitted"
            )
    from saei.train import train  # here, because it loads torch

    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.AutoExecutor(folder=folder.resolve(), cluster="slurm", slurm_python=_python(profile))
    executor.update_parameters(**submitit_parameters(profile, sweep, jobs))
    jobs_made = executor.map_array(train, [trial.config for trial in trials])
    return [job.job_id for job in jobs_made]
