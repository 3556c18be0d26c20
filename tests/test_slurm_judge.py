"""What the runner makes of Slurm's answers, odd ones included: Slurm's commands are scripts here."""

import json
import time
from dataclasses import replace

import pytest

from saei.cli import BadInput
from sweeps.budget import Budget, gpu_hours
from sweeps.definition import load_sweep
from sweeps.ending import tell_ending
from sweeps.locks import hold
from sweeps.outcome import Kind
from sweeps.past import PastRuns
from sweeps.plan import make_trials
from sweeps.retry import Retries
from sweeps.slurm import runner as running
from sweeps.slurm.drive import only_runner, run_on_slurm
from sweeps.slurm.feed import Feeder, may_run
from sweeps.slurm.judge import fruitless, judge, kept_step
from sweeps.slurm.profile import Profile
from sweeps.slurm.queue import history, look, seconds
from sweeps.slurm.runner import Runner
from sweeps.slurm.tickets import Ticket, read_ticket, read_tickets, ticket_path, write_ticket
from sweeps.source import Listed
from sweeps.trial import finished_folder
from tests.fake_slurm import FakeSlurm
from tests.fake_trainer import TRAINER


class NoStudy:
    def __init__(self):
        self.asked, self.told = [], []

    def ask(self, trial):
        self.asked.append(trial.trial_id)

    def tell(self, trial):
        self.told.append(trial.trial_id)


class Lines:
    """A screen that keeps what it was told."""

    def __init__(self):
        self.lines = []

    def say(self, trial, text):
        self.lines.append(text)

    def note(self, text):
        self.lines.append(text)

    def update(self, *_):
        pass

    @property
    def text(self):
        return "\n".join(self.lines)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "SETTLE_S", 0.0)
    monkeypatch.setattr(running, "GONE_SETTLE_S", 0.0)
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


def launch(tmp_path, arms=("grpo",), *, name="components", retry_failed=0, seeds=1, **profile):
    """A runner of the trials of these arms, as `run_on_slurm` makes it."""
    results = tmp_path / "results"
    trials = make_trials(name, load_sweep(name), list(arms), range(seeds), {"steps": 4}, results)
    study = NoStudy()
    feeder = Feeder(
        profile=Profile(time=60, **profile), name=name, results=results.resolve(), code=tmp_path / "code",
        folder=tmp_path, largest=100, trainer=TRAINER,
    )  # fmt: skip
    runner = Runner(
        source=Listed(trials, study), screen=Lines(), feeder=feeder, retries=Retries(retry_failed), budget=None,
        detach=False,
    )  # fmt: skip
    return runner, trials


def ticket_of(runner, trial):
    found = read_ticket(runner.results, trial.trial_id)
    assert found is not None
    return found


def job(ticket, state, **more):
    return {"job": ticket.job, "state": state, "comment": ticket.comment, "name": f"saei-{ticket.sweep}", **more}


def submitted(tmp_path, slurm, **options):
    """A runner that has submitted one trial, whose job runs."""
    runner, (trial, *_) = launch(tmp_path, **options)
    runner.poll()
    ticket = ticket_of(runner, trial)
    slurm.queue(job(ticket, "RUNNING"))
    runner.poll()
    return runner, trial, ticket


def write_status(trial, state="running", **more):
    trial.folder.mkdir(parents=True, exist_ok=True)
    tree = {"state": state, "heartbeat": time.time(), "step": 1, "steps": 4, **more}
    (trial.folder / "status.json").write_text(json.dumps(tree))


def write_done(trial):
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "DONE").write_text("{}")


def write_checkpoint(folder, step):
    (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)


# ---- what squeue and sacct print


def test_squeue_is_read_with_unknown_states_and_broken_lines(slurm):
    slurm.queue(
        {
            "job": "12_3",
            "state": "HIBERNATING",
            "left": "1-00:00:05",
            "elapsed": "02:03",
            "reason": "(a | b)",
        },
        {"job": "12_[4-9]", "state": "PENDING"},
        {"job": "7", "state": "OUT_OF_MEMORY", "user": 4242},
    )
    with open(slurm.folder / "queue", "a") as file:
        file.write("CLUSTER: north\n\x1f\x1f\n")
    queue = look()
    assert queue.answered and list(queue.jobs) == ["12_3", "7"]
    fact = queue.jobs["12_3"]
    assert fact.is_living and not queue.jobs["7"].is_living
    # a day and 5 s; 2 minutes and 3 s
    assert (fact.time_left_s, fact.elapsed_s, fact.reason) == (86405, 123, "(a | b)")
    assert queue.own_living == 1
    assert [seconds(text) for text in ("UNLIMITED", "NOT_SET", "01:00:00")] == [None, None, 3600]


def test_without_an_answer_nothing_is_known(slurm):
    slurm.away()
    queue = look()
    assert not queue.answered and not queue.jobs
    assert "Unable to contact slurm controller" in queue.problem


def test_sacct_tells_how_forgotten_jobs_ended_where_there_are_accounts(slurm):
    assert history(["5_0"], ["components"]) == {}
    slurm.accounts("5_0|saei-components|CANCELLED by 1000", "5_1|saei-components|TIMEOUT", "6|somebody|FAILED")
    assert history(["5_0", "5_1", "6"], ["components"]) == {"5_0": "CANCELLED", "5_1": "TIMEOUT"}


# ---- how one job ended


TICKET = Ticket(
    trial_id="x", sweep="components", arm="grpo", seed=0, token="abc", index=0, logs="/none", code="c", gpus=1,
    limit_s=3600, parallel=1, from_step=2, job="12",
)  # fmt: skip


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("PREEMPTED", Kind.PREEMPTED),
        ("TIMEOUT", Kind.TIMED_OUT),
        ("DEADLINE", Kind.TIMED_OUT),
        ("NODE_FAIL", Kind.NODE_FAILED),
        ("BOOT_FAIL", Kind.NODE_FAILED),
        ("OUT_OF_MEMORY", Kind.OUT_OF_MEMORY),
        ("CANCELLED", Kind.CANCELLED),
        ("FAILED", Kind.NEVER_STARTED),
        ("MELTED", Kind.NEVER_STARTED),
    ],
)
def test_slurms_state_says_how_a_job_ended_that_left_no_word(tmp_path, state, kind):
    assert judge(tmp_path, TICKET, state).kind == kind


def test_a_node_that_could_not_start_the_job_is_no_fault_of_the_trial(tmp_path):
    assert judge(tmp_path, TICKET, "FAILED", "JobLaunchFailure").kind == Kind.NODE_FAILED


def test_a_job_that_slurm_forgot_without_a_trace_is_submitted_again_and_one_that_began_is_not(tmp_path):
    forgotten = judge(tmp_path, TICKET, "")
    assert forgotten.kind == Kind.NODE_FAILED and "no longer knows job 12" in forgotten.sentence
    (tmp_path / "12_0_log.err").write_text("bash: python: command not found\n")
    assert judge(tmp_path, replace(TICKET, logs=str(tmp_path)), "").kind not in (Kind.NODE_FAILED, Kind.FINISHED)


def test_the_run_directory_is_believed_before_slurm(tmp_path):
    status = {"state": "failed", "message": "ZeroDivisionError: division by zero", "heartbeat": time.time()}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert judge(tmp_path, TICKET, "TIMEOUT").sentence == "ZeroDivisionError: division by zero"
    (tmp_path / "DONE").write_text("{}")
    assert judge(tmp_path, TICKET, "CANCELLED").kind == Kind.FINISHED


def test_the_words_of_an_earlier_attempt_are_not_taken_for_this_ones(tmp_path):
    status = {"state": "failed", "message": "ZeroDivisionError: division by zero", "heartbeat": time.time() - 3600}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert judge(tmp_path, TICKET, "TIMEOUT").kind == Kind.TIMED_OUT


def test_an_interrupted_run_whose_requeue_was_refused_is_interrupted(tmp_path):
    status = {"state": "interrupted", "message": "warned by SIGUSR2", "heartbeat": time.time()}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert judge(tmp_path, TICKET, "FAILED").kind == Kind.INTERRUPTED


def test_three_ends_without_a_newer_checkpoint_are_a_failure_with_a_cure(tmp_path):
    outcome = judge(tmp_path, TICKET, "TIMEOUT")
    entry = {"job": "1", "kind": "timed out", "sentence": "", "step": 2}
    twice = replace(TICKET, earlier=[entry, entry])
    assert fruitless(replace(TICKET, earlier=[entry]), outcome, step=2) is None
    failure = fruitless(twice, outcome, step=2)
    assert failure is not None and failure.kind == Kind.FAILED
    assert failure.sentence.startswith("timed out 3 times without a checkpoint after step 2")
    assert "raise time in the profile, or lower checkpoint.every" in failure.cure
    assert fruitless(twice, outcome, step=3) is None  # this one made progress
    other = {"job": "1", "kind": "failed", "sentence": "", "step": 2}
    assert fruitless(replace(TICKET, earlier=[entry, entry, other]), outcome, step=2) is None  # not in a row
    assert fruitless(replace(TICKET, earlier=[{**entry, "step": 1}, entry]), outcome, step=2) is None


def test_the_newest_checkpoint_is_read_from_the_names(tmp_path):
    assert kept_step(tmp_path) == 0
    for name in ("step-000025", "step-000100", ".step-000125.tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert kept_step(tmp_path) == 100


# ---- the runner, poll by poll


def test_finished_jobs_end_the_sweep_and_nothing_is_submitted_twice(tmp_path, slurm):
    runner, trials = launch(tmp_path, ("grpo", "saei"), parallel=1)
    runner.poll()
    for trial in trials:
        write_done(trial)
    runner.poll()
    assert runner.is_over and not runner.failed
    assert len(slurm.submissions) == 1 and "--array=0-1%1" in slurm.submissions[0]
    assert all(ticket.closed for ticket in read_tickets(runner.results).values())


@pytest.mark.parametrize("state", ["PENDING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT", "HIBERNATING"])
def test_a_job_in_any_state_that_is_not_final_is_waited_for(tmp_path, slurm, state):
    runner, _, ticket = submitted(tmp_path, slurm)
    slurm.queue(job(ticket, state))
    runner.poll()
    assert len(slurm.submissions) == 1 and runner.watched


@pytest.mark.parametrize("state", ["PREEMPTED", "TIMEOUT", "NODE_FAIL"])
def test_what_slurm_took_away_is_submitted_again_and_is_no_failure(tmp_path, slurm, state):
    runner, trial, ticket = submitted(tmp_path, slurm)
    write_checkpoint(trial.folder, 2)
    slurm.queue(job(ticket, state))
    runner.poll()
    again = ticket_of(runner, trial)
    assert len(slurm.submissions) == 2
    assert (again.attempt, again.from_step, again.closed, again.job) == (2, 2, False, "2")
    assert [entry["kind"] for entry in again.earlier] == [judge(trial.folder, ticket, state).kind.value]
    assert not runner.failed


def test_a_job_that_times_out_three_times_at_the_same_checkpoint_is_given_up(tmp_path, slurm):
    runner, trial, _ = submitted(tmp_path, slurm)
    for _ in range(3):
        slurm.queue(job(ticket_of(runner, trial), "TIMEOUT"))
        runner.poll()
    assert len(slurm.submissions) == 3
    assert "timed out 3 times without a checkpoint" in runner.failed[trial.trial_id].sentence
    assert runner.is_over


def test_a_node_failure_shown_while_slurm_requeues_is_not_believed(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(running, "SETTLE_S", 60.0)
    runner, _, ticket = submitted(tmp_path, slurm)
    for state in ("NODE_FAIL", "PENDING", "RUNNING"):
        slurm.queue(job(ticket, state))
        runner.poll()
    assert len(slurm.submissions) == 1 and runner.watched and not runner.ended


def test_a_cancelled_job_is_left_in_this_launch_and_continued_by_the_next(tmp_path, slurm):
    runner, trial, ticket = submitted(tmp_path, slurm)
    slurm.queue(job(ticket, "CANCELLED"))
    runner.poll()
    assert runner.is_over and runner.failed[trial.trial_id].kind == Kind.CANCELLED
    assert len(slurm.submissions) == 1 and "launch again" in runner.screen.text
    runner, _ = launch(tmp_path)
    runner.poll()
    assert len(slurm.submissions) == 2


def test_a_failed_trial_is_tried_again_as_often_as_asked(tmp_path, slurm):
    runner, trial, _ = submitted(tmp_path, slurm, retry_failed=1)
    for _ in range(2):
        write_status(trial, "failed", message="ZeroDivisionError: division by zero")
        slurm.queue(job(ticket_of(runner, trial), "FAILED"))
        runner.poll()
    assert len(slurm.submissions) == 2
    assert runner.failed[trial.trial_id].sentence == "ZeroDivisionError: division by zero"


def test_a_requeue_loop_without_a_checkpoint_is_broken(tmp_path, slurm):
    runner, trial, ticket = submitted(tmp_path, slurm)
    for restarts in (0, 1, 2, 3):
        write_status(trial, restarts=restarts)
        runner.poll()
    assert slurm.cancelled == [f"--quiet {ticket.job}"]
    assert "3 times without a checkpoint after step 0" in runner.failed[trial.trial_id].sentence


def test_while_squeue_is_away_nothing_is_judged_or_submitted(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(running, "SILENCE_S", 0.0)
    runner, _, _ = submitted(tmp_path, slurm)
    slurm.away()
    runner.poll()
    runner.poll()
    assert len(slurm.submissions) == 1 and runner.watched
    assert runner.screen.text.count("Slurm does not answer") == 1
    slurm.away(False)
    runner.poll()
    assert "Slurm answers again" in runner.screen.text


def test_a_job_that_slurm_forgot_is_judged_by_its_run_directory(tmp_path, slurm):
    runner, trial, _ = submitted(tmp_path, slurm)
    write_status(trial, "interrupted", message="warned by SIGUSR2")
    slurm.queue()
    runner.poll()
    assert len(slurm.submissions) == 2 and not runner.failed


def test_a_forgotten_job_whose_heart_beats_is_not_run_a_second_time(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(running, "GONE_SETTLE_S", 60.0)
    runner, trial, _ = submitted(tmp_path, slurm)
    write_status(trial)
    slurm.queue()
    runner.poll()
    assert len(slurm.submissions) == 1 and runner.watched


def test_a_number_given_out_again_to_another_job_is_not_taken_for_ours(tmp_path, slurm):
    runner, trial, ticket = submitted(tmp_path, slurm)
    write_status(trial, "interrupted")
    slurm.queue({"job": ticket.job, "state": "RUNNING", "name": "saei-components", "comment": "saei-someoneelse"})
    runner.poll()
    assert len(slurm.submissions) == 2


def test_a_held_job_is_told_once_with_the_command_that_lets_it_go(tmp_path, slurm):
    runner, _, ticket = submitted(tmp_path, slurm)
    slurm.queue(job(ticket, "PENDING", reason="launch failed requeued held"))
    runner.poll()
    runner.poll()
    assert runner.screen.text.count("scontrol release 1") == 1
    slurm.queue(job(ticket, "PENDING", reason="PartitionTimeLimit"))
    runner.poll()
    assert "will never start as it was submitted (PartitionTimeLimit)" in runner.screen.text


def test_a_job_of_this_launch_that_cannot_start_is_cancelled_alone_and_names_the_keys(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(running, "NEVER_S", 0.0)
    runner, trials = launch(tmp_path, ("grpo", "saei"))
    runner.poll()
    first, second = (ticket_of(runner, trial) for trial in trials)
    slurm.queue(
        job(first, "PENDING", reason="BadConstraints"),
        job(second, "PENDING", reason="ReqNodeNotAvail, UnavailableNodes:n0"),
    )
    runner.poll()
    assert slurm.cancelled == ["--quiet 1_0"]
    found = runner.failed[trials[0].trial_id]
    assert found.kind == Kind.NEVER_STARTED and "job 1_0 (BadConstraints)" in found.sentence
    assert "look at cpus, mem_gb, gpus, nodes, constraint and partition in the cluster profile" in found.cure
    assert list(runner.watched) == [trials[1].trial_id] and len(slurm.submissions) == 1


def test_a_job_of_an_earlier_launch_that_cannot_start_is_submitted_again_as_the_profile_is_now(
    tmp_path, slurm, monkeypatch
):
    runner, (trial,) = launch(tmp_path, cpus=64)
    runner.poll()
    slurm.queue(job(ticket_of(runner, trial), "PENDING", reason="PartitionConfig"))
    runner.poll()
    assert not slurm.cancelled and runner.is_unsettled  # it may be the cluster's reconfiguration
    monkeypatch.setattr(running, "NEVER_S", 0.0)
    later, _ = launch(tmp_path, cpus=2)
    later.poll()
    assert slurm.cancelled == ["--quiet 1"] and len(slurm.submissions) == 2 and not later.failed
    assert "--cpus-per-task=2" in slurm.submissions[1]


def test_three_jobs_that_cannot_start_stop_the_sweep(tmp_path, slurm, monkeypatch):
    monkeypatch.setattr(running, "NEVER_S", 0.0)
    arms = list(load_sweep("components").arms)[:4]
    runner, trials = launch(tmp_path, arms)
    runner.poll()
    slurm.queue(*(job(ticket_of(runner, trial), "PENDING", reason="BadConstraints") for trial in trials))
    runner.poll()
    stopped = runner.retries.stop()
    assert stopped is not None and stopped.kind == Kind.NEVER_STARTED
    assert len(slurm.cancelled) == 3 and list(runner.watched) == [trials[3].trial_id]


def test_a_trial_that_an_earlier_launch_began_goes_before_new_ones_under_a_limit(tmp_path, slurm):
    arms = list(load_sweep("components").arms)[:2]
    first, (new, begun) = launch(tmp_path, arms)
    first.waiting.append(begun)
    first._submit(look(first.results))
    slurm.queue(job(ticket_of(first, begun), "TIMEOUT"))
    second, trials = launch(tmp_path, arms)
    second.budget = Budget("components", second.results, PastRuns(second.results), max_trials=1)
    second.poll()
    second.poll()
    assert not ticket_of(second, begun).closed and read_ticket(second.results, new.trial_id) is None
    assert second.screen.text.count("not started: --max-trials 1") == 1
    assert "not submitted again" not in second.screen.text and len(trials) == 2


def test_where_sbatch_refuses_the_first_trial_no_limit_is_said_to_be_used_up(tmp_path, slurm):
    runner, _ = launch(tmp_path, ("grpo", "saei"))
    runner.budget = Budget("components", runner.results, PastRuns(runner.results), max_trials=1)
    slurm.refuse("sbatch: error: invalid partition specified: gpux")
    with pytest.raises(BadInput):
        runner.poll()
    assert "has started as many" not in runner.screen.text


def test_a_second_detached_launch_says_that_nothing_new_was_submitted(tmp_path, slurm, capsys):
    texts = []
    for _ in range(2):
        runner, trials = launch(tmp_path)
        run_on_slurm(
            runner.source, runner.screen, name="components", results=tmp_path / "results", profile=Profile(time=60),
            retries=Retries(0), budget=None, detach=True, trainer=TRAINER,
        )  # fmt: skip
        texts.append(runner.screen.text)
        slurm.queue(job(ticket_of(runner, trials[0]), "PENDING"))
        tell_ending("components", tmp_path, trials, {}, None)
    assert "nothing new was submitted" not in texts[0] and "nothing new was submitted: 1 queued" in texts[1]
    out = capsys.readouterr().out
    assert out.count("; 1 queued or running on Slurm") == 2 and "not run to their end" not in out


def test_the_same_error_in_the_first_three_trials_stops_the_sweep_and_cancels_the_rest(tmp_path, slurm):
    results = tmp_path / "results"
    arms = list(load_sweep("components").arms)[:4]
    trials = make_trials("components", load_sweep("components"), arms, [0], {"steps": 4}, results)
    lines, retries = Lines(), Retries(0)
    sources = Listed(trials, NoStudy())

    def fail_three():
        tickets = read_tickets(results)
        for trial in trials[:3]:
            write_status(trial, "failed", message="ValueError: broken 1")
        slurm.queue(*(job(tickets[trial.trial_id], "FAILED") for trial in trials[:3]),
                    job(tickets[trials[3].trial_id], "RUNNING"))  # fmt: skip

    lines.update = lambda *_: fail_three()
    failed = run_on_slurm(
        sources, lines, name="components", results=results, profile=Profile(time=60), retries=retries, budget=None,
        detach=False, trainer=TRAINER, poll_s=0.01,
    )  # fmt: skip
    assert len(failed) == 3 and retries.stop() is not None
    assert slurm.cancelled == ["--quiet 1_3"]
    assert "cancelled the other job of this sweep" in lines.text


# ---- submission


def test_a_job_that_a_cached_squeue_does_not_show_yet_is_not_submitted_again(tmp_path, slurm):
    runner, (trial,) = launch(tmp_path)
    runner.poll()
    runner.poll()
    assert len(slurm.submissions) == 1 and runner.watched
    write_ticket(runner.results, replace(ticket_of(runner, trial), submitted=time.time() - 61))
    runner.poll()
    assert len(slurm.submissions) == 2


def test_a_killed_runners_job_is_found_by_its_comment_and_not_submitted_again(tmp_path, slurm):
    runner, (trial,) = launch(tmp_path)
    runner.poll()
    ticket = replace(ticket_of(runner, trial), job="", submitted=time.time() - 3600)  # killed before it read "job 1"
    write_ticket(runner.results, ticket)
    pickle = next((runner.results / "components" / ".jobs").glob("*/*_submitted.pkl"))
    pickle.unlink()
    slurm.queue({"job": "1", "state": "PENDING", "comment": ticket.comment})
    runner, _ = launch(tmp_path)
    runner.poll()
    assert ticket_of(runner, trial).job == "1" and len(slurm.submissions) == 1
    assert pickle.exists()  # the job waits for it
    assert "found its job 1" in runner.screen.text


def test_a_ticket_without_a_job_is_believed_for_a_minute_and_then_submitted_again(tmp_path, slurm):
    runner, (trial,) = launch(tmp_path)
    runner.poll()
    write_ticket(runner.results, replace(ticket_of(runner, trial), job=""))
    runner, _ = launch(tmp_path)
    runner.poll()
    assert len(slurm.submissions) == 1 and runner.watched
    write_ticket(runner.results, replace(ticket_of(runner, trial), submitted=time.time() - 61))
    runner.poll()
    assert len(slurm.submissions) == 2


def test_what_sbatch_refuses_is_told_in_its_words_and_leaves_no_ticket(tmp_path, slurm):
    runner, _ = launch(tmp_path)
    slurm.refuse("sbatch: error: invalid partition specified: gpux\nsbatch: error: Batch job submission failed")
    with pytest.raises(BadInput, match="sbatch refused the jobs: invalid partition specified: gpux"):
        runner.poll()
    assert not read_tickets(runner.results)


def test_an_unclear_answer_of_sbatch_is_waited_out(tmp_path, slurm):
    runner, (trial,) = launch(tmp_path)
    slurm.refuse("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    runner.poll()
    assert "Socket timed out" in runner.screen.text
    ticket = ticket_of(runner, trial)
    assert not ticket.job and not ticket.closed  # it may be there
    slurm.refuse("")
    runner.poll()
    assert not slurm.submissions
    slurm.queue({"job": "31", "state": "PENDING", "comment": ticket.comment})
    runner.poll()
    assert ticket_of(runner, trial).job == "31" and not slurm.submissions


LIMIT = "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates policy"


def test_at_the_submit_limit_the_runner_waits_while_own_jobs_are_queued(tmp_path, slurm):
    runner, _ = launch(tmp_path, ("grpo", "saei"))
    slurm.queue({"job": "90", "state": "RUNNING", "name": "other work"})
    slurm.refuse(LIMIT)
    runner.poll()
    assert len(runner.waiting) == 2 and not read_tickets(runner.results)
    assert "Slurm takes no more jobs now (QOSMaxSubmitJobPerUserLimit" in runner.screen.text
    slurm.refuse("")
    runner.poll()  # it has learned to submit one at a time
    assert len(slurm.submissions) == 2 and all("--array" not in text for text in slurm.submissions)


def test_a_submit_limit_that_allows_no_job_at_all_is_an_error(tmp_path, slurm):
    runner, _ = launch(tmp_path)
    slurm.refuse(LIMIT)
    with pytest.raises(BadInput, match="refused even one job"):
        runner.poll()


def test_max_submitted_counts_all_jobs_of_the_user_and_feeds_as_they_end(tmp_path, slurm):
    arms = list(load_sweep("components").arms)[:4]
    runner, trials = launch(tmp_path, arms, max_submitted=3)
    slurm.queue({"job": "90", "state": "RUNNING", "name": "other work"})
    runner.poll()
    assert [len(runner.watched), len(runner.waiting)] == [2, 2]  # 3 - 1
    assert "max_submitted = 3" in runner.screen.text
    first = [ticket_of(runner, trial) for trial in trials[:2]]
    slurm.queue({"job": "90", "state": "RUNNING", "name": "other work"}, *(job(one, "RUNNING") for one in first))
    runner.poll()
    assert len(slurm.submissions) == 1
    write_done(trials[0])
    slurm.queue(job(first[0], "COMPLETED"), job(first[1], "RUNNING"))
    runner.poll()
    assert len(slurm.submissions) == 2 and not runner.waiting


def test_all_arrays_of_a_sweep_together_keep_to_parallel(tmp_path, slurm):
    arms = list(load_sweep("components").arms)[:5]
    runner, trials = launch(tmp_path, arms, parallel=3, max_submitted=4)
    runner.poll()
    assert "--array=0-3%3" in slurm.submissions[0]
    tickets = [ticket_of(runner, trial) for trial in trials[:4]]
    # three live and may run: nothing is left for another
    write_done(trials[0])
    slurm.queue(job(tickets[0], "COMPLETED"), *(job(one, "RUNNING") for one in tickets[1:]))
    runner.poll()
    assert len(slurm.submissions) == 1
    write_done(trials[1])
    slurm.queue(*(job(one, "COMPLETED") for one in tickets[:2]), *(job(one, "RUNNING") for one in tickets[2:]))
    runner.poll()
    assert len(slurm.submissions) == 2 and not runner.waiting


def test_a_twin_in_the_queue_of_another_sweep_is_waited_for_and_pointed_to(tmp_path, slurm):
    first, (theirs,) = launch(tmp_path, ("split_12_0",), name="group_split")
    first.poll()
    ticket = ticket_of(first, theirs)
    slurm.queue(job(ticket, "RUNNING"))
    second, (ours,) = launch(tmp_path, ("grpo",))
    assert ours.trial_id == theirs.trial_id
    second.poll()
    second.poll()
    assert len(slurm.submissions) == 1
    assert "group_split has the same trial (job 1): waiting" in second.screen.text
    write_done(theirs)
    second.poll()
    assert second.is_over and finished_folder(ours) == theirs.folder


def test_a_twin_that_was_given_up_is_continued_in_its_own_folder(tmp_path, slurm):
    first, (theirs,) = launch(tmp_path, ("split_12_0",), name="group_split")
    first.poll()
    write_checkpoint(theirs.folder, 3)
    slurm.queue(job(ticket_of(first, theirs), "CANCELLED"))
    second, (ours,) = launch(tmp_path, ("grpo",))
    second.poll()
    ticket = ticket_of(second, ours)
    assert len(slurm.submissions) == 2
    assert (ticket.sweep, ticket.arm, ticket.from_step) == ("group_split", "split_12_0", 3)
    write_done(theirs)
    second.poll()
    assert second.is_over and finished_folder(ours) == theirs.folder


def test_a_twin_that_fails_again_in_the_folder_of_the_other_sweep_is_a_failure_of_this_launch(tmp_path, slurm):
    first, (theirs,) = launch(tmp_path, ("split_12_0",), name="group_split")
    first.poll()
    write_checkpoint(theirs.folder, 3)
    write_status(theirs, "failed", message="ZeroDivisionError: division by zero")
    slurm.queue(job(ticket_of(first, theirs), "FAILED"))
    second, (ours,) = launch(tmp_path, ("grpo",))
    second.poll()
    assert len(slurm.submissions) == 2  # the failure of the other launch was not this one's try
    again = ticket_of(second, ours)
    slurm.queue(job(again, "FAILED", name="saei-components"))
    for _ in range(3):
        second.poll()
    assert len(slurm.submissions) == 2 and second.is_over
    assert second.failed[ours.trial_id].sentence == "ZeroDivisionError: division by zero"


def test_a_forgotten_job_in_the_folder_of_the_other_sweep_is_not_run_twice_while_its_process_holds_it(tmp_path, slurm):
    first, (theirs,) = launch(tmp_path, ("split_12_0",), name="group_split")
    first.poll()
    slurm.queue(job(ticket_of(first, theirs), "RUNNING"))
    second, _ = launch(tmp_path, ("grpo",))
    second.poll()
    slurm.queue()
    with hold(theirs.folder / ".lock"):
        second.poll()
        assert len(slurm.submissions) == 1 and second.watched
    second.poll()
    second.poll()
    assert len(slurm.submissions) == 2


def test_jobs_of_a_sweep_of_that_name_under_other_results_use_up_no_room(tmp_path, slurm):
    runner, (trial,) = launch(tmp_path, parallel=1)
    slurm.queue({"job": "70", "state": "RUNNING", "comment": "saei-0123456789ab"})
    runner.poll()
    assert len(slurm.submissions) == 1
    # where the site sets the comment, the name alone tells whose it is
    assert may_run("components", look(), {}) == 0
    slurm.queue({"job": "70", "state": "RUNNING", "comment": "project 12"})
    assert may_run("components", look(), {}) == 1
    slurm.queue(job(ticket_of(runner, trial), "RUNNING"))
    assert may_run("components", look(), runner.feeder.throttles) == 1


def test_a_detached_launch_says_why_nothing_was_submitted(tmp_path, slurm):
    runner, (trial, _) = launch(tmp_path, ("grpo", "saei"), parallel=1, max_submitted=1)
    runner.poll()
    slurm.queue(job(ticket_of(runner, trial), "RUNNING"))
    later, _ = launch(tmp_path, ("grpo", "saei"), parallel=1)
    later.detach = True
    later.poll()
    assert len(slurm.submissions) == 1
    assert "1 trial is not submitted yet: parallel = 1" in later.screen.text


@pytest.mark.parametrize("content", [b"", b'{"trial_id": "x"', b"\xff\xfe", b"[1]", b"3", b'{"job": "1"}'])
def test_a_file_that_is_no_ticket_is_as_none_and_stops_no_runner(tmp_path, slurm, content):
    runner, (trial,) = launch(tmp_path)
    path = ticket_path(runner.results, trial.trial_id)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert read_tickets(runner.results) == {}
    runner.poll()
    assert len(slurm.submissions) == 1 and ticket_of(runner, trial).job == "1"


@pytest.mark.parametrize(
    "content", [b'{"state": "runn', b"\xff", b"[]", b'{"heartbeat": "x", "restarts": [], "step": null}']
)
def test_a_broken_status_stops_no_runner(tmp_path, slurm, content):
    runner, trial, ticket = submitted(tmp_path, slurm)
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "status.json").write_bytes(content)
    runner.poll()
    slurm.queue(job(ticket, "NODE_FAIL"))
    runner.poll()
    assert len(slurm.submissions) == 2 and not runner.failed
    assert gpu_hours(trial.folder) == 0


def test_a_second_runner_of_the_sweep_is_told_who_has_it(tmp_path):
    with (
        only_runner(tmp_path, "components"),
        pytest.raises(BadInput, match=r"is being run on Slurm already, by process \d+ on"),
        only_runner(tmp_path, "components"),
    ):
        pass
