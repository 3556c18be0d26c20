"""`run.py logs TRIAL`: the end of its log and of what its process wrote to standard error."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from saei import schema
from saei.cli import checked_command_line
from sweeps.commands.find import find_trial
from sweeps.commands.recorded import read_tree
from sweeps.commands.seen import Seen, see, surroundings
from sweeps.commands.shown import print_lines
from sweeps.commands.stderr import last_lines, stderr_files
from sweeps.slurm.queue import Queue

POLL_S, LOOK_S = 0.5, 5.0


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class LogsCommand:
    """The end of a trial's log, and of what its worker or job wrote to standard error. Reads only."""

    trial: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRIAL")]
    """Its id or the beginning of it, arm-s0, sweep/arm-s0, or the path of the run directory."""
    lines: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Lines of each file."""
    follow: bool = False
    """Go on printing what is added to the log, until the run ends or Ctrl-C."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder of all results."""

    def __post_init__(self) -> None:
        if self.lines < 1:
            raise ValueError(f"--lines must be at least 1, got {self.lines}")


def main(arguments: Sequence[str]) -> int:
    command = checked_command_line(LogsCommand, arguments, prog="python sweeps/run.py logs")
    entry = find_trial(command.trial, command.results)
    one = _see(entry, command.results)
    log = one.folder / schema.LOG_FILE
    said = last_lines(log, command.lines)
    if said:
        print_lines([f"==> {log} <==", *said])
    else:
        print_lines([f"{entry.sweep}/{entry.name} ({entry.trial_id}) is {one.state} and has no log yet: {log}"])
    known = set(last_lines(log, 10_000))
    for path, _ in stderr_files(one)[:1]:
        own = [line for line in last_lines(path, 10_000) if line not in known][
            -command.lines :
        ]  # the log is echoed there
        if own:
            print_lines(["", f"==> {path} <==", *own])
    if command.follow:
        sys.stdout.flush()
        _follow(one, command.results)
    return 0


def _see(entry, results: Path) -> Seen:
    # without asking Slurm: what is shown here does not depend on it
    return see([entry], surroundings(results, [entry], Queue(answered=True)))[0]


def _follow(one: Seen, results: Path) -> None:
    """Print what is added to the log. Ends when the run is sealed, failed or was stopped, and on Ctrl-C."""
    log = one.folder / schema.LOG_FILE
    place = _size(log)
    looked = 0.0
    try:
        while True:
            place = _print_from(log, place)
            if time.monotonic() - looked > LOOK_S:
                looked = time.monotonic()
                ending = _ending(one, results)
                if ending:
                    _print_from(log, place)
                    print_lines([f"--- {ending}"])
                    return
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return


def _ending(one: Seen, results: Path) -> str:
    """How the run ended, or "" while it may still write."""
    if (one.folder / schema.DONE_FILE).exists():
        return "finished"
    status = read_tree(one.folder / schema.STATUS_FILE)
    if status.get("state") not in (schema.FAILED, schema.INTERRUPTED):
        return ""
    now = _see(one.entry, results)
    return "" if now.is_active else f"{now.state}: {now.message}".rstrip(": ")


def _print_from(log: Path, place: int) -> int:
    """Print what lies behind byte `place`; a file that became shorter is a new one. Returns the new place."""
    size = _size(log)
    if size < place:
        place = 0
    if size == place:
        return place
    with open(log, "rb") as file:
        file.seek(place)
        text = file.read()
    whole = text.rfind(b"\n") + 1  # a line in the middle of being written waits
    sys.stdout.write(text[:whole].decode(errors="replace"))
    sys.stdout.flush()
    return place + whole


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
