"""How a launch ends: what is finished, every distinct failure once, and the disk that was full."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from saei.cli import BadInput
from sweeps.causes import READ_ONLY
from sweeps.judging import from_error
from sweeps.outcome import Kind, Outcome
from sweeps.retry import by_cause
from sweeps.slurm.tickets import read_ticket
from sweeps.trial import Trial, finished_folder

_NAMED = 6


class NoSpace(Exception):
    """The results folder took no more while the runner wrote there; the text says what to do."""


@contextmanager
def writes_to(results: Path) -> Iterator[None]:
    """Around a launch. Raises NoSpace for a full disk, BadInput for a folder that cannot be written."""
    try:
        yield
    except (OSError, BadInput) as error:
        cause = error.__cause__ if isinstance(error, BadInput) else error
        if not isinstance(cause, OSError):
            raise
        found = from_error(f"{type(cause).__name__}: {cause}")
        if found.kind == Kind.DISK_FULL:
            raise NoSpace(f"{found.sentence} (results are in {results}); {found.cure}") from error
        has_own_words = isinstance(error, BadInput) and str(error) != str(cause)
        if found.error == READ_ONLY and not has_own_words:
            raise BadInput(f"{found.sentence}; {found.cure}") from error
        raise


def tell_ending(
    name: str, folder: Path, trials: Sequence[Trial], failed: Mapping[str, Outcome], stopped: Outcome | None
) -> None:
    """Print how the launch ended: to standard error what went wrong, each cause once with its trials and cure."""
    finished = sum(finished_folder(trial) is not None for trial in trials)
    left = [trial for trial in trials if trial.trial_id not in failed and finished_folder(trial) is None]
    on_slurm = sum(_is_on_slurm(trial) for trial in left)
    print(
        f"{name}: {finished} of {len(trials)} trials are finished in {folder}"
        + (f"; {len(failed)} failed" if failed else "")
        + (f"; {on_slurm} queued or running on Slurm" if on_slurm else "")
        + (f"; {len(left) - on_slurm} not run to their end" if len(left) > on_slurm else ""),
        flush=True,
    )
    for outcome, group in by_cause(failed, trials):
        is_reason = stopped is not None and (outcome.kind, outcome.error) == (stopped.kind, stopped.error)
        if not is_reason:
            print(f"failed: {_names(group)}\n{_told(outcome, name, group[0])}", file=sys.stderr)
    if stopped is not None:
        group = next((group for one, group in by_cause(failed, trials) if one.error == stopped.error), [])
        text = _told(stopped, name, group[0] if group else None)
        print(f"the sweep was stopped: {_names(group)}\n{text}", file=sys.stderr)


def _is_on_slurm(trial: Trial) -> bool:
    """Was it given to a job whose end nobody has seen?"""
    ticket = read_ticket(trial.results, trial.trial_id)
    return ticket is not None and not ticket.closed and not ticket.cancelled


def _told(outcome: Outcome, name: str, example: Trial | None) -> str:
    more = f"more: python sweeps/run.py why {name}/{example.arm}-s{example.seed}" if example is not None else ""
    return "\n".join(f"  {part}" for part in (outcome.sentence, outcome.cure, more) if part)


def _names(trials: Sequence[Trial]) -> str:
    """ "grpo seed 0, saei seeds 0 1, ..." """
    seeds: dict[str, list[str]] = {}
    for trial in trials:
        seeds.setdefault(trial.arm, []).append(str(trial.seed))
    parts = [f"{arm} seed{'s' * (len(found) > 1)} {' '.join(found)}" for arm, found in seeds.items()]
    return ", ".join(parts[:_NAMED]) + (f" and {len(parts) - _NAMED} more arms" if len(parts) > _NAMED else "")
