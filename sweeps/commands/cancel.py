"""`run.py cancel NAME [TRIAL ...]`: stop what works on a sweep, its own jobs and its runner, and nothing else.

A job is the sweep's own when its ticket says so and squeue shows it under the ticket's name and comment: a number that
Slurm has given out again never cancels somebody else's job. Run directories stay; the next launch continues them.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from saei import schema
from saei.cli import BadInput, checked_command_line
from sweeps.commands.find import find_trial
from sweeps.commands.holders import Holders, runner_of
from sweeps.commands.recorded import (
    Entry,
    all_entries,
    is_on_slurm,
    launch_line,
    read_sweep,
    read_tree,
    real_folder,
    sweep_folders,
    unknown_sweep,
)
from sweeps.commands.seen import Surroundings, see, ticket_of
from sweeps.commands.shown import counted, print_lines
from sweeps.slurm.queue import JobFact, Queue, look
from sweeps.slurm.tickets import Ticket, update_ticket

AT_ONCE = 100
"""Job numbers in one call of scancel."""
SCANCEL_S = 60.0


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class CancelCommand:
    """Stop a sweep, or some of its trials: its own Slurm jobs, and a runner of it on this machine.

    What has run stays and the next launch continues it. Jobs that another sweep needs too are left alone.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Which sweep."""
    trials: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TRIAL")] = ()
    """Only these trials: ids or arm-s0 [all, and the runner with them]."""
    yes: bool = False
    """Do not ask."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder of all results."""


@dataclass(slots=True)
class Catch:
    """What would be cancelled, pending jobs first, and sentences about what is left alone. `runner`: its pid, or 0."""

    jobs: list[tuple[Ticket, JobFact]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    runner: int = 0


def main(arguments: Sequence[str]) -> int:
    command = checked_command_line(CancelCommand, arguments, prog="python sweeps/run.py cancel")
    names = sweep_folders(command.results)
    if command.name not in names:
        raise unknown_sweep(command.name, names, command.results)
    entries = _named(command)
    tickets = _open_tickets(command.results, entries)
    queue = look(command.results) if tickets else Queue(answered=True)
    if not queue.answered:
        print(f"nothing was cancelled: Slurm does not answer ({queue.problem}); try again", file=sys.stderr)
        return 1
    catch = _catch(command, tickets, queue)
    if not command.trials:
        runner = runner_of(command.results / command.name, Holders())
        if runner is not None and runner.pid:
            catch.runner = runner.pid
        elif runner is not None:
            catch.left.append(f"left: the runner is elsewhere ({runner.name}): press Ctrl-C there, or it submits again")
    catch.left += _unreachable(command, entries, catch)
    print_lines(catch.left)
    if not catch.jobs and not catch.runner:
        print_lines([f"{command.name}: nothing of it is running or waiting here; nothing was cancelled"])
        return 0
    newest = read_sweep(command.results, command.name).command
    on_slurm = is_on_slurm(newest)
    on_slurm = bool(tickets) if on_slurm is None else on_slurm
    print_lines(_offer(command.name, catch, on_slurm=on_slurm))
    if not _is_agreed(command.yes):
        print_lines(["nothing was cancelled"])
        return 0
    meant = {entry.command for entry in entries} if command.trials else {newest}
    again = (meant.pop() if len(meant) == 1 else "") or newest
    return _cancel(command, catch, launch_line(command.name, again, on_slurm=on_slurm))


def _named(command: CancelCommand) -> list[Entry]:
    """The trials of the sweep that the command means."""
    if not command.trials:
        return all_entries(command.results, [command.name])
    prefix = f"{command.name}/"
    return [find_trial(prefix + text.removeprefix(prefix), command.results) for text in command.trials]


def _open_tickets(results: Path, entries: Sequence[Entry]) -> list[Ticket]:
    tickets = [ticket_of(results, entry.trial_id) for entry in entries]
    return [ticket for ticket in tickets if ticket is not None and not ticket.closed]


def _catch(command: CancelCommand, tickets: Sequence[Ticket], queue: Queue) -> Catch:
    catch = Catch()
    for ticket in tickets:
        what = f"{ticket.arm}-s{ticket.seed}"
        job = queue.of(ticket)
        if ticket.sweep != command.name:
            if job is None or not job.is_living:
                continue
            catch.left.append(f"left: {what} is run by the sweep {ticket.sweep}, whose job {ticket.job} this is")
        elif not ticket.job:
            catch.left.append(f"left: {what} is being submitted at this moment; give the command again")
        elif job is None and ticket.job in queue.jobs:
            catch.left.append(f"left: job {ticket.job} is not {what}'s any more, but somebody else's")
        elif job is None or not job.is_living:
            continue  # it has ended; the runner will see it
        elif users := _other_users(command.results, ticket):
            catch.left.append(
                f"left: {what} is needed by {', '.join(users)} too; scancel {ticket.job} stops it all the same"
            )
        else:
            catch.jobs.append((ticket, job))
    catch.jobs.sort(key=lambda pair: not pair[1].is_pending)  # else waiting jobs start as running ones end
    return catch


def _other_users(results: Path, ticket: Ticket) -> list[str]:
    """Sweeps that point to this run instead of running it themselves."""
    own = (results / ticket.sweep / ticket.trial_id).resolve()
    pointing = [name for name in sweep_folders(results)
                if (results / name / ticket.trial_id / schema.SAME_AS_FILE).is_file()]  # fmt: skip
    return [name for name in pointing if real_folder(results / name / ticket.trial_id).resolve() == own]


def _unreachable(command: CancelCommand, entries: Sequence[Entry], catch: Catch) -> list[str]:
    """Runs at work that no ticket leads to and no runner here will stop: by hand, or in an array submitted by hand."""
    ticketed = {ticket.trial_id for ticket, _ in catch.jobs}
    around = Surroundings(results=command.results, tickets={}, queue=Queue(answered=True))
    lines = []
    for one in see([entry for entry in entries if entry.trial_id not in ticketed], around):
        job = read_tree(one.folder / schema.STATUS_FILE).get("job")
        if not one.is_active or (catch.runner and not job):
            continue
        ticket = ticket_of(command.results, one.entry.trial_id)
        if ticket is not None and not ticket.closed:
            continue  # told already
        cure = f"scancel {job}" if job else "press Ctrl-C in its terminal, or in that of its runner"
        lines.append(f"left: {one.entry.name} is at work ({one.where}) without a job of the runner: {cure}")
    return lines


def _offer(name: str, catch: Catch, *, on_slurm: bool) -> list[str]:
    lines = []
    if catch.runner:
        means = "it submits no more jobs" if on_slurm else "its local workers write their status and stop with it"
        lines.append(f"the runner of {name} (pid {catch.runner}): {means}")
    for word, wanted in (("waiting", True), ("running", False)):
        jobs = [pair for pair in catch.jobs if pair[1].is_pending is wanted]
        if jobs:
            shown = ", ".join(f"{ticket.job} ({ticket.arm}-s{ticket.seed})" for ticket, _ in jobs[:4])
            more = f" and {len(jobs) - 4} more" if len(jobs) > 4 else ""
            lines.append(f"{counted(len(jobs), f'{word} job')}: {shown}{more}")
    return [f"to be stopped, of {name}:", *(f"  {line}" for line in lines)]


def _is_agreed(yes: bool) -> bool:
    """Ask in a terminal. Raises BadInput where nobody can answer and --yes was not given."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInput("cancel asks first, and there is no terminal to ask in: add --yes")
    try:
        return input("Stop them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _cancel(command: CancelCommand, catch: Catch, again: str) -> int:
    """The runner first, that it may not submit again; then the jobs. `again` continues. Returns the exit code."""
    runner = runner_of(command.results / command.name, Holders()) if catch.runner else None
    if runner is not None and runner.pid == catch.runner:  # it still is the one that was shown
        os.kill(catch.runner, signal.SIGTERM)
        print_lines([f"told the runner (pid {catch.runner}) to stop"])
    stopped, problems = 0, []
    for start in range(0, len(catch.jobs), AT_ONCE):
        part = [ticket for ticket, _ in catch.jobs[start : start + AT_ONCE]]
        for ticket in part:  # before, so that a runner that sees the end of the job knows whose will it was
            update_ticket(command.results, ticket.trial_id, cancelled=True)
        problem = _scancel([ticket.job for ticket in part])
        living = _still_living(command.results, part) if problem else []
        for ticket in living:
            update_ticket(command.results, ticket.trial_id, cancelled=False)
        problems += [problem] if living else []  # a job that ended by itself a moment ago is none
        stopped += len(part) - len(living)
    if catch.jobs:
        print_lines([f"cancelled {stopped} of {counted(len(catch.jobs), 'job')}"])
    if problems:
        print(f"scancel: {problems[0]}", file=sys.stderr)
        return 1
    print_lines([f"what has run stays; {again} continues it"])
    return 0


def _still_living(results: Path, tickets: Sequence[Ticket]) -> list[Ticket]:
    """Whose jobs live after a scancel that complained; all of them where Slurm does not answer."""
    queue = look(results)
    jobs = [(ticket, queue.of(ticket)) for ticket in tickets]
    return [ticket for ticket, job in jobs
            if not queue.answered or (job is not None and job.is_living and job.state != "COMPLETING")]  # fmt: skip


def _scancel(jobs: Sequence[str]) -> str:
    """Cancel these jobs. Returns what went wrong, or ""."""
    # no --name beside the numbers: with a filter, scancel 22.05 cancels all waiting tasks of an array for one of them
    ask = ["scancel", *jobs]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCANCEL_")}
    try:
        ended = subprocess.run(
            ask, capture_output=True, text=True, errors="replace", timeout=SCANCEL_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SCANCEL_S:.0f} s"
    except OSError as error:
        return f"{error.strerror}"
    said = ended.stderr.strip().splitlines()
    return "" if ended.returncode == 0 else (said[-1] if said else f"exit code {ended.returncode}")
