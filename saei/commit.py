"""Which code runs: the commit and what was changed since. A snapshot, made for cluster jobs, says it in a file."""

import json
import subprocess
from pathlib import Path
from typing import Any

FACTS = ("git_sha", "git_dirty", "git_untracked", "git_diff")
SNAPSHOT_FILE = "SNAPSHOT.json"
"""At the root of a snapshot (sweeps/slurm/snapshot.py), beside the package: what `code_facts` found at submission."""
_MAX_DIFF = 200_000


def code_facts() -> dict[str, Any]:
    """`git_sha`, `git_dirty`, `git_untracked`, `git_diff` of the code of this package; "" and empty outside of git."""
    package = Path(__file__).resolve().parent
    snapshot = package.parent / SNAPSHOT_FILE
    if snapshot.exists():
        return {name: json.loads(snapshot.read_text())[name] for name in FACTS}
    diff, untracked = _git(package, "diff", "HEAD"), _git(package, "ls-files", "--others", "--exclude-standard")
    return {
        "git_sha": _git(package, "rev-parse", "HEAD"),
        "git_dirty": bool(diff or untracked),
        "git_untracked": untracked.splitlines(),
        "git_diff": diff[:_MAX_DIFF],
    }


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command, or "" outside of a repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.rstrip("\n") if result.returncode == 0 else ""  # a diff may end in a line of one blank
