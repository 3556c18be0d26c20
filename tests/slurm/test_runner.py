"""The watching runner on a calm cluster: limits are kept, and nothing is submitted or run twice."""


def test_arrays_are_throttled_chunked_and_fed_under_the_submit_limit(site, slurm):
    site.profile(parallel=2, max_array=2, max_submitted=3)
    before = slurm.jobs()
    site.open()
    runner = site.launch(seeds=5)
    running, living = [], []
    while runner.process.is_alive():
        states = list(slurm.living().values())
        running.append(states.count("RUNNING"))
        living.append(len(states))
    assert runner.ends() == 0, runner.text()
    assert max(running) == 2 and max(living) <= 3
    arrays = [job.partition("_")[0] for job in slurm.jobs() if job not in before]
    assert max(arrays.count(array) for array in arrays) == 2
    site.assert_all_done(5)
    assert site.times_run() == dict.fromkeys(site.trials(), 1)


def test_what_is_finished_is_not_submitted_again(site, slurm):
    site.open()
    assert site.launch(seeds=1).ends() == 0
    before = slurm.submitted()
    again = site.launch(seeds=2)
    assert again.ends() == 0
    assert slurm.submitted() - before == 1
    last = site.launch(seeds=2)
    assert last.ends() == 0
    assert slurm.submitted() - before == 1
    site.assert_all_done(2)


def test_two_sweeps_with_the_same_trial_submit_it_once(site, slurm):
    before = slurm.submitted()
    first = site.launch(sweep="components")
    site.training(1)
    second = site.launch(sweep="tsec_ratio")
    second.says("components has the same trial")
    site.open()
    assert (first.ends(), second.ends()) == (0, 0)
    assert slurm.submitted() - before == 1
    assert list(site.times_run().values()) == [1]
    (trial,) = site.trials()
    assert (site.results / "tsec_ratio" / trial / "SAME_AS").read_text() == f"../../components/{trial}\n"


def test_a_second_runner_of_a_sweep_is_told_who_has_it(site, slurm):
    first = site.launch()
    site.training(1)
    second = site.launch()
    assert second.ends() == 2
    assert f"components is being run on Slurm already, by process {first.process.pid}" in second.text()
    site.open()
    assert first.ends() == 0


def test_a_detached_launch_returns_and_the_next_one_watches(site, slurm):
    before = slurm.submitted()
    assert site.launch("--detach").ends() == 0
    (trial,) = site.training(1)
    watching = site.launch()
    site.watched_by(watching)
    site.open()
    assert watching.ends() == 0
    assert slurm.submitted() - before == 1 and site.times_run() == {trial: 1}
