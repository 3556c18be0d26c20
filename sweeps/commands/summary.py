"""What status says around its table: counts, what was spent, how long it may take, who works on it, what failed."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from sweeps.commands.holders import runner_of
from sweeps.commands.recorded import Recorded, launch_line
from sweeps.commands.seen import (
    CANCELLED,
    FAILED,
    FINISHED,
    PRUNED,
    QUEUED,
    STALE_S,
    STATES,
    STOPPED,
    SUBMITTED,
    Seen,
    Surroundings,
)
from sweeps.commands.shown import counted, short
from sweeps.judging import signature
from sweeps.live import duration


def head_lines(sweep: Recorded, seen: Sequence[Seen], around: Surroundings) -> list[str]:
    """Counts, what was spent, how long it may take, who works on it."""
    counts = Counter(one.state for one in seen)
    first = f"{sweep.name}: {counted(len(seen), 'trial')}: {count_words(counts) or 'none'}"
    lines = [first + (f" ({sweep.note})" if sweep.note else "")]
    amounts = [text for text in (_spent(seen), _left(sweep, seen)) if text]
    if amounts:
        lines.append("; ".join(amounts))
    runner = runner_of(sweep.folder, around.holders)
    unfinished = any(one.state not in (FINISHED, PRUNED) for one in seen)
    if runner is not None:
        lines.append(f"a runner is at work ({runner.name})")
    elif unfinished:
        again = launch_line(sweep.name, sweep.command, on_slurm=bool(around.tickets))
        lines.append(f"no runner at work here; {again} goes on with what is missing")
    if not around.queue.answered:
        lines.append(
            f"Slurm does not answer ({around.queue.problem or 'no reason given'}): its jobs are shown as known"
        )
    silent = [one for one in seen if one.is_active and (one.age_s or 0.0) > STALE_S and one.state != QUEUED]
    if silent:
        lines.append(f"no sign of life for {short(max(one.age_s or 0.0 for one in silent))}: {_named(silent)}")
    return lines


def count_words(counts: Counter[str]) -> str:
    """ "3 finished, 1 failed": every state that occurs."""
    unknown = sorted(set(counts) - set(STATES))
    return ", ".join(f"{counts[state]} {state}" for state in (FINISHED, *STATES[:-1], *unknown) if counts[state])


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def _spent(seen: Sequence[Seen]) -> str:
    if not any(one.spent_s for one in seen):
        return ""
    on_gpus = sum(one.spent_s * one.gpus for one in seen) / 3600
    without = sum(one.spent_s for one in seen if not one.gpus) / 3600
    parts = [f"{_hours(on_gpus)} GPU-hours"] if on_gpus else []
    return "spent " + " and ".join([*parts, *([f"{_hours(without)} worker-hours"] if without else [])])


def _left(sweep: Recorded, seen: Sequence[Seen]) -> str:
    """How long what is missing takes at the speed of the trials that are known."""
    speeds = [one.step_s for one in seen if one.step_s]
    missing = [one for one in seen if one.state not in (FINISHED, PRUNED)]
    if not speeds or not missing:
        return ""
    usual = median(speeds)
    seconds = sum(max(0, (one.steps or sweep.steps) - (one.step or 0)) * (one.step_s or usual) for one in missing)
    at_once = sum(one.is_active and one.state not in (QUEUED, SUBMITTED) for one in seen)
    if not at_once:
        return f"about {duration(seconds)} of one worker left"
    return f"about {duration(seconds / min(at_once, len(missing)))} left with {at_once} at a time"


def tail_lines(sweep: Recorded, seen: Sequence[Seen]) -> list[str]:
    """What failed most, what stopped, where the logs are."""
    failed = [one for one in seen if one.state == FAILED]
    lines = []
    if failed:
        causes = Counter(signature(one.message) or "no message" for one in failed)
        cause, count = causes.most_common(1)[0]
        one = next(one for one in failed if (signature(one.message) or "no message") == cause)
        words = one.message if len(one.message) <= 160 else one.message[:160] + " ..."
        lines.append(f"failed{' most' if len(causes) > 1 else ''}: {words or 'no message'} ({counted(count, 'trial')})")
        lines.append(f"  python sweeps/run.py why {sweep.name}/{one.entry.name} says more")
    resting = [one for one in seen if one.state in (STOPPED, CANCELLED)]
    if kept := [one for one in resting if one.step]:
        lines.append(f"stopped: the next launch continues {_named(kept)} from the step shown")
    if lost := [one for one in resting if not one.step]:
        lines.append(f"stopped before the first checkpoint: the next launch begins {_named(lost)} anew")
    lines.append(f"logs: {sweep.folder}/<id>/log.txt, or python sweeps/run.py logs {sweep.name}/<trial>")
    return lines


def earlier_lines(sweep: Recorded, *, are_shown: bool) -> list[str]:
    """What there is of launches with other settings; with `are_shown`, what the numbers in the table mean."""
    if not sweep.earlier:
        return []
    count = counted(len(sweep.earlier), "trial")
    what = f"{count} of {counted(len(sweep.others), 'earlier launch', 'earlier launches')} with other settings"
    if not are_shown:
        return [f"{what} {'is' if len(sweep.earlier) == 1 else 'are'} not shown: --all shows them"]
    told = [f"  earlier {number}: {words}" for number, words in sweep.others.items()]
    return [f"below the newest launch, and not counted above: {what}", *told]


def _named(seen: Sequence[Seen], most: int = 3) -> str:
    names = [one.entry.name for one in seen[:most]]
    more = len(seen) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
