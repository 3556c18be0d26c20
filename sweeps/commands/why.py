"""`run.py why TRIAL`: how it ended, or why it does not run, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from saei import schema
from saei.cli import checked_command_line
from sweeps.commands.find import find_trial
from sweeps.commands.reasons import plain_reason
from sweeps.commands.recorded import launch_line, read_tree
from sweeps.commands.seen import (
    CANCELLED,
    FAILED,
    FINISHED,
    MISSING,
    PRUNED,
    QUEUED,
    STALE_S,
    STOPPED,
    SUBMITTED,
    Seen,
    Surroundings,
    see,
    surroundings,
)
from sweeps.commands.shown import print_lines, short
from sweeps.commands.stderr import last_lines, stderr_files
from sweeps.judging import from_run_directory
from sweeps.outcome import Kind
from sweeps.slurm.judge import judge

ERROR_LINES = 12


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class WhyCommand:
    """How a trial ended, or why it does not run, and the likely cure. Reads only."""

    trial: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRIAL")]
    """Its id or the beginning of it, arm-s0, sweep/arm-s0, or the path of the run directory."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder of all results."""


def main(arguments: Sequence[str]) -> int:
    command = checked_command_line(WhyCommand, arguments, prog="python sweeps/run.py why")
    entry = find_trial(command.trial, command.results)
    around = surroundings(command.results, [entry])
    one = see([entry], around)[0]
    print_lines([_head(one), *(f"  {line}" for line in _body(one, around)), *_earlier(one), *_next(one)])
    return 0


def _head(one: Seen) -> str:
    entry = one.entry
    step = (
        f" at step {one.step} of {one.steps}" if one.step is not None and one.state not in (MISSING, FINISHED) else ""
    )
    age = f", last sign {short(one.age_s)} ago" if one.age_s is not None else ""
    where = f" ({one.where})" if one.where else ""
    launch = ", of an earlier launch with other settings" if entry.launch else ""
    return f"{entry.sweep}/{entry.name} ({entry.trial_id}{launch}): {one.state}{step}{where}{age}"


def _body(one: Seen, around: Surroundings) -> list[str]:
    """What happened, the cure, the last lines of the error; sentences."""
    if one.state == FINISHED:
        scores = read_tree(one.folder / schema.DONE_FILE).get("scores")
        shown = [f"{name} {value:.3f}" for name, value in (scores if isinstance(scores, dict) else {}).items()
                 if isinstance(value, float) and "/mean@" in name]  # fmt: skip
        return [f"its run is in {one.folder}", *([", ".join(shown)] if shown else [])]
    if one.state == PRUNED:
        return ["the search gave this point up: it was worse than the best one; it enters no verdict"]
    if one.state == QUEUED and one.job is not None:
        means, cure = plain_reason(one.job.reason, one.job.job, one.entry.sweep)
        return [f"job {one.job.job} waits: {means}", *([f"cure: {cure}"] if cure else [])]
    if one.state == SUBMITTED:
        problem = around.queue.problem or "it is being submitted"
        return [f"a job was asked for {short(around.now - one.ticket.submitted)} ago: {problem}"] if one.ticket else []
    if one.is_active:
        return _of_running(one)
    return _of_ended(one, around)


def _of_running(one: Seen) -> list[str]:
    lines = [f"it is at work; python sweeps/run.py logs {one.entry.sweep}/{one.entry.name} --follow shows its log"]
    if one.left_s is not None:
        lines.append(f"about {short(one.left_s)} left, evaluations included where it has run long enough to tell")
    if (one.age_s or 0.0) > STALE_S:
        lines.append(
            f"no sign of life for {short(one.age_s)}, while its process or job still lives: a very long step, or it "
            "hangs; if nothing changes, stop it and launch again: python sweeps/run.py cancel "
            f"{one.entry.sweep} {one.entry.name}"
        )
    return lines


def _of_ended(one: Seen, around: Surroundings) -> list[str]:
    """From the run directory and standard error, and from what Slurm and the runner know of the last job."""
    files = stderr_files(one)
    path, since = files[0] if files else (None, 0.0)
    ticket = one.ticket
    if one.state == MISSING and path is None and (ticket is None or not ticket.job):
        return ["it has not been started"]
    if ticket is not None and _is_of_ticket(one):
        job = around.queue.of(ticket)
        outcome = judge(one.folder, ticket, job.state if job is not None else "", job.reason if job is not None else "")
    else:
        outcome = from_run_directory(one.folder, stderr=path, since=since)
    noted = _noted(one)
    if outcome.kind in (Kind.KILLED, Kind.NEVER_STARTED) and noted:
        outcome = replace(outcome, sentence=noted)
    lines = [_said(str(outcome.kind), outcome.sentence)]
    if outcome.cure:
        lines.append(f"cure: {outcome.cure}")
    log = Path(outcome.log) if outcome.log else one.folder / schema.LOG_FILE
    words = last_lines(log, ERROR_LINES)
    if words and outcome.kind not in (Kind.INTERRUPTED, Kind.CANCELLED):
        lines += [f"the last lines of {log}:", *(f"  {line}" for line in words)]
    return lines


def _is_of_ticket(one: Seen) -> bool:
    """Was the last attempt of a trial at rest the job of its ticket? A later one of this machine has its own log."""
    if one.ticket is None or not one.ticket.job:
        return False
    files = stderr_files(one)
    return not files or files[0][0].parent == Path(one.ticket.logs)


def _said(kind: str, sentence: str) -> str:
    """ "preempted: by whom"; a sentence that begins with the kind says it already."""
    return sentence if sentence.startswith(kind) else f"{kind}: {sentence}" if sentence else kind


def _noted(one: Seen) -> str:
    """What the runner learnt from Slurm about the last attempt."""
    last = one.ticket.earlier[-1] if one.ticket is not None and one.ticket.closed and one.ticket.earlier else {}
    return str(last.get("sentence") or "") if isinstance(last, dict) else ""


def _earlier(one: Seen) -> list[str]:
    attempts = [tree for tree in one.ticket.earlier if isinstance(tree, dict)] if one.ticket is not None else []
    if one.ticket is not None and _is_at_rest(one) and _is_of_ticket(one):  # told above
        attempts = [tree for tree in attempts if tree.get("job") != one.ticket.job]
    lines = []
    for tree in attempts:
        told = _said(str(tree.get("kind", "?")), str(tree.get("sentence") or ""))
        lines.append(f"  job {tree.get('job') or '?'}: {told}")
    return ["earlier attempts:", *lines] if lines else []


def _is_at_rest(one: Seen) -> bool:
    return not one.is_active and one.state not in (FINISHED, PRUNED)


def _next(one: Seen) -> list[str]:
    launch = launch_line(one.entry.sweep, one.entry.command, on_slurm=one.ticket is not None)
    goes_on = f"continues it from step {one.step}" if one.step else "begins anew"
    if one.state in (STOPPED, CANCELLED):
        return [f"next: {launch} {goes_on}"]
    if one.state == FAILED:
        return [f"next: when the cause is mended, {launch} {goes_on}"]
    return [f"next: {launch} starts it"] if one.state == MISSING else []
