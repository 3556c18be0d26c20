"""One launch of a sweep on Slurm, poll by poll: what each trial's job does, how it ended, what is submitted next."""

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saei import schema
from sweeps.budget import Budget
from sweeps.live import Screen
from sweeps.locks import is_held
from sweeps.outcome import Kind, Outcome
from sweeps.retry import Retries
from sweeps.slurm.feed import Feeder
from sweeps.slurm.judge import fruitless, judge, kept_step, never_started, no_progress, stuck, wrong_keys
from sweeps.slurm.queue import JobFact, Queue, cancel_jobs, history, look
from sweeps.slurm.submit import Away, Wanted, adopt, is_on_its_way
from sweeps.slurm.tickets import Ticket, read_ticket, update_ticket
from sweeps.source import Listed, Source
from sweeps.trial import Trial, finished_folder, is_busy, point_to, read_status, settle

SETTLE_S = 6.0
"""A job is believed to have ended when it was seen so for this long: Slurm shows NODE_FAIL while it requeues a job."""
GONE_SETTLE_S = 60.0
"""The same for a job that Slurm forgot although its status says that it runs."""
OLD_S = 600.0
"""A status this old is of no living process, whatever the clocks."""
SILENCE_S = 30.0
"""squeue may be silent for so long before the runner says so."""
NEVER_S = 20.0
"""A job is cancelled when Slurm said for so long that it cannot start: a cluster's reconfiguration is over by then."""
RESTARTS_IN_VAIN = 3
SEARCH_AT_ONCE = 8
"""Trials of a search that are queued together where the profile sets no `parallel`."""


@dataclass(slots=True)
class Ended:
    """When a job was first seen to have ended, and the heartbeat then: a later one shows that a process lives."""

    at: float
    heartbeat: Any


@dataclass(slots=True)
class Runner:
    """One launch. `watched`: trials with an open ticket; `elsewhere`: a process of this machine has them."""

    source: Source
    screen: Screen
    feeder: Feeder
    retries: Retries
    budget: Budget | None
    detach: bool
    waiting: deque[Trial] = field(default_factory=deque)
    watched: dict[str, Trial] = field(default_factory=dict)
    elsewhere: dict[str, Trial] = field(default_factory=dict)
    failed: dict[str, Outcome] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    living: dict[str, JobFact] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)
    hopeless: dict[str, float] = field(default_factory=dict)
    """Since when Slurm says of a pending job that it cannot start."""
    shown: set[str] = field(default_factory=set)
    """Trials whose present job squeue has shown."""
    mine: set[str] = field(default_factory=set)
    """Trials whose job was alive at some time in this launch."""
    tokens: set[str] = field(default_factory=set)
    """Of the arrays that this launch submitted."""
    restarts: dict[str, tuple[int, int]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)
    refused: tuple[Trial, str] | None = None
    """The first trial that the budget refused, and why."""
    silent_since: float | None = None
    changed: float = field(default_factory=time.monotonic)

    @property
    def results(self) -> Path:
        return self.feeder.results

    @property
    def is_over(self) -> bool:
        return not (self.waiting or self.watched or self.elsewhere) and self.source.is_exhausted

    @property
    def is_unsettled(self) -> bool:
        """Has a job ended, or been called unable to start, of which it is not yet sure?"""
        return bool(self.ended or self.hopeless)

    def is_theirs(self, ticket: Ticket) -> bool:
        """Is it a job of another sweep? One that this launch submitted into another's run directory is not."""
        return ticket.sweep != self.feeder.name and ticket.token not in self.tokens

    def poll(self) -> None:
        """One look at everything, and what follows from it."""
        queue = look(self.results)
        self._mind_silence(queue)
        for trial in list(self.watched.values()):
            self._watch(trial, queue)
        if self.retries.stop() is None:
            self._take()
            self._sort(queue)
            self._submit(queue)

    # ---- jobs

    def _watch(self, trial: Trial, queue: Queue) -> None:
        key = trial.trial_id
        self.living.pop(key, None)
        if settled(trial):
            self._close(trial, Outcome(kind=Kind.FINISHED))
            return
        ticket = read_ticket(self.results, key)
        if ticket is None or ticket.closed:  # another runner saw its end
            del self.watched[key]
            self.waiting.append(trial)
        elif not queue.answered:
            return
        elif not ticket.job:
            self._adopt(trial, ticket, queue)
        else:
            self._watch_job(trial, ticket, queue.of(ticket))

    def _watch_job(self, trial: Trial, ticket: Ticket, fact: JobFact | None) -> None:
        key = trial.trial_id
        if fact is not None and fact.is_living:
            self.living[key] = fact
            self.shown.add(key)
            self.mine.add(key)
            self.ended.pop(key, None)
            if words := stuck(fact):
                self._say_once(trial, words)
            self._mind_hopeless(trial, ticket, fact)
            self._mind_restarts(trial, ticket)
        elif self._has_settled(trial, ticket, fact):
            state = fact.state if fact else history([ticket.job], [ticket.sweep, self.feeder.name]).get(ticket.job, "")
            folder = home(trial, ticket)
            outcome = judge(folder, ticket, state, fact.reason if fact else "")
            step = kept_step(folder)
            was_before = key not in self.mine and not self.detach
            vain = None if was_before else fruitless(ticket, outcome, step)
            self._close(trial, vain or outcome, ticket, step, retry=was_before or self.is_theirs(ticket))

    def _has_settled(self, trial: Trial, ticket: Ticket, fact: JobFact | None) -> bool:
        """Has the job been over for long enough to believe it, and does nobody work in the run directory?"""
        folder = home(trial, ticket)
        found = read_status(folder)
        now, heartbeat = time.monotonic(), found.get("heartbeat")
        ended = self.ended.setdefault(trial.trial_id, Ended(now, heartbeat))
        if heartbeat != ended.heartbeat or is_busy(trial) or is_held(folder / ".lock"):
            self.ended[trial.trial_id] = Ended(now, heartbeat)
            return False
        if fact is None and trial.trial_id not in self.shown and is_on_its_way(ticket):
            return False  # some sites answer squeue from a cache, which may not know a new job yet
        forgotten = fact is None and found.get("state") == schema.RUNNING
        fresh = forgotten and time.time() - (heartbeat or 0.0) < OLD_S
        return now - ended.at >= (GONE_SETTLE_S if fresh else SETTLE_S)

    def _mind_hopeless(self, trial: Trial, ticket: Ticket, fact: JobFact) -> None:
        """Cancel a job of this sweep that Slurm cannot start; an earlier launch's is submitted with today's profile."""
        key, now = trial.trial_id, time.monotonic()
        if not wrong_keys(fact) or self.is_theirs(ticket):
            self.hopeless.pop(key, None)
        elif now - self.hopeless.setdefault(key, now) >= NEVER_S and self.retries.stop() is None:
            cancel_jobs([ticket.job])
            was_before = ticket.token not in self.tokens
            self._close(trial, never_started(fact), ticket, kept_step(home(trial, ticket)), retry=was_before)

    def _mind_restarts(self, trial: Trial, ticket: Ticket) -> None:
        """Slurm may requeue a job again and again without its trial ever writing a checkpoint."""
        if self.is_theirs(ticket) or trial.trial_id not in self.watched:
            return
        key, step = trial.trial_id, kept_step(home(trial, ticket))
        restarts = read_status(home(trial, ticket)).get("restarts") or 0
        first_step, first_restarts = self.restarts.setdefault(key, (step, restarts))
        if step != first_step:
            self.restarts[key] = (step, restarts)
        elif restarts - first_restarts >= RESTARTS_IN_VAIN:
            cancel_jobs([ticket.job])
            told = Outcome(kind=Kind.INTERRUPTED, sentence=f"job {ticket.job} was requeued {restarts} times")
            self._close(trial, no_progress(told, restarts - first_restarts, step), ticket, step)

    def _adopt(self, trial: Trial, ticket: Ticket, queue: Queue) -> None:
        """A runner was killed while it submitted this: find its job, or submit it again."""
        found = adopt(trial, ticket, queue, self.feeder.trainer)
        if found is not None:
            update_ticket(self.results, trial.trial_id, job=found.job)
            self.screen.say(trial, f"found its job {found.job}, which a killed runner had submitted")
        elif not is_on_its_way(ticket):
            update_ticket(self.results, trial.trial_id, closed=True)
            del self.watched[trial.trial_id]
            self.waiting.append(trial)

    # ---- ends

    def _close(
        self, trial: Trial, outcome: Outcome, ticket: Ticket | None = None, step: int = 0, *, retry: bool = False
    ) -> None:
        """The job is over. `retry`: whatever it was, it was not this launch's try."""
        key = trial.trial_id
        self.watched.pop(key, None)
        self.ended.pop(key, None)
        self.living.pop(key, None)
        self.restarts.pop(key, None)
        self.hopeless.pop(key, None)
        self.changed = time.monotonic()
        if ticket is None:
            ticket = read_ticket(self.results, key)
        if ticket is not None and not ticket.closed:
            entry = {"job": ticket.job, "kind": outcome.kind.value, "sentence": outcome.sentence, "step": step}
            earlier = ticket.earlier if outcome.kind == Kind.FINISHED else [*ticket.earlier, entry]
            update_ticket(self.results, key, closed=True, earlier=earlier)
        # a launch's limit counts distinct trials, so it may refuse one that an earlier launch had begun
        then = "to be submitted again" + (" if the launch's limits allow" if self.budget is not None else "")
        if retry and outcome.kind != Kind.FINISHED:
            self.screen.say(trial, f"its job had ended: {outcome.sentence or outcome.kind.value}; {then}")
            self.waiting.append(trial)
            return
        again = self.retries.again(trial, outcome)
        if outcome.kind == Kind.FINISHED:
            self.screen.say(trial, "finished")
            self._end(trial, outcome)
        elif again:
            tries = ""
            if self.retries.tried(trial):
                tries = f", try {self.retries.tried(trial) + 1} of {self.retries.retry_failed + 1}"
            self.screen.say(trial, f"{told(outcome)}\n  {then}, from step {step}{tries}")
            self.waiting.append(trial)
        else:
            word = "" if outcome.kind == Kind.CANCELLED else "FAILED: "
            self.screen.say(trial, word + told(outcome))
            self.failed[key] = outcome
            self._end(trial, outcome)

    def _end(self, trial: Trial, outcome: Outcome) -> None:
        self.source.ended(trial, outcome)
        if self.budget is not None:
            self.budget.ended(trial)

    def _start(self, trial: Trial) -> None:
        if trial.trial_id not in self.started:
            self.started.add(trial.trial_id)
            self.source.started(trial)

    # ---- what waits

    def _take(self) -> None:
        """A list is taken as a whole, so that the queue is never short of jobs; a search point by point, as it has
        more to go by when earlier ones have ended.
        """
        active = len(self.waiting) + len(self.watched) + len(self.elsewhere)
        at_once = self.feeder.profile.parallel or SEARCH_AT_ONCE
        room = len(self.source.trials) if isinstance(self.source, Listed) else at_once - active
        if room > 0 and not self.source.is_exhausted:
            self.waiting.extend(self.source.take(room))

    def _sort(self, queue: Queue) -> None:
        """Put aside what is finished or what somebody has."""
        for trial in [trial for trial in self.elsewhere.values() if not is_busy(trial)]:
            del self.elsewhere[trial.trial_id]
            self.waiting.appendleft(trial)
        for trial in list(self.waiting):
            key = trial.trial_id
            ticket = read_ticket(self.results, key)
            if settled(trial):
                self.waiting.remove(trial)
                self._close(trial, Outcome(kind=Kind.FINISHED)) if key in self.started else self._end_finished(trial)
            elif ticket is not None and not ticket.closed:
                self.waiting.remove(trial)
                self._follow(trial, ticket)
                self._watch(trial, queue)
            elif settle(trial):
                self.waiting.remove(trial)
                self._end_finished(trial)
            elif is_busy(trial):
                self.waiting.remove(trial)
                self.elsewhere[key] = trial
                self._say_once(trial, "another runner has it; waiting for it")

    def _end_finished(self, trial: Trial) -> None:
        """It was finished before, or by another runner: it says nothing of this launch's own trials."""
        self._end(trial, Outcome(kind=Kind.FINISHED))

    def _follow(self, trial: Trial, ticket: Ticket) -> None:
        """Watch a job that is there already: of an earlier launch, or of another sweep that has the same trial."""
        self.watched[trial.trial_id] = trial
        self._start(trial)
        self.feeder.know(ticket)
        if ticket.sweep != self.feeder.name:
            point_to(trial, home(trial, ticket))
            self._say_once(trial, f"{ticket.sweep} has the same trial (job {ticket.job or 'being submitted'}): waiting")

    def _submit(self, queue: Queue) -> None:
        if not queue.answered or not self.waiting:
            return
        # what was begun goes before what was not: a limit of this launch should not leave it half done
        self.waiting = deque(sorted(self.waiting, key=lambda trial: trial.trial_id not in self.started))
        wanted = [self._wanted(trial) for trial in list(self.waiting) if self._may_start(trial)]
        try:
            held_back = self.feeder.feed(wanted, queue, self._submitted)
        except Away as away:
            self.screen.note(f"sbatch: {away}; trying again")
            self._tell_refused()
            return
        self._tell_refused()  # not before sbatch took what the limit let through
        if held_back:
            self._note_once(held_back)
        elif self.detach and self.waiting and self.feeder.profile.parallel:
            count = len(self.waiting)
            self.screen.note(
                f"{count} trial{'s are' if count > 1 else ' is'} not submitted yet: parallel = "
                f"{self.feeder.profile.parallel}, and as many of this sweep's jobs run or wait; give the command again "
                "when they end, or leave out --detach"
            )

    def _tell_refused(self) -> None:
        if self.refused is not None:
            trial, refusal = self.refused
            self._say_once(
                trial, f"not {'submitted again' if trial.trial_id in self.started else 'started'}: {refusal}"
            )

    def _may_start(self, trial: Trial) -> bool:
        refusal = self.budget.refuses(trial) if self.budget is not None else ""
        if refusal:
            self.waiting.remove(trial)
            self.refused = self.refused or (trial, refusal)
            self._end(trial, Outcome(kind=Kind.NEVER_STARTED, sentence=refusal))
        elif self.budget is not None:
            self.budget.started(trial)
        return not refusal

    def _wanted(self, trial: Trial) -> Wanted:
        before = read_ticket(self.results, trial.trial_id)
        other = before is not None and before.sweep != self.feeder.name and kept_step(home(trial, before)) > 0
        return Wanted(trial=trial, home=before.sweep if other and before else self.feeder.name, before=before)

    def _submitted(self, tickets: list[Ticket]) -> None:
        self.changed = time.monotonic()
        keys = {ticket.trial_id: ticket for ticket in tickets}
        for trial in [trial for trial in self.waiting if trial.trial_id in keys]:
            self.waiting.remove(trial)
            self._follow(trial, keys[trial.trial_id])
            self.mine.add(trial.trial_id)
            self.tokens.add(keys[trial.trial_id].token)
            self.shown.discard(trial.trial_id)
        first, count = tickets[0], len(tickets)
        jobs = f"job {first.job}" if count == 1 else f"array {first.job.partition('_')[0]}, {first.parallel} at a time"
        self.screen.note(f"submitted {count} trial{'s' * (count > 1)}: {jobs}; logs in {first.logs}")

    # ---- words

    def _mind_silence(self, queue: Queue) -> None:
        now = time.monotonic()
        if queue.answered:
            if self.silent_since is not None and now - self.silent_since >= SILENCE_S:
                self.screen.note("Slurm answers again")
            self.silent_since = None
            return
        before, self.silent_since = self.silent_since, now if self.silent_since is None else self.silent_since
        if self.detach or (before is not None and now - before >= SILENCE_S):
            self._note_once(
                f"Slurm does not answer ({queue.problem}); jobs go on, and nothing is submitted until it does"
            )

    def _say_once(self, trial: Trial, text: str) -> None:
        if (line := f"{trial.trial_id}: {text}") not in self.said:
            self.said.add(line)
            self.screen.say(trial, text)

    def _note_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.screen.note(text)

    def show(self) -> None:
        """The screen, from what the last poll saw."""
        queued = [key for key in self.watched if key not in self.living or self.living[key].is_pending]
        running = [key for key in self.living if key not in queued]
        self.screen.update(running, self.elsewhere.keys(), self.failed, queued)


def settled(trial: Trial) -> bool:
    """Is its run, or the one that it points to, sealed? Lists the folder first: over NFS a file's absence is cached."""
    with contextlib.suppress(OSError):
        os.listdir(trial.folder)
    return finished_folder(trial) is not None


def home(trial: Trial, ticket: Ticket) -> Path:
    """The run directory that the ticket's job works in."""
    return trial.results / ticket.sweep / trial.trial_id


def told(outcome: Outcome) -> str:
    return "\n  ".join(part for part in (outcome.sentence, outcome.cure, outcome.log) if part)
