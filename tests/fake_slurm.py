"""Slurm's commands as scripts on PATH that answer what a test says: for states that no real Slurm shows on call."""

import os
from pathlib import Path

from sweeps.slurm.queue import _FIELDS, _SEPARATOR

SCRIPTS = {
    # submission number n gives job n; the script is kept as submitted-n
    "sbatch": """
n=$(($(cat count 2>/dev/null || echo 0) + 1))
if [ -s refusal ]; then cat refusal >&2; exit 1; fi
echo $n > count; cp "$1" submitted-$n; echo "Submitted batch job $n"
""",
    "squeue": '[ -e away ] && { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }\n'
    "cat queue 2>/dev/null; true",
    "sacct": "cat accounts 2>/dev/null || { echo 'Slurm accounting storage is disabled' >&2; exit 1; }",
    "srun": "true",
    "scontrol": 'echo "MaxArraySize            = 1001"',
    "scancel": 'echo "$@" >> cancelled',
}


class FakeSlurm:
    """`folder` holds the scripts and what they answer."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name, body in SCRIPTS.items():
            script = folder / "bin" / name
            script.write_text(f"#!/bin/sh\nscript=$1\ncd {folder}\n{body}\n")
            script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def queue(self, *jobs: dict) -> None:
        """What squeue shows: dicts of job, state, comment and, where it matters, name, reason."""
        usual = {"user": os.getuid(), "node": "n0", "left": "1:00:00", "elapsed": "1:00", "reason": "None"}
        usual |= {"name": "saei-components", "comment": "(null)"}
        order = ("job", "state", "user", "node", "left", "elapsed", "reason", "name", "comment")
        assert len(order) == len(_FIELDS)
        lines = [_SEPARATOR.join(str((usual | job)[field]) for field in order) for job in jobs]
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    def accounts(self, *lines: str) -> None:
        """What sacct prints."""
        (self.folder / "accounts").write_text("".join(f"{line}\n" for line in lines))

    def refuse(self, words: str) -> None:
        """sbatch fails with these words; "" makes it work again."""
        (self.folder / "refusal").write_text(words)

    def away(self, is_away: bool = True) -> None:
        """squeue does not reach the controller."""
        (self.folder / "away").touch() if is_away else (self.folder / "away").unlink()

    @property
    def submissions(self) -> list[str]:
        """The texts given to sbatch."""
        return [path.read_text() for path in sorted(self.folder.glob("submitted-*"))]

    @property
    def cancelled(self) -> list[str]:
        """What scancel was called with."""
        path = self.folder / "cancelled"
        return path.read_text().splitlines() if path.exists() else []
