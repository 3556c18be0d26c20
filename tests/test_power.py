"""`--plan`: a pilot's spread says how many seeds, and hours, an effect needs; nothing is run."""

import json
import math

import pytest

from saei.cli import run_main
from sweeps.definition import load_sweep
from sweeps.plan import make_trials, write_plan
from sweeps.power import needed, sd_interval
from sweeps.run import main
from tests.test_budget import past_run

SETTINGS = {"steps": 10, "eval.shifted_problems": 0}
WORDS = ["components", "--only", "grpo", "--only", "saei", "--steps", "10", "--set", "eval.shifted_problems=0"]


def pilot(results, scores, planned=None):
    """Finished trials with these test scores by arm, an hour each, and the plan of their launch."""
    sweep = load_sweep("components")
    seeds = range(planned or max(len(values) for values in scores.values()))
    trials = make_trials("components", sweep, list(scores), seeds, SETTINGS, results)
    write_plan("components", sweep, trials, SETTINGS, results)
    for trial in trials:
        if trial.seed < len(scores[trial.arm]):
            past_run(trial.folder, trial.config, step_s=360.0, seconds=3600.0)
            score = scores[trial.arm][trial.seed]
            (trial.folder / "DONE").write_text(json.dumps({"scores": {"test/mean@8": score}}))
    return trials


def plan(results, *words):
    return run_main(lambda: main([*WORDS, "--results", str(results), "--plan", *words]))


def test_the_interval_of_a_standard_deviation_is_chi_square():
    # sd of 1, 2, 3 is 1; with 2 degrees of freedom the quantiles are -2 ln(1 - q): 4.6052 at 0.9, 0.2107 at 0.1
    low, sd, high = sd_interval([1.0, 2.0, 3.0])
    expected = (math.sqrt(2 / (2 * math.log(10))), 1.0, math.sqrt(2 / (-2 * math.log(0.9))))
    assert (low, sd, high) == pytest.approx(expected)


def test_the_seeds_are_those_of_a_paired_t_test():
    from statsmodels.stats.power import TTestPower

    found = needed("saei", "grpo", [0.01, 0.02, 0.03], 0.01)
    wanted = [TTestPower().solve_power(0.01 / sd, power=0.8, alpha=0.05) for sd in found.sd]
    assert found.seeds == tuple(max(3, math.ceil(float(value))) for value in wanted)
    assert found.seeds[1] == 10  # an effect of one sd
    assert needed("saei", "grpo", [0.01], 0.01).seeds == (math.inf, math.inf, math.inf)


def test_a_plan_shows_seeds_hours_and_the_command_and_runs_nothing(tmp_path, capsys):
    results = tmp_path / "results"
    pilot(results, {"grpo": [0.50, 0.50, 0.50], "saei": [0.51, 0.52, 0.53]})
    before = sorted(path for path in results.rglob("*"))
    assert plan(results, "--effect", "1", "--jobs", "2") == 0
    assert sorted(path for path in results.rglob("*")) == before
    out = capsys.readouterr().out
    assert "saei minus grpo on test/mean@8; an effect of 1 percentage points, power 80 %, two-sided 5 %" in out
    rows = {line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:-1]] for line in out.splitlines()
            if line.startswith("│")}  # fmt: skip
    assert rows["saei - grpo (primary)"][:3] == ["3 paired seeds", "1.00", "0.66 to 3.08"]
    # 2 arms x 10 seeds of an hour, 6 are finished: 14 h, two at a time
    assert rows["expected"] == ["10", "20", "20", "14", "7 h 0 min"]
    settings = "--only grpo --only saei --steps 10 --set eval.shifted_problems=0"
    here = f"python sweeps/run.py components {settings} --results {results} --jobs 2 --seeds 10"
    assert f"marked exploratory in the report:\n  {here}\n" in out
    assert f"--seeds 10 --results {results}-planned" in out


def test_seeds_that_were_planned_at_the_first_launch_are_simply_launched(tmp_path, capsys):
    pilot(tmp_path, {"grpo": [0.50, 0.50], "saei": [0.51, 0.52]}, planned=40)
    assert plan(tmp_path, "--effect", "1") == 0
    out = capsys.readouterr().out
    assert "Planned already; launch: python sweeps/run.py components" in out and "exploratory" not in out


def test_a_plan_without_two_paired_seeds_says_what_to_run_first(tmp_path, capsys):
    pilot(tmp_path, {"grpo": [0.5, 0.5], "saei": [0.51]})
    assert plan(tmp_path) == 2
    told = capsys.readouterr().err
    assert "needs 2 seeds of saei and grpo that have finished with these settings, and finds 1; run first: " in told
    assert "--only saei --only grpo --seeds 2" in told


def test_a_pilot_without_spread_says_that_it_says_nothing(tmp_path, capsys):
    pilot(tmp_path, {"grpo": [0.5, 0.5], "saei": [0.625, 0.625]})
    assert plan(tmp_path) == 0
    assert "agree exactly" in capsys.readouterr().out
