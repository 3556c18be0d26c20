"""How much may be submitted now: chunks of an array's size, the user's submit limit, tasks of a sweep at a time."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saei.cli import BadInput
from sweeps.slurm.profile import Profile
from sweeps.slurm.queue import Queue, job_name
from sweeps.slurm.submit import TRAINER, TooMany, Wanted, new_token, submit
from sweeps.slurm.text import Batch
from sweeps.slurm.tickets import COMMENT, Ticket

ASSUMED_MAX_ARRAY = 1000
"""One less than Slurm's default MaxArraySize, where the site's cannot be asked."""


def max_array(profile: Profile) -> int:
    """Tasks that one array may have: the profile's, else Slurm's own MaxArraySize."""
    if profile.max_array:
        return profile.max_array
    try:
        command = ["scontrol", "show", "config"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ASSUMED_MAX_ARRAY
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(match[1])) if match else ASSUMED_MAX_ARRAY


def may_run(sweep: str, queue: Queue, throttles: Mapping[str, int]) -> int:
    """How many tasks of the sweep's arrays may run at once: of each its throttle, or what is left of it.

    `throttles`: by the comment of the array's jobs. Jobs with a comment of ours that is not among them belong to a
    sweep of that name under another results folder.
    """
    living: dict[tuple[str, str], int] = defaultdict(int)
    for fact in queue.jobs.values():
        is_ours = fact.comment in throttles or not fact.comment.startswith(COMMENT)  # some sites set comments
        if fact.is_living and fact.name == job_name(sweep) and is_ours:
            living[fact.job.partition("_")[0], fact.comment] += 1
    return sum(min(count, throttles.get(comment, count)) for (_, comment), count in living.items())


def submit_room(profile: Profile, queue: Queue) -> int | None:
    """How many more jobs this user may have in the queue; None: no limit is known."""
    return max(0, profile.max_submitted - queue.own_living) if profile.max_submitted else None


def chunks(count: int, profile: Profile, largest: int) -> list[tuple[int, int]]:
    """(tasks, throttle) of the arrays for `count` trials when nothing is queued yet, for a dry run.

    The later ones are submitted as the earlier ones leave room.
    """
    found = []
    while count > 0:
        size = min(count, largest, profile.max_submitted or count)
        found.append((size, min(size, profile.parallel or size)))
        count -= size
    return found


@dataclass(slots=True)
class Feeder:
    """Submits in arrays what there is room for. `largest`: tasks of an array; smaller once Slurm refused that many."""

    profile: Profile
    name: str
    results: Path
    code: Path
    folder: Path
    largest: int
    trainer: str = TRAINER
    throttles: dict[str, int] = field(default_factory=dict)
    """By the comment of the jobs of every array seen."""

    def know(self, ticket: Ticket) -> None:
        self.throttles[ticket.comment] = ticket.parallel

    def feed(self, wanted: Sequence[Wanted], queue: Queue, tell: Callable[[list[Ticket]], None]) -> str:
        """Submit what fits now; `tell` gets the tickets of each array. Returns why not all of it fits, or "".

        Raises BadInput and Away as `submit` does.
        """
        left, room, fresh = list(wanted), submit_room(self.profile, queue), 0
        running = may_run(self.name, queue, self.throttles)
        while left:
            throttle = self.profile.parallel - running - fresh if self.profile.parallel else len(left)
            if throttle <= 0:
                return ""  # as many run or will run as may; what waits is submitted as they end
            size = min(len(left), self.largest, len(left) if room is None else room)
            if size <= 0:
                return f"max_submitted = {self.profile.max_submitted}: more is submitted as jobs end"
            batch = self._batch(left[:size], throttle)
            try:
                made = submit(left[:size], self.profile, batch, self.trainer)
            except TooMany as limit:
                if size > 1:
                    self.largest = size // 2
                    continue
                if not queue.own_living and not fresh:
                    raise BadInput(
                        f"sbatch refused even one job while none of yours is in the queue: {limit}"
                    ) from None
                return f"Slurm takes no more jobs now ({limit}): more is submitted as jobs end"
            left = left[size:]
            if made:
                fresh += made[0].parallel
                room = None if room is None else room - len(made)
                tell(made)
        return ""

    def _batch(self, wanted: Sequence[Wanted], throttle: int) -> Batch:
        return Batch(
            sweep=self.name,
            token=new_token(),
            count=len(wanted),
            throttle=min(throttle, len(wanted)),
            code=self.code,
            results=self.results,
            folder=self.folder,
            threads=max(one.trial.config.threads for one in wanted),
        )
