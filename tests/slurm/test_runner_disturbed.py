"""The watching runner when things go wrong: nothing is lost, nothing runs twice, and the user is told what to do.

Toy trials wait at step 2 until the gate is opened, so that each disturbance meets a running trial with a checkpoint.
"""

import os
import signal

from tests.slurm.lab import kill_trainer, wait_for


def test_a_preempted_job_checkpoints_and_goes_on_by_itself(site, slurm):
    runner = site.launch(seeds=2)
    running = site.training(2)
    before = slurm.submitted()
    slurm.preempt()
    wait_for(lambda: len(site.executions()) == 4, "both trials to start again")
    site.open()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(2)
    again = sorted(site.executions()[2:])
    assert again == [(trial, 2, site.job(trial), 1) for trial in sorted(running)]  # the same jobs, from step 2
    assert slurm.submitted() == before + 1  # that of the test


def test_where_slurm_does_not_requeue_the_runner_submits_again(site, slurm):
    site.profile(requeue=False, partition="cancel")
    runner = site.launch()
    (trial,) = site.training(1)
    jobs = [site.job(trial)]
    slurm.warn(jobs[0])  # as ahead of the time limit
    wait_for(lambda: len(site.executions()) == 2, "the trial to start again")
    jobs.append(site.job(trial))
    slurm.preempt()  # PreemptMode=CANCEL, with a warning before
    wait_for(lambda: len(site.executions()) == 3, "the trial to start once more")
    jobs.append(site.job(trial))
    site.open()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(1)
    assert site.executions() == [(trial, 0, jobs[0], 0), (trial, 2, jobs[1], 0), (trial, 2, jobs[2], 0)]
    assert len(set(jobs)) == 3
    assert runner.text().count("submitted again, from step 2") == 2


def test_a_job_that_is_cancelled_in_the_middle_of_a_step_is_submitted_again(site, slurm, monkeypatch):
    monkeypatch.setenv("TOY_DEAF", "1")  # its step takes longer than the grace after the warning
    site.profile(partition="cancel")
    runner = site.launch()
    site.training(1)
    slurm.preempt()
    runner.says("pre-empted by another job")
    wait_for(lambda: len(site.executions()) == 2, "the trial to start again")
    site.open()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(1)
    assert [first for _, first, _, _ in site.executions()] == [0, 2]


def test_a_cancelled_job_is_left_alone_until_the_next_launch(site, slurm):
    runner = site.launch(seeds=2)
    cancelled, other = sorted(site.training(2))
    slurm.run("scancel", site.job(cancelled))
    runner.says(f"cancelled (job {site.job(cancelled)}")
    site.open(other)
    assert runner.ends() == 1
    assert "launch again: it continues" in runner.text()
    assert site.times_run() == {cancelled: 1, other: 1}
    site.open()
    assert site.launch(seeds=2).ends() == 0
    site.assert_all_done(2)
    assert site.times_run() == {cancelled: 2, other: 1}
    assert site.executions()[-1][:2] == (cancelled, 2)


def test_a_lost_node_costs_nothing_but_time(site, slurm):
    runner = site.launch()
    (trial,) = site.training(1)
    slurm.node_down()
    wait_for(lambda: len(site.executions()) == 2, "the trial to start again")
    site.open()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(1)
    assert site.executions()[1] == (trial, 2, site.job(trial), 1)  # Slurm's own requeue of the same job


def test_a_killed_trainer_is_told_and_tried_again_where_asked(site, slurm):
    runner = site.launch(seeds=1)
    (trial,) = site.training(1)
    folder = site.trials()[trial]
    kill_trainer(folder)
    assert runner.ends() == 1
    assert "killed" in runner.text() and site.times_run() == {trial: 1}
    assert (folder / ".lock").exists()  # left behind, and held by nobody

    runner = site.launch("--retry-failed", "1")
    wait_for(lambda: len(site.executions()) == 2, "the next launch to go on")
    kill_trainer(folder)
    wait_for(lambda: len(site.executions()) == 3, "the second try")
    site.open()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(1)
    assert [first for _, first, _, _ in site.executions()] == [0, 2, 2]
    assert "try 2 of 2" in runner.text()


def test_slurmctld_may_be_away_and_come_back(site, slurm):
    runner = site.launch(seeds=2)
    site.training(2)
    slurm.script("stop-controller")
    site.open(sorted(site.trials())[0])
    wait_for(lambda: (site.trials()[sorted(site.trials())[0]] / "DONE").exists(), "a trial to finish meanwhile")
    assert runner.process.is_alive()
    slurm.restart_controller()
    site.open()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(2)
    assert set(site.times_run().values()) == {1}


def kill_after_sbatch():
    """Plant a SIGKILL of the runner when sbatch has answered, before anybody has read the job's number."""
    from submitit import SlurmExecutor

    def killed(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    SlurmExecutor._get_job_id_from_submission_command = killed  # pyright: ignore[reportAttributeAccessIssue]


def test_a_runner_killed_between_sbatch_and_ticket_submits_nothing_twice(site, slurm):
    before = slurm.submitted()
    assert site.launch(seeds=3, before=kill_after_sbatch).ends() == -signal.SIGKILL
    assert [ticket.job for ticket in site.tickets().values()] == ["", "", ""]
    wait_for(lambda: slurm.submitted() - before == 3, "the jobs of the killed runner")
    runner = site.launch(seeds=3)
    runner.says("which a killed runner had submitted")
    site.open()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(3)
    assert slurm.submitted() - before == 3
    assert set(site.times_run().values()) == {1}


def test_jobs_go_on_without_their_runner_and_the_next_one_takes_them_over(site, slurm):
    before = slurm.submitted()
    first = site.launch(seeds=2)
    one, other = site.training(2)
    first.kill()
    site.open(one)
    wait_for(lambda: (site.trials()[one] / "DONE").exists(), "a trial to finish without a runner")
    second = site.launch(seeds=2)
    site.watched_by(second)
    site.open(other)
    assert second.ends() == 0, second.text()
    site.assert_all_done(2)
    assert slurm.submitted() - before == 2 and set(site.times_run().values()) == {1}


def test_ctrl_c_leaves_the_jobs_running_and_says_so(site, slurm):
    runner = site.launch()
    (trial,) = site.training(1)
    os.kill(runner.process.pid, signal.SIGINT)
    assert runner.ends() == 130
    assert "the jobs go on; the same command watches them again" in runner.text()
    assert slurm.state(site.job(trial)) == "RUNNING"
    site.open()
    assert site.launch().ends() == 0
    assert site.times_run() == {trial: 1}
