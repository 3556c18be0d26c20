"""`run.py status` and `run.py cancel` on a real Slurm: only what was asked for ends, and a launch continues it."""

from saei.cli import run_main
from sweeps.run import main
from tests.slurm.lab import wait_for


def command(site, *words):
    return run_main(lambda: main([*words, "--results", str(site.results)]))


def test_cancel_ends_one_waiting_trial_then_all_and_nobody_elses_job(site, slurm, capsys):
    site.profile(parallel=1)
    foreign = slurm.sbatch("sleep 300", "-p", "main", "-J", "somebody")
    assert site.launch("--detach", seeds=3).ends() == 0
    (running,) = site.training(1)
    waiting = sorted(set(site.tickets()) - {running})
    assert command(site, "cancel", "components", waiting[0], "--yes") == 0
    wait_for(lambda: site.tickets()[waiting[0]].job not in slurm.living(), "the job to be cancelled")
    # the other one of the same array goes on waiting
    living = slurm.living()
    assert living[site.tickets()[waiting[1]].job] == "PENDING"
    assert living[site.tickets()[running].job] == "RUNNING"
    assert [trial for trial, ticket in site.tickets().items() if ticket.cancelled] == [waiting[0]]
    capsys.readouterr()
    assert command(site, "status", "components") == 0
    assert "3 trials: 1 running, 1 queued, 1 cancelled" in capsys.readouterr().out

    assert command(site, "cancel", "components", "--yes") == 0
    wait_for(lambda: set(slurm.living()) == {foreign}, "all jobs of the sweep to end")
    site.open()
    site.profile(parallel=3)
    assert site.launch(seeds=3).ends() == 0  # launched again, it goes on
    site.assert_all_done(3)
