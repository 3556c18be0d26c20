"""`run.py status [NAME]`: what has become of every trial. Never writes, and believes nobody's word over the files."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from saei.cli import BadInput, checked_command_line
from sweeps.commands.recorded import Recorded, read_sweep, sweep_folders, unknown_sweep
from sweeps.commands.seen import (
    CANCELLED,
    FAILED,
    FINISHED,
    MISSING,
    PRUNED,
    QUEUED,
    STATES,
    STOPPED,
    SUBMITTED,
    Seen,
    Surroundings,
    see,
    surroundings,
)
from sweeps.commands.shown import console, grid, print_grid, print_lines, short, terminal_lines, width
from sweeps.commands.summary import count_words, earlier_lines, head_lines, tail_lines
from sweeps.slurm.queue import Queue

MANY = 40
"""More trials than this are grouped in a terminal."""
REFRESH_S, ASK_SLURM_S = 2.0, 20.0
RIGHT = ("step", "validation", "seen", "left")
_SHARES = {FAILED: 0.35, STOPPED: 0.15, CANCELLED: 0.15}
_IN_GROUPS = (FINISHED, MISSING, PRUNED, QUEUED, SUBMITTED)


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class StatusCommand:
    """What has become of every trial of a sweep, or of all sweeps. Reads only."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """Which sweep [all of them, a line each]."""
    watch: bool = False
    """Show it again and again until Ctrl-C."""
    all: bool = False
    """Every trial a row, however many there are, and those of earlier launches with other settings."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder of all results."""


def main(arguments: Sequence[str]) -> int:
    command = checked_command_line(StatusCommand, arguments, prog="python sweeps/run.py status")
    names = sweep_folders(command.results)
    if command.name and command.name not in names:
        raise unknown_sweep(command.name, names, command.results)
    if not names:
        print_lines([f"There is no sweep in {command.results} yet; python sweeps/run.py --list shows what can be run."])
        return 0
    if command.watch:
        return _watch(command)
    if not command.name:
        _print_overview(command.results)
        return 0
    sweep, around, seen, earlier = _look(command)
    rows, left_out = _rows([*seen, *earlier], console().is_terminal and not command.all)
    wide = width(console())
    print_lines(head_lines(sweep, seen, around))
    if rows:
        print_lines([""])
        print_grid(*_cells(rows, wide), right=RIGHT, may_shrink="where")
    told = [left_out, *earlier_lines(sweep, are_shown=command.all), *tail_lines(sweep, seen)]
    print_lines([line for line in told if line])
    return 0


def _look(command: StatusCommand, queue: Queue | None = None) -> tuple[Recorded, Surroundings, list[Seen], list[Seen]]:
    """The sweep, what surrounds it, the trials of its newest plan and, with --all, those of its other plans."""
    sweep = read_sweep(command.results, command.name)
    earlier = sweep.earlier if command.all else ()
    around = surroundings(command.results, [*sweep.entries, *earlier], queue)
    return sweep, around, see(sweep.entries, around), see(earlier, around)


def _watch(command: StatusCommand) -> int:
    """Refresh until Ctrl-C. Slurm is asked a few times a minute at most, whatever the screen does."""
    out = Console(highlight=False)
    if not out.is_terminal:
        raise BadInput("--watch needs a terminal; without it the command prints the status once")
    asked, queue = 0.0, None
    try:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                if time.monotonic() - asked > ASK_SLURM_S:
                    asked, queue = time.monotonic(), None
                shown, queue = _screen(command, queue)
                live.update(shown, refresh=True)
                time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return 0


def _screen(command: StatusCommand, queue: Queue | None) -> tuple[Group, Queue]:
    """The watched view, cut to the height of the terminal."""
    stamp = Text(f"{time.strftime('%H:%M:%S')}, Ctrl-C ends the watching and nothing else", style="dim")
    room = max(3, terminal_lines() - 14)
    if not command.name:
        heads, rows, queue = _overview(command.results, queue)
        return Group(grid(heads, rows[:room], right=heads[1:], may_shrink="sweep"), stamp), queue
    sweep, around, seen, earlier = _look(command, queue)
    rows, left_out = _rows([*seen, *earlier], not command.all, room)
    table = grid(*_cells(rows, console().width), right=RIGHT, may_shrink="where")
    lines = [Text(line) for line in [*head_lines(sweep, seen, around), ""]]
    told = [left_out, *earlier_lines(sweep, are_shown=command.all), *tail_lines(sweep, seen)]
    tail = [Text(line) for line in told if line]
    return Group(*lines, *([table] if rows else []), *tail, stamp), around.queue


# ---- one sweep


def _rows(seen: Sequence[Seen], is_grouped: bool, room: int = 10**6) -> tuple[list[Seen], str]:
    """The trials to show a row each, and a line about the others."""
    if not is_grouped or len(seen) <= min(MANY, room):
        return list(seen)[:room], "" if len(seen) <= room else f"{len(seen) - room} more trials below"
    room = min(MANY, room)
    order = {state: number for number, state in enumerate(STATES)}
    telling = sorted((one for one in seen if one.state not in _IN_GROUPS), key=lambda one: order.get(one.state, 0))
    first: list[Seen] = []
    for one in telling:  # a part of the room for each state, so that none hides the others
        if sum(other.state == one.state for other in first) < max(1, int(room * _SHARES.get(one.state, 0.5))):
            first.append(one)
    chosen = {one.entry.trial_id for one in first[:room]}
    for one in telling:  # what is left of it, for whoever comes first
        if len(chosen) < room:
            chosen.add(one.entry.trial_id)
    shown = [one for one in telling if one.entry.trial_id in chosen]
    left = Counter(one.state for one in seen) - Counter(one.state for one in shown)
    return shown, f"Not shown: {count_words(left)}; --all shows every trial."


def _cells(rows: Sequence[Seen], columns: int) -> tuple[list[str], list[list[str]]]:
    """Heads and cells; the trial ids where there is room for them."""
    heads = ["trial", "state", "where", "step", "validation", "seen", "left"]
    table = [
        [
            one.entry.name,
            one.state,
            one.where or "-",
            _progress(one),
            "-" if one.metric is None else f"{one.metric:.3f}",
            short(one.age_s) if one.is_active else "-",
            short(one.left_s) if one.is_active else "-",
        ]
        for one in rows
    ]
    if any(one.entry.launch for one in rows):
        heads.append("launch")
        launches = [f"earlier {one.entry.launch}" if one.entry.launch else "newest" for one in rows]
        table = [[*cells, launch] for cells, launch in zip(table, launches, strict=True)]
    if columns >= 110:
        heads.append("id")
        table = [[*cells, one.entry.trial_id] for cells, one in zip(table, rows, strict=True)]
    return heads, table


def _progress(one: Seen) -> str:
    return "-" if one.step is None else f"{one.step}/{one.steps if one.steps is not None else '?'}"


# ---- all sweeps


def _print_overview(results: Path) -> None:
    heads, rows, queue = _overview(results, None)
    print_grid(heads, rows, right=heads[1:], may_shrink="sweep")
    if not queue.answered:
        print_lines([f"Slurm does not answer ({queue.problem or 'no reason given'}): its jobs are shown as known"])
    print_lines(["python sweeps/run.py status NAME shows the trials of one"])


def _overview(results: Path, queue: Queue | None) -> tuple[list[str], list[list[str]], Queue]:
    """Heads and one row per sweep, the newest first; and what squeue said."""
    heads = ["sweep", "finished", "running", "queued", "failed", "stopped", "missing", "last sign"]
    sweeps = [read_sweep(results, name) for name in sweep_folders(results)]
    around = surroundings(results, [entry for sweep in sweeps for entry in sweep.entries], queue)
    found = []
    for sweep in sweeps:
        seen = see(sweep.entries, around)
        counts = Counter(one.state for one in seen)
        running = sum(one.is_active for one in seen) - counts[QUEUED] - counts[SUBMITTED]
        signs = [around.now - one.age_s for one in seen if one.age_s is not None]
        latest = max([sweep.launched, *signs])
        numbers = (running, counts[QUEUED] + counts[SUBMITTED], counts[FAILED], counts[STOPPED] + counts[CANCELLED],
                   counts[MISSING])  # fmt: skip
        whole = len(seen) - counts[PRUNED]
        row = [sweep.name, f"{counts[FINISHED]}/{whole}", *(str(number) if number else "-" for number in numbers)]
        found.append((latest, [*row, short(max(0.0, around.now - latest))]))
    return heads, [row for _, row in sorted(found, key=lambda pair: -pair[0])], around.queue
