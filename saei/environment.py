"""What a run ran on: commit, uncommitted changes, versions, host. Recorded beside the numbers, never hashed."""

import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from saei.commit import code_facts
from saei.job import slurm_job

PACKAGES = ("torch", "transformers", "accelerate", "optuna", "submitit", "pandas", "pyarrow", "numpy", "datasets")


def environment(device: str, path: Path) -> dict[str, Any]:
    """The content of `environment.json` at `path`; what it held of earlier launches is kept under `earlier`."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    earlier = before.pop("earlier", []) + ([before] if before else [])
    return {
        **code_facts(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "host": platform.node(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "slurm_job_id": slurm_job(),
        "packages": {name: _version(name) for name in PACKAGES},
        "earlier": earlier,
    }


def other_code(path: Path) -> str:
    """Where `environment.json` at `path` names another commit or other uncommitted changes than now: which; else ""."""
    if not path.exists():
        return ""
    then: dict[str, Any] = json.loads(path.read_text())
    now = code_facts()
    same = all(then.get(name) == now[name] for name in ("git_sha", "git_diff", "git_untracked"))
    if same or not then.get("git_sha"):
        return ""
    return f"commit {then['git_sha'][:12]}" + (" with uncommitted changes" if then.get("git_dirty") else "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
