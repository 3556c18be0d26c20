from sweeps.definition import Sweep
from sweeps.plan import make_trials, write_plan

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
