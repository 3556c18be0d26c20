"""Where a trial's worker or job wrote its standard error: files of submitit, found by the ticket or by the pickle."""

import re
from collections.abc import Iterator
from pathlib import Path

from sweeps.commands.seen import Seen
from sweeps.slurm.tickets import FOLDER, Ticket

_PICKLE = "_submitted.pkl"


def stderr_files(one: Seen) -> list[tuple[Path, float]]:
    """Files of standard error and when their process was started (Unix seconds), the newest first."""
    found = dict(_of_jobs(one.ticket)) if one.ticket is not None else {}
    for path, started in _of_workers(one.folder.parent / FOLDER, one.folder.name):
        found.setdefault(path, started)
    return sorted(found.items(), key=lambda pair: -_changed(pair[0]))


def _of_jobs(ticket: Ticket) -> Iterator[tuple[Path, float]]:
    """Of the ticket's Slurm jobs; each submission has a folder of its own, beside those of the earlier ones."""
    jobs = [str(tree.get("job", "")) for tree in ticket.earlier if isinstance(tree, dict)]
    for job in {*jobs, ticket.job}:
        if not re.fullmatch(r"\d+(_\d+)?", job):
            continue
        mine = re.compile(rf"{job}_(\d+_)?log\.err")  # 12_1_0_log.err fits job 12_1; for job 12 it is another's
        folders = [Path(ticket.logs)] if job == ticket.job else sorted(Path(ticket.logs).parent.glob("*/"))
        for folder in folders:
            for path in sorted(folder.glob(f"{job}_*log.err")):
                if mine.fullmatch(path.name):
                    yield path, ticket.submitted if job == ticket.job else 0.0


def _of_workers(folder: Path, trial_id: str) -> Iterator[tuple[Path, float]]:
    """Of local workers: submitit names files by process id, and only the pickled call says whose they are."""
    wanted = trial_id.encode()
    for pickle in folder.glob(f"[0-9]*{_PICKLE}"):
        try:
            if wanted in pickle.read_bytes():
                path = pickle.with_name(pickle.name.removesuffix(_PICKLE) + "_0_log.err")
                if path.exists():
                    yield path, pickle.stat().st_mtime
        except OSError:
            continue


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a text file, without reading all of a long one; [] where it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            block = 4096
            while True:
                file.seek(max(0, size - block))
                text = file.read()
                if text.count(b"\n") > count or block >= size:
                    return text.decode(errors="replace").splitlines()[-count:] if count else []
                block *= 4
    except OSError:
        return []
