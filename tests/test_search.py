import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from fractions import Fraction
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from saei.cli import BadInput, run_main
from sweeps.definition import load_sweep
from sweeps.outcome import Kind, Outcome
from sweeps.plan import make_trials
from sweeps.pruner import instances, is_worse
from sweeps.run import main
from sweeps.search import settings
from sweeps.searching import Search
from sweeps.trial import settle
from tests.fake_trainer import TRAINER, train

ROOT = Path(__file__).resolve().parent.parent
STEPS = {"steps": 2}


@pytest.fixture(autouse=True)
def _fake(tmp_path, monkeypatch):
    for name, value in {"FAKE_LOG": tmp_path / "executions", "FAKE_EVAL": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, str(value))
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def search(results, *, seeds=1, points=3, fixed=(), sampler="tpe", storage="", steps=2):
    sweep = load_sweep("search")
    trials = make_trials("search", sweep, fixed, range(seeds), {"steps": steps}, results) if fixed else []
    return Search("search", sweep, trials, {"steps": steps}, results,
                  seeds=seeds, points=points, sampler=sampler, storage=storage)  # fmt: skip


def run(source, *, jobs=1, fail=()):
    """A runner without processes: every trial ends before the next is taken; `jobs` are taken at a time."""
    order = []
    while not source.is_exhausted:
        taken = source.take(jobs)
        for trial in taken:
            source.started(trial)
        for trial in taken:
            order.append((trial.arm, trial.seed))
            if (trial.arm, trial.seed) in fail:
                source.ended(trial, Outcome(kind=Kind.FAILED, sentence="told to fail"))
                continue
            if not settle(trial):
                train(trial.config)
            source.ended(trial, Outcome(kind=Kind.FINISHED))
    return order


def ledger(results):
    (record,) = json.loads((results / "search" / "points.json").read_text())["searches"]
    return record["points"]


def choices(results):
    return [point["choice"] for point in ledger(results)]


def study(results, name="points.log"):
    storage = JournalStorage(JournalFileBackend(str(results / "search" / name)))
    return optuna.load_study(study_name="search", storage=storage)


def executions(results):
    path = results.parent / "executions"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


# ---- the space


def test_a_choice_becomes_settings_in_exact_shares_with_a_ball_only_where_one_is_needed():
    # 4 of 12 kept drops 2/3; place 1 of 4 puts a quarter of that, 1/6, at the low end; 12 - 9 = 3 stay clean
    choice = {"step_size": 1.5, "iterations": 3, "n_view": 9, "kept": 4, "place": 1}
    assert settings(choice) == {
        "view.step_size": 1.5,
        "view.iterations": 3,
        "view.epsilon": 4.5,
        "rollout.n_clean": 3,
        "rollout.n_view": 9,
        "select.drop_low": Fraction(1, 6),
        "select.drop_high": Fraction(1, 2),
    }
    once = settings({**choice, "iterations": 1, "place": 2})
    assert once["view.epsilon"] is None and once["select.drop_low"] == once["select.drop_high"] == Fraction(1, 3)


def test_every_corner_of_the_space_is_a_config_that_holds(tmp_path):
    from dataclasses import replace
    from itertools import product

    from sweeps.definition import arm_config

    sweep = load_sweep("search")
    ranges = sweep.space.ranges
    for corner in product(*((found.low, found.middle, found.high) for found in ranges.values())):
        arm = sweep.space.settings(dict(zip(ranges, corner, strict=True)))
        arm_config(replace(sweep, arms={"grpo": {}, "saei": {}, "p000": arm}), "p000", 0, {})  # raises where not


# ---- choosing and seeds


def test_one_worker_and_one_sampler_seed_give_the_same_points_also_over_several_launches(tmp_path):
    with search(tmp_path / "a", points=12, seeds=1) as source:
        order = run(source)
    assert order == [(f"p{number:03d}", 0) for number in range(12)]
    for points in (1, 4, 11, 12):  # 11 finished points: TPE has left its random start
        with search(tmp_path / "b", points=points) as source:
            run(source)
    assert choices(tmp_path / "a") == choices(tmp_path / "b")
    assert len({json.dumps(choice) for choice in choices(tmp_path / "a")}) == 12
    with search(tmp_path / "c", points=3, sampler="random") as source:
        run(source)
    assert {point["sampler"] for point in ledger(tmp_path / "c")} == {"random"}


def test_fixed_arms_come_first_and_a_point_takes_one_seed_after_another(tmp_path):
    with search(tmp_path, points=2, seeds=2, fixed=["grpo"]) as source:
        order = run(source, jobs=3)
        best, scores = source.best()
    # two fixed trials leave room for p000; p001 joins while p000 goes on; nobody gets two places
    assert order == [("grpo", 0), ("grpo", 1), ("p000", 0), ("p000", 1), ("p001", 0), ("p001", 1)]
    found = study(tmp_path)
    assert [trial.state for trial in found.trials] == [TrialState.COMPLETE] * 2
    assert found.best_trial.user_attrs["point"] == best.arm
    # the fake score rises by 0.01 a seed: the value is the mean over seeds 0 and 1
    assert scores[1] - scores[0] == pytest.approx(0.01) and found.best_value == pytest.approx(sum(scores) / 2)


def test_the_plan_holds_the_points_as_exploratory_arms(tmp_path):
    with search(tmp_path, points=1, seeds=2) as source:
        run(source)
    plan = json.loads((tmp_path / "search" / "plan.json").read_text())
    assert [(entry["arm"], entry["seed"], entry["exploratory"], entry["pruned"]) for entry in plan["trials"]] == [
        ("p000", 0, True, False),
        ("p000", 1, True, False),
    ]
    (arm,) = plan["arms"]
    assert arm["name"] == "p000" and arm["overrides"]["rollout.n_view"] == ledger(tmp_path)[0]["choice"]["n_view"]


# ---- pruning


def test_instances_are_blocks_of_validation_problems_at_the_last_evaluation(tmp_path):
    (tmp_path / "eval").mkdir()
    for part, (step, shift) in enumerate(((0, 0.5), (10, 0.0))):
        rows = [
            {"step": step, "split": split, "decoding": decoding, "problem_id": f"q{n}", "accuracy": n / 10 + shift}
            for split in ("validation", "test") for decoding in ("sampled", "greedy") for n in range(8)
            if (split, decoding) == ("validation", "sampled") or n == 0
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "eval" / f"part-{part:06d}-{part:06d}.parquet")
    # at step 10 problem n scores n/10: blocks (0, 1), (2, 3), (4, 5), (6, 7); seed 2 begins at 8
    assert instances(tmp_path, "validation", 2) == pytest.approx({8: 0.05, 9: 0.25, 10: 0.45, 11: 0.65})
    assert instances(tmp_path, "noise", 0) == {}


def best_of(values):
    found = optuna.create_study(direction="maximize")
    mean = sum(values.values()) / len(values)
    found.add_trial(create_trial(value=mean, params={}, distributions={}, intermediate_values=values))
    return found


def test_a_point_is_given_up_from_six_instances_on_only_when_it_is_worse_on_the_same_ones():
    hard = {number: 0.1 * number for number in range(8)}  # instances differ much more than points do
    best = best_of(hard)
    below = {number: value - 0.01 for number, value in hard.items()}
    assert is_worse(best, {number: below[number] for number in range(6)})  # p = 1/64
    assert not is_worse(best, {number: below[number] for number in range(5)})
    assert not is_worse(best, {number: value + 0.01 for number, value in hard.items()})
    mixed = {number: value + (0.01 if number % 2 else -0.01) for number, value in hard.items()}
    assert not is_worse(best, mixed)
    assert not is_worse(optuna.create_study(direction="maximize"), below)


def test_one_seed_gives_too_few_instances_to_give_a_point_up(tmp_path):
    with search(tmp_path, points=4, seeds=3) as source:
        order = run(source)
    runs = {arm: sum(name == arm for name, _ in order) for arm, _ in order}
    pruned = [point["arm"] for point in ledger(tmp_path) if point["state"] == "pruned"]
    # the fake scores have no noise: whoever is below the best so far is pruned, after two seeds and not after one
    assert pruned and {runs[arm] for arm in pruned} == {2}
    assert {runs[arm] for arm in runs if arm not in pruned} == {3}
    found = {trial.user_attrs["point"]: trial for trial in study(tmp_path).trials}
    assert all(found[arm].state == TrialState.PRUNED and len(found[arm].intermediate_values) == 8 for arm in pruned)
    plan = json.loads((tmp_path / "search" / "plan.json").read_text())
    assert {entry["arm"] for entry in plan["trials"] if entry["pruned"]} == set(pruned)

    (tmp_path / "search" / "points.log").unlink()
    with search(tmp_path, points=4, seeds=3) as source:
        assert source.is_exhausted and run(source) == []
    again = {trial.user_attrs["point"]: trial for trial in study(tmp_path).trials}
    for arm, trial in found.items():
        same = again[arm]
        assert (same.state, same.value, same.params) == (trial.state, trial.value, trial.params)
        assert same.intermediate_values == trial.intermediate_values


# ---- failures and other runners


def test_a_failed_point_is_told_as_failed_and_tried_again_by_the_next_launch(tmp_path):
    with search(tmp_path, points=2, seeds=2) as source:
        order = run(source, fail=[("p000", 1)])
    assert order == [("p000", 0), ("p000", 1), ("p001", 0), ("p001", 1)]
    assert [(point["state"], point["reason"]) for point in ledger(tmp_path)] == [
        ("failed", "seed 1: told to fail"),
        ("open", ""),
    ]
    assert [trial.state for trial in study(tmp_path).trials] == [TrialState.FAIL, TrialState.COMPLETE]
    before = choices(tmp_path)
    with search(tmp_path, points=2, seeds=2) as source:
        assert run(source) == [("p000", 1)]  # seed 0 is finished
    assert choices(tmp_path) == before
    assert [trial.state for trial in study(tmp_path).trials] == [TrialState.COMPLETE] * 2


def test_a_runner_that_starts_nothing_more_gets_no_more_points(tmp_path):
    with search(tmp_path, points=5) as source:
        (trial,) = source.take(1)
        source.ended(trial, Outcome(kind=Kind.CANCELLED, sentence="--max-trials 0"))  # never started
        assert source.is_exhausted and source.take(3) == []
    assert [point["state"] for point in ledger(tmp_path)] == ["open"]


def test_a_finished_run_without_a_score_fails_its_point_in_words(tmp_path):
    with search(tmp_path, points=1) as source:
        (trial,) = source.take(1)
        source.started(trial)
        train(trial.config)
        (trial.folder / "DONE").write_text(json.dumps({"scores": {"validation/mean@8": float("nan")}}))
        source.ended(trial, Outcome(kind=Kind.FINISHED))
        assert source.is_exhausted and source.best() is None
    assert ledger(tmp_path)[0]["reason"] == "seed 0 is finished without a finite validation/mean@8"


def test_two_runners_share_the_points_and_each_waits_for_the_other(tmp_path):
    with search(tmp_path, points=4) as one:
        (first,) = one.take(1)
        with search(tmp_path, points=4) as two:
            others = two.take(2)
            assert [first.arm, *(trial.arm for trial in others)] == ["p000", "p001", "p002"]
            for source, trials in ((one, [first]), (two, others)):
                for trial in trials:
                    source.started(trial)
                    train(trial.config)
                    source.ended(trial, Outcome(kind=Kind.FINISHED))
            (last,) = one.take(1)
            assert last.arm == "p003"
            two._next_look = 0.0
            assert two.take(1) == [] and not two.is_exhausted  # the first runner may yet die
            one.started(last)
            train(last.config)
            one.ended(last, Outcome(kind=Kind.FINISHED))
            two._next_look = 0.0
            assert two.take(1) == [] and two.is_exhausted and one.is_exhausted
    states = [trial.state for trial in study(tmp_path).trials]
    assert states == [TrialState.COMPLETE] * 4


CHILD = """
import sys
from pathlib import Path
from tests.test_search import run, search
with search(Path(sys.argv[1]), points=int(sys.argv[2]), seeds=2, storage=sys.argv[3], steps=20) as source:
    run(source, jobs=2)
"""


def start(results, points, storage="", step_s=0.0):
    environment = {**os.environ, "FAKE_STEP_S": str(step_s)}
    command = [sys.executable, "-c", CHILD, str(results), str(points), storage]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition, what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("storage", ["", "sqlite:///{}/search.db"])
def test_points_of_a_killed_runner_are_taken_over_with_their_choices(tmp_path, storage):
    results, url = tmp_path / "results", storage.format(tmp_path)
    victim = start(results, 3, url, step_s=0.1)
    wait_for(lambda: list(results.glob("search/*/cursor")), "a trial in training")
    victim.kill()
    victim.wait(timeout=10)
    victim.stderr.close()
    before = ledger(results)
    assert before and all(point["state"] == "open" for point in before)
    with search(results, points=3, seeds=2, storage=url, steps=20) as source:
        order = run(source)
    assert choices(results)[: len(before)] == [point["choice"] for point in before]
    assert len(ledger(results)) == 3 and {point["runner"] for point in ledger(results)} != {before[0]["runner"]}
    found = optuna.load_study(study_name="search", storage=url) if url else study(results)
    told = {trial.user_attrs["point"]: trial for trial in found.trials}
    assert len(found.trials) == 3  # nothing stuck, nothing asked anew
    assert not [trial for trial in found.trials if trial.state == TrialState.RUNNING]
    for point in ledger(results):
        assert told[point["arm"]].params == pytest.approx(point["choice"])
    assert order[0][0] == "p000"


def test_two_runners_in_two_processes_and_one_of_them_killed_run_each_trial_once(tmp_path):
    results = tmp_path / "results"
    runners = [start(results, 5, step_s=0.02) for _ in range(2)]
    wait_for(lambda: len(ledger_or_none(results)) >= 3, "three points")
    runners[0].kill()
    _, error = runners[1].communicate(timeout=120)
    runners[0].communicate(timeout=10)
    assert runners[1].returncode == 0, error
    points = ledger(results)
    assert len(points) == 5 and {point["state"] for point in points} <= {"open", "pruned"}
    assert len({json.dumps(point["choice"]) for point in points}) == 5
    assert [trial for trial in study(results).trials if trial.state == TrialState.RUNNING] == []
    # one seed of pruned points at most is missing; whatever ran to its end ran once, whatever was killed went on
    runs = executions(results)
    assert len(runs) - len(set(runs)) <= 1
    assert len(list(results.glob("search/*/DONE"))) == len(set(runs)) >= 8


def ledger_or_none(results):
    return ledger(results) if (results / "search" / "points.json").exists() else []


def test_a_trial_that_optuna_knows_and_the_ledger_does_not_is_adopted_or_failed(tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    with search(tmp_path, points=1, storage=url) as source:
        run(source)
        source._study.ask("p001", 1, 0, "tpe")  # killed before the ledger was written
        half = source._study.study.ask()  # killed before all of the choice was
        half.suggest_float("step_size", 0.5, 16.0, log=True)
    with search(tmp_path, points=3, storage=url) as source:
        run(source)
    found = optuna.load_study(study_name="search", storage=url).trials
    assert [trial.state for trial in found] == [
        TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE,
    ]  # fmt: skip
    assert found[1].params == ledger(tmp_path)[1]["choice"]


def test_half_a_line_at_the_end_of_the_journal_is_dropped_while_others_have_it_open(tmp_path):
    journal = tmp_path / "search" / "points.log"
    with search(tmp_path, points=3) as source:
        (first,) = source.take(1)
        with open(journal, "ab") as file:
            file.write(b'{"op_code":4,"worker')  # a writer killed inside its write
        with search(tmp_path, points=3) as other:
            run_one(source, first)
            with open(journal, "ab") as file:
                file.write(b'{"op_code":4,"worker')
            run(other)
    assert [trial.state for trial in study(tmp_path).trials] == [TrialState.COMPLETE] * 3
    with open(journal, "ab") as file:
        file.write(b'{"op_code":4\n"glued":\n')  # beyond mending: nobody has it open, so it is made anew
    with search(tmp_path, points=3) as source:
        assert source.is_exhausted
    assert [trial.state for trial in study(tmp_path).trials] == [TrialState.COMPLETE] * 3


def run_one(source, trial):
    source.started(trial)
    train(trial.config)
    source.ended(trial, Outcome(kind=Kind.FINISHED))


def test_a_damaged_ledger_and_a_storage_of_another_search_are_refused_in_words(tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    with search(tmp_path / "a", points=1, storage=url) as source:
        run(source)
    with pytest.raises(BadInput, match=r"a study 'search' of another results folder.*optuna delete-study"):
        search(tmp_path / "b", points=1, storage=url).__enter__()
    with pytest.raises(BadInput, match=r"--storage nonsense cannot be opened: .*sqlite:///search\.db"):
        search(tmp_path / "c", points=1, storage="nonsense").__enter__()
    path = tmp_path / "a" / "search" / "points.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(BadInput, match=r"points\.json is no ledger of points .*: restore it"):
        search(tmp_path / "a", points=1).__enter__()


def test_another_budget_is_another_search_in_the_same_ledger(tmp_path):
    results = tmp_path / "results"
    for steps in (2, 3, 2):
        with search(results, points=2, steps=steps) as source:
            run(source)
    records = json.loads((results / "search" / "points.json").read_text())["searches"]
    assert [record["key"]["settings"]["steps"] for record in records] == [2, 3]
    assert [len(record["points"]) for record in records] == [2, 2]
    assert len(executions(results)) == 4 and (results / "search" / "points-2.log").exists()


# ---- the command


def command(*words, results):
    return run_main(lambda: main(["search", *words, "--results", str(results), "--no-report"], trainer=TRAINER))


def test_a_launch_ends_with_the_best_point_and_more_seeds_of_it_are_had_by_its_name(tmp_path, capsys):
    results = tmp_path / "results"
    words = ["--points", "2", "--seeds", "1", "--steps", "1", "--jobs", "2", "--sampler", "random"]
    assert command(*words, results=results) == 0
    *_, found, warning = capsys.readouterr().out.splitlines()
    best = study(results).best_trial
    arm = best.user_attrs["point"]
    assert found.startswith(
        f"best point {arm}: validation/mean@8 {best.value:.4f} (mean over 1 seed; 2 complete): "
        f"view.step_size {round(best.params['step_size'], 2)}, "
    )
    assert warning.startswith("it was chosen on validation") and "test figure is in the report" in warning
    assert len(executions(results)) == 4  # grpo, saei and two points
    plan = json.loads((results / "search" / "plan.json").read_text())
    assert [(entry["arm"], entry["exploratory"]) for entry in plan["trials"]] == [
        ("grpo", False), ("saei", False), ("p000", True), ("p001", True),
    ]  # fmt: skip
    assert plan["primary_contrast"] == ["saei", "grpo"]

    assert command("--only", arm, "--seeds", "2", "--steps", "1", results=results) == 0
    assert "best point" not in capsys.readouterr().out and len(executions(results)) == 5
    assert command(*words, results=results) == 0
    assert len(executions(results)) == 5


def test_a_budget_of_trials_ends_a_search_and_the_next_launch_goes_on(tmp_path, capsys):
    results = tmp_path / "results"
    words = ["--points", "3", "--seeds", "1", "--steps", "1", "--jobs", "1"]
    assert command(*words, "--max-trials", "3", results=results) == 0
    assert "no point" not in capsys.readouterr().out and len(executions(results)) == 3
    assert len(ledger(results)) == 2  # the second was refused; no third was asked for
    assert command(*words, results=results) == 0
    assert len(executions(results)) == 5 and len(ledger(results)) == 3


def test_a_dry_run_shows_the_space_and_the_cost_of_a_point_and_writes_nothing(tmp_path, capsys):
    assert command("--dry-run", "--points", "7", "--jobs", "1", results=tmp_path / "results") == 0
    out = capsys.readouterr().out
    for text in ("step_size   0.5 to 16, log scale", "n_view      2 to 10, whole numbers", "Points: 7 by tpe",
                 "mean validation/mean@8 over seeds 0 to 2; the test split is not read",
                 "One point, in the middle of the space: 3 of 3 trials, 450 steps"):  # fmt: skip
        assert text in out, text
    assert "grpo" in out and "p000" not in out
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["components", "--points", "3"], "--points is for a search, and components has fixed arms"),
        (["components", "--sampler", "random"], "--sampler is for a search"),
        (["search", "--only", "grpo", "--storage", "sqlite:///x"], "--storage is for a search, and with --only"),
        (["search", "--set", "view.step_size=3"], "view.step_size is what arm p000 sets"),
        (["search", "--only", "p007"], "there is no arm 'p007'"),
        (["search", "--storage", "sqlite:////nowhere/x.db", "--seeds", "1"], "cannot be opened: "),
    ],
)
def test_words_that_do_nothing_or_cannot_be_are_refused(tmp_path, capsys, words, sentence):
    assert run_main(lambda: main([*words, "--results", str(tmp_path)], trainer=TRAINER)) == 2
    assert sentence in capsys.readouterr().err
    assert executions(tmp_path / "results") == []


@pytest.mark.parametrize("storage", ["", "sqlite:///{}/search.db"])
def test_the_dashboard_shows_a_search(tmp_path, storage):
    url = storage.format(tmp_path)
    with search(tmp_path, points=2, storage=url) as source:
        run(source)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("optuna-dashboard")
    server = subprocess.Popen(
        [program, url or str(tmp_path / "search" / "points.log"), "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        listed = wait_for(lambda: answer(f"http://127.0.0.1:{port}/api/studies"), "the dashboard")
        (summary,) = listed["study_summaries"]
        assert summary["study_name"] == "search" and summary["directions"] == ["maximize"]
        shown = answer(f"http://127.0.0.1:{port}/api/studies/{summary['study_id']}?after=0")["trials"]
        assert [trial["state"] for trial in shown] == ["Complete", "Complete"]
        assert {param["name"] for param in shown[0]["params"]} == set(load_sweep("search").space.ranges)
    finally:
        server.terminate()
        server.wait(timeout=20)


def answer(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return json.loads(response.read())
    except OSError:
        return None


def start_command(*words, results, step_s):
    line = [sys.executable, "-m", "tests.fake_trainer", "search", *words, "--no-report", "--results", str(results)]
    environment = {**os.environ, "FAKE_STEP_S": str(step_s)}
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_launches_at_once_of_which_one_is_killed_lose_nothing_and_run_nothing_twice(tmp_path):
    results = tmp_path / "results"
    words = ["--points", "3", "--seeds", "1", "--steps", "10", "--jobs", "2"]
    one, two = (start_command(*words, results=results, step_s=0.1) for _ in range(2))
    wait_for(lambda: len(ledger_or_none(results)) >= 2, "two points")
    one.kill()
    told = two.communicate(timeout=120)[0]
    one.communicate(timeout=10)
    assert two.returncode == 0, told
    assert "best point p00" in told and "3 complete" in told
    assert len(list(results.glob("search/*/DONE"))) == 5
    # the workers of the killed runner are interrupted, and their trials continue where they were
    firsts = {}
    for line in (tmp_path / "executions").read_text().splitlines():
        trial, first, _ = line.split()
        firsts.setdefault(trial, []).append(int(first))
    assert len(firsts) == 5 and all(len(found) <= 2 and sorted(found) == found for found in firsts.values())
