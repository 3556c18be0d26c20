"""A search on the cluster: its points are decisions of the runner, its trials are jobs that do without it."""

import json

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState


def test_a_search_whose_runner_is_killed_goes_on_with_the_same_points_and_jobs(site, slurm):
    words = ("--points", "2", "--steps", "4", "--jobs", "4")
    before = slurm.submitted()
    first = site.launch(*words, sweep="search", arms=(), seeds=2)
    site.training(4, sweep="search")  # grpo and saei with both seeds; the points wait for room
    first.kill()
    ledger = site.results / "search" / "points.json"
    second = site.launch(*words, sweep="search", arms=(), seeds=2)
    site.watched_by(second, sweep="search")
    site.open()
    assert second.ends(120) == 0, second.text()
    assert "best point p00" in second.text() and "2 complete" in second.text()
    points = json.loads(ledger.read_text())["searches"][0]["points"]
    assert [point["arm"] for point in points] == ["p000", "p001"]
    site.assert_all_done(8, sweep="search")
    assert set(site.times_run().values()) == {1} and slurm.submitted() - before == 8
    storage = JournalStorage(JournalFileBackend(str(ledger.with_name("points.log"))))
    told = optuna.load_study(study_name="search", storage=storage).trials
    assert [trial.state for trial in told] == [TrialState.COMPLETE] * 2


def test_points_of_a_detached_launch_are_watched_by_the_next_one(site, slurm):
    words = ("--points", "2", "--steps", "4", "--jobs", "6")
    before = slurm.submitted()
    detached = site.launch(*words, "--detach", sweep="search", arms=(), seeds=1)
    assert detached.ends() == 0, detached.text()
    site.training(4, sweep="search")  # grpo, saei and a seed of both points
    watching = site.launch(*words, sweep="search", arms=(), seeds=1)
    site.watched_by(watching, sweep="search")
    site.open()
    assert watching.ends() == 0, watching.text()
    assert slurm.submitted() - before == 4 and set(site.times_run().values()) == {1}
