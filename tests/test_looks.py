import math

import pytest

from analysis import looks
from analysis.cells import p_text
from analysis.load import load_sweep
from analysis.verdicts import SAME, word
from sweeps.definition import Sweep
from sweeps.plan import make_trials, write_plan
from tests.fake_results import write_sweep

GRPO = {"rollout.n_view": 0}
SETTINGS = {"steps": 2}


def launch(results, arms, seeds):
    definition = Sweep(
        question="?", arms={"grpo": GRPO, "saei": {}}, baseline="grpo", primary_contrast=("saei", "grpo")
    )
    trials = make_trials("x", definition, arms, range(seeds), SETTINGS, results)
    return write_plan("x", definition, trials, SETTINGS, results)


def launches(plan):
    return [(entry["arm"], entry["seed"], entry["launch"]) for entry in plan["trials"]]


def test_every_launch_that_adds_trials_has_a_number_of_its_own(tmp_path):
    launch(tmp_path, ["grpo"], 1)
    launch(tmp_path, ["grpo"], 1)  # adds nothing
    launch(tmp_path, ["grpo", "saei"], 1)
    plan = launch(tmp_path, ["grpo", "saei"], 2)
    assert launches(plan) == [("grpo", 0, 0), ("saei", 0, 1), ("grpo", 1, 2), ("saei", 1, 2)]


def test_what_looking_costs_is_told_where_trials_were_added_and_only_there(tmp_path):
    data = load_sweep(write_sweep(tmp_path, seeds=1, steps=4, problems=2).parent)
    assert looks.price(data) == ""
    data.plan["trials"][-1]["exploratory"] = True
    # the rate is that of coverage.json
    assert looks.price(data).startswith("Looking at 3, 5 and 10 seeds") and "2,000 simulated" in looks.price(data)


def test_a_p_value_that_is_no_number_decides_nothing():
    assert word(3, math.nan, math.nan) == SAME


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.04996, "0.04996"),
        (0.05004, "0.05004"),
        (0.0494, "0.049"),
        (0.0506, "0.051"),
        (0.0004, "< 0.001"),
        (1.0, "1.000"),
    ],
)
def test_on_which_side_of_the_mark_a_p_value_lies_can_be_read(p, text):
    assert p_text(p) == text
