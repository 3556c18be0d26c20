"""The code that cluster jobs run: a copy of `saei/` and `sweeps/` as they are when the jobs are submitted.

So an edit, or a checkout, while jobs wait in the queue changes no trial. `results/.code/<commit>-<content>/`; equal
code is copied once. Jobs find it by PYTHONPATH.
"""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from saei.cli import BadInput
from saei.commit import SNAPSHOT_FILE, code_facts

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ".code"
PACKAGES = ("saei", "sweeps")


def snapshot(results: Path, root: Path = ROOT) -> Path:
    """The folder under `results` that holds a copy of the code below `root`; made where there is none yet.

    Raises BadInput where a copy was changed after it was made.
    """
    target, files = snapshot_path(results, root), source_files(root)
    if target.exists():
        if not target.name.endswith(_digest(target, source_files(target))):
            raise BadInput(
                f"{target} is the code that jobs run, and was changed after it was copied; delete the folder when no "
                "job of it waits or runs, and launch again"
            )
        return target
    building = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    try:
        for file in files:
            (building / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, building / file)
        (building / SNAPSHOT_FILE).write_text(json.dumps(code_facts(), indent=1) + "\n")
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)  # on a full disk it would keep the next launch from starting
        raise OSError(error.errno, error.strerror, str(building)) from error  # copyfile names what it reads from
    if not target.name.endswith(_digest(building, files)):  # edited while it was copied: its name would be wrong
        shutil.rmtree(building)
        return snapshot(results, root)
    try:
        os.rename(building, target)
    except OSError:  # another runner made it meanwhile
        if not target.exists():
            raise
        shutil.rmtree(building)
    return target


def snapshot_path(results: Path, root: Path = ROOT) -> Path:
    """Where the copy of the code as it is now lies, or would lie."""
    commit = code_facts()["git_sha"][:12] or "nogit"
    return results.resolve() / FOLDER / f"{commit}-{_digest(root, source_files(root))}"


def source_files(root: Path) -> list[Path]:
    """Files of the packages, relative to `root`: what git tracks or would, or all of them where there is no git."""
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z", "--", *PACKAGES]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split("\0")
    except (OSError, subprocess.SubprocessError):
        listed = []
    # a snapshot lies in a folder that git ignores
    found = [Path(name) for name in listed if name] or [
        path.relative_to(root) for package in PACKAGES for path in (root / package).rglob("*")
    ]
    return sorted(path for path in found if (root / path).is_file() and "__pycache__" not in path.parts)


def _digest(root: Path, files: list[Path]) -> str:
    """Eight digits over the names and contents of the files."""
    digest = hashlib.sha256()
    for file in files:
        data = (root / file).read_bytes()
        digest.update(f"{file}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:8]
