"""What a trial takes, judged by past runs, and what a launch may still start."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saei.cli import run_main
from saei.config import Config, to_dict, with_overrides
from sweeps.budget import Budget
from sweeps.estimate import cost_line
from sweeps.past import PastRuns, evaluated
from sweeps.run import main
from sweeps.slurm.tickets import Ticket, update_ticket, write_ticket
from sweeps.trial import Trial
from tests.fake_trainer import TRAINER

# 10 steps, validation of 4 problems before steps 0 and 5, at the end 4 validation and 8 test problems: 20 evaluated
BASE = with_overrides(
    Config(), {"steps": 10, "eval.every": 5, "eval.problems": 4, "eval.test_problems": 8, "eval.shifted_problems": 0}
)


def past_run(folder: Path, config=BASE, *, step_s=2.0, seconds=None, done=True, **status):
    """A run directory with as much in it as an estimate reads."""
    (folder / "steps").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": to_dict(config)}))
    pq.write_table(pa.table({"time_step": [step_s] * config.steps}), folder / "steps" / "part-000000-000009.parquet")
    spent = {} if seconds is None else {"seconds": seconds}
    state = {"state": "finished" if done else "running", "step": config.steps, "heartbeat": time.time()}
    (folder / "status.json").write_text(json.dumps(state | spent | status))
    if done:
        (folder / "DONE").write_text("{}")


def trial(results: Path, name="t0", config=BASE, sweep="x") -> Trial:
    return Trial(trial_id=name, arm="saei", seed=0, config=replace(config, out=str(results / sweep / name)))


def test_evaluated_problems_are_counted_from_the_step_where_a_run_stands():
    assert [evaluated(to_dict(BASE), step) for step in (0, 1, 5, 6, 10)] == [20, 16, 16, 12, 12]


def test_an_estimate_is_steps_and_evaluation_of_runs_of_the_same_work(tmp_path):
    past_run(tmp_path / "a" / "one", step_s=2.0, seconds=30.0)  # 10 s beside the steps, 20 problems: 0.5 s each
    past_run(tmp_path / "a" / "two", step_s=4.0, seconds=60.0)  # 20 s: 1 s each
    past = PastRuns(tmp_path)
    # medians 3 s and 0.75 s: 10 x 3 + 20 x 0.75; from step 6: 4 x 3 + 12 x 0.75; 20 steps: 60 + (4 x 4 + 12) x 0.75
    assert past.seconds(BASE) == pytest.approx(45.0)
    assert past.seconds(BASE, from_step=6) == pytest.approx(21.0)
    assert past.seconds(replace(BASE, steps=20)) == pytest.approx(81.0)
    assert past.figures(BASE).source == "the median of 2 past runs of tiny of the same work"
    other_token_rule = with_overrides(BASE, {"select.rule": "all", "seed": 5})
    assert past.figures(other_token_rule).runs == 2  # which tokens and which seed: the same work


def test_runs_of_another_size_are_no_measure_and_a_default_says_that_it_is_one(tmp_path):
    past_run(tmp_path / "a" / "one", with_overrides(BASE, {"rollout.max_new_tokens": 999}), seconds=30.0)
    past_run(tmp_path / "a" / "two", with_overrides(BASE, {"eval.samples": 64}), seconds=30.0)
    past_run(tmp_path / "a" / "many", seconds=30.0, world_size=2)
    found = PastRuns(tmp_path).figures(BASE)
    assert (found.step_s, found.runs) == (1.5, 0) and "a default, for want of past runs of tiny at this" in found.source
    assert PastRuns(tmp_path).seconds(BASE) == pytest.approx(10 * 1.5 * 1.3)
    past_run(tmp_path / "a" / "grpo", with_overrides(BASE, {"rollout.n_clean": 12, "rollout.n_view": 0}), step_s=1.0)
    assert PastRuns(tmp_path).figures(BASE).source.endswith("past runs of tiny of the same size with other methods")


def test_on_slurm_runs_of_the_cluster_count_and_others_are_named_as_such(tmp_path):
    past_run(tmp_path / "a" / "here", step_s=9.0, seconds=100.0)
    only_here = cost_line([trial(tmp_path)], tmp_path, 1, gpus=2, on_slurm=True)
    # 10 x 9 s of steps and 10 s beside them, on two GPUs: 200 / 3600
    assert "0.0556 GPU-hours" in only_here and "these are figures of this machine" in only_here
    past_run(tmp_path / "a" / "there", step_s=2.0, seconds=30.0, job="12_3")
    assert PastRuns(tmp_path, on_slurm=True).figures(BASE).step_s == 2.0
    assert PastRuns(tmp_path).figures(BASE).step_s == 9.0
    assert "machine" not in cost_line([trial(tmp_path)], tmp_path, 1, on_slurm=True)


def test_no_more_trials_than_max_trials_start_and_another_try_of_one_is_no_further_trial(tmp_path):
    budget = Budget("x", tmp_path, PastRuns(tmp_path), max_trials=2)
    first, second, third = (trial(tmp_path, name) for name in ("t0", "t1", "t2"))
    assert budget.announcement([first, second, third]) == "--max-trials 2: 2 of 3 missing trials fit."
    for one in (first, second):
        assert budget.refuses(one) == ""
        budget.started(one)
    assert "--max-trials 2" in budget.refuses(third) and budget.refuses(first) == ""


def hours(tmp_path, limit, gpus=0):
    """A budget of the sweep x, which looks at the folders at each question."""
    budget = Budget("x", tmp_path, PastRuns(tmp_path), max_gpu_hours=limit, gpus=gpus)
    budget.look_every_s = 0.0
    return budget


def test_gpu_hours_count_what_was_spent_what_is_on_its_way_and_what_would_start(tmp_path):
    past_run(tmp_path / "x" / "done", step_s=180.0, seconds=3600.0, gpus=2)  # an hour on two GPUs; 10 steps of 3 min
    past_run(tmp_path / "other" / "done", step_s=180.0, seconds=3600.0, gpus=8)  # of another sweep
    first, second, third = (trial(tmp_path, name) for name in ("t0", "t1", "t2"))
    budget = hours(tmp_path, 6.5, gpus=2)
    assert budget.spent() == pytest.approx(2.0) and budget.needs(first) == pytest.approx(2.0)
    assert budget.announcement([first, second, third]) == (
        "--max-gpu-hours 6.5, of which 2 GPU-hours are spent: 2 of 3 missing trials fit."
    )
    for one in (first, second):
        assert budget.refuses(one) == ""
        budget.started(one)
    refused = budget.refuses(third)
    assert refused == (
        "--max-gpu-hours 6.5: the sweep has spent 2 GPU-hours, what runs or waits takes about 4 more, and saei seed 0 "
        "would take about 2; raise it to go on"
    )
    budget.ended(second)  # given up
    assert budget.refuses(third) == ""


def test_a_stopped_trial_needs_only_the_rest_and_what_it_took_is_spent(tmp_path):
    past_run(tmp_path / "other" / "done", step_s=360.0, seconds=3600.0)  # 0 beside the steps: an hour a run
    stopped = {"state": "interrupted", "step": 5, "seconds": 1800.0, "heartbeat": time.time(), "gpus": 0}
    (tmp_path / "x" / "t0").mkdir(parents=True)
    (tmp_path / "x" / "t0" / "status.json").write_text(json.dumps(stopped))
    one = trial(tmp_path)
    assert hours(tmp_path, 9).spent() == pytest.approx(0.5) and hours(tmp_path, 9).needs(one) == pytest.approx(0.5)
    assert hours(tmp_path, 1.0).refuses(one) == ""
    assert "has spent 0.5 worker-hours, and saei seed 0 would take about 0.5;" in hours(tmp_path, 0.9).refuses(one)


def test_trials_that_slurm_holds_for_this_sweep_are_reserved_until_their_job_has_ended(tmp_path):
    past_run(tmp_path / "other" / "done", step_s=360.0, seconds=3600.0)
    ticket = Ticket(trial_id="t1", sweep="x", arm="saei", seed=1, token="a", index=0, logs="", code="", gpus=0,
                    limit_s=60, parallel=1, from_step=0, job="7_0")  # fmt: skip
    write_ticket(tmp_path, ticket)
    write_ticket(tmp_path, replace(ticket, trial_id="t2", sweep="y"))
    budget = hours(tmp_path, 1.5)
    assert "what runs or waits takes about 1 more" in budget.refuses(trial(tmp_path))
    update_ticket(tmp_path, "t1", closed=True)
    assert budget.refuses(trial(tmp_path)) == ""


def test_a_launch_stops_at_its_limit_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "executions"))
    results = tmp_path / "results"
    words = ["components", "--only", "grpo", "--only", "saei", "--seeds", "2", "--steps", "1", "--no-report",
             "--jobs", "2", "--results", str(results)]  # fmt: skip

    def launch(*more):
        return run_main(lambda: main([*words, *more], trainer=TRAINER))

    def done():
        return len(list(results.glob("components/*/DONE")))

    launch("--max-trials", "3")
    assert done() == 3
    out = "".join(capsys.readouterr())
    assert "--max-trials 3: 3 of 4 missing trials fit." in out and "this launch has started as many" in out
    # a step of the default 1.5 s and 30 % beside it: 0.00054 h
    launch("--max-gpu-hours", "0.0005")
    assert done() == 3
    out = "".join(capsys.readouterr())
    assert "0 of 1 missing trials fit" in out and "would take about 0.000542; raise it to go on" in out
    assert launch("--max-trials", "3") == 0 and done() == 4
