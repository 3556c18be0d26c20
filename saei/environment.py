"""What a run ran on: commit, uncommitted changes, versions, host. Recorded beside the numbers, never hashed."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "accelerate", "optuna", "submitit", "pandas", "pyarrow", "numpy", "datasets")
_MAX_DIFF = 200_000


def _git(*arguments: str) -> str:
    """Output of a git command in the source tree, or "" outside of a repository."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def environment(device: str, path: Path) -> dict[str, Any]:
    """The content of `environment.json` at `path`; what it held of earlier launches is kept under `earlier`."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    earlier = before.pop("earlier", []) + ([before] if before else [])
    diff, untracked = _git("diff", "HEAD"), _git("ls-files", "--others", "--exclude-standard")
    return {
        "git_sha": _git("rev-parse", "HEAD"),
        "git_dirty": bool(diff or untracked),
        "git_untracked": untracked.splitlines(),
        "git_diff": diff[:_MAX_DIFF],
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "host": platform.node(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
        "packages": {name: _version(name) for name in PACKAGES},
        "earlier": earlier,
    }


def other_code(path: Path) -> str:
    """Where `environment.json` at `path` names another commit or other uncommitted changes than now: which; else ""."""
    if not path.exists():
        return ""
    then: dict[str, Any] = json.loads(path.read_text())
    now = environment("cpu", Path(os.devnull) / "none")
    same = all(then.get(name) == now[name] for name in ("git_sha", "git_diff", "git_untracked"))
    if same or not then.get("git_sha"):
        return ""
    return f"commit {then['git_sha'][:12]}" + (" with uncommitted changes" if then.get("git_dirty") else "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
