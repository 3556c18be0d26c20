"""`plan.json` says what was decided before the first launch; what came later or means something else is kept apart."""

import json
from dataclasses import replace

import pytest

from analysis import arms, contrasts, load, tables
from saei.commit import code_facts
from sweeps.definition import Sweep
from sweeps.plan import launch_command, make_trials, plan_sentences, write_plan
from tests.fake_results import write_run

SIZE = {"eval.problems": 4, "eval.test_problems": 4}


def definition(step_size=2.0, **changes):
    """Two arms, of which `saei` is changed by its step size."""
    arms = {"grpo": {"rollout.n_clean": 12, "rollout.n_view": 0}, "saei": {"view.step_size": step_size}}
    return Sweep(**{"question": "?", "arms": arms, "baseline": "grpo", "primary_contrast": ("saei", "grpo"), **changes})


def launch(results, sweep, seeds=1, names=("grpo", "saei"), settings=SIZE, command=""):
    trials = make_trials("x", sweep, names, range(seeds), settings, results)
    plan = write_plan("x", sweep, trials, settings, results, command=command)
    return plan, {(trial.arm, trial.seed): trial for trial in trials}


def entries(plan):
    return [(entry["arm"], entry["seed"], entry["exploratory"]) for entry in plan["trials"]]


def test_the_first_launch_writes_what_was_decided_and_with_which_code(tmp_path):
    plan, _ = launch(tmp_path, definition())
    assert json.loads((tmp_path / "x" / "plan.json").read_text()) == plan
    assert (plan["baseline"], plan["primary_contrast"], plan["primary_metric"]) == (
        "grpo",
        ["saei", "grpo"],
        "test/mean@8",
    )
    assert plan["git_sha"] == code_facts()["git_sha"]
    again, _ = launch(tmp_path, definition(), seeds=2)
    assert (again["first_launch"], again["git_sha"]) == (plan["first_launch"], plan["git_sha"])
    assert entries(again) == [("grpo", 0, False), ("saei", 0, False), ("grpo", 1, True), ("saei", 1, True)]
    assert plan_sentences(again, definition()) == []


def test_a_plan_knows_the_newest_command_that_launched_its_settings(tmp_path):
    first = launch_command(["x", "--take-next", "--set", "data.path=my data", "--dry_run", "--results", "r"])
    assert first == "python sweeps/run.py x --set 'data.path=my data' --results r"
    assert launch(tmp_path, definition(), command=first)[0]["command"] == first
    assert launch(tmp_path, definition())[0]["command"] == first  # a writer that launches nothing
    plan, _ = launch(tmp_path, definition(), settings={**SIZE, "steps": 7}, command="other")
    assert (plan["command"], [other["command"] for other in plan["earlier_plans"]]) == ("other", [first])
    back, _ = launch(tmp_path, definition(), command="newer")
    assert (back["command"], [other["command"] for other in back["earlier_plans"]]) == ("newer", ["other"])


def test_a_changed_definition_is_kept_apart_and_comes_back_with_its_meaning(tmp_path):
    _, first = launch(tmp_path, definition(2.0))
    old = f"saei@{first['saei', 0].trial_id[:8]}"
    plan, second = launch(tmp_path, definition(4.0), seeds=2)
    new = f"saei@{second['saei', 0].trial_id[:8]}"
    assert entries(plan) == [
        ("grpo", 0, False),
        (old, 0, False),
        ("saei", 0, True),
        ("grpo", 1, True),
        ("saei", 1, True),
    ]
    meant = {arm["name"]: arm["overrides"] for arm in plan["arms"]}
    assert (meant["saei"], meant[old]) == ({"view.step_size": 4.0}, {"view.step_size": 2.0})
    assert [arm.get("against") for arm in plan["arms"]] == [None, None, "grpo"]
    (told,) = plan_sentences(plan, definition(4.0))
    assert told.startswith("the definition of saei has changed") and old in told

    back, _ = launch(tmp_path, definition(2.0))
    assert entries(back) == [("grpo", 0, False), ("saei", 0, False), (new, 0, True), ("grpo", 1, True), (new, 1, True)]
    meant = {arm["name"]: arm["overrides"] for arm in back["arms"]}
    assert (meant["saei"], meant[new]) == ({"view.step_size": 2.0}, {"view.step_size": 4.0})

    third, _ = launch(tmp_path, definition(8.0))  # two earlier definitions beside a third one
    meant = {arm["name"]: arm["overrides"]["view.step_size"] for arm in third["arms"] if arm["name"] != "grpo"}
    assert meant == {"saei": 8.0, old: 2.0, new: 4.0}


def test_arms_that_a_launch_leaves_out_are_told_apart_too(tmp_path):
    """A change of the base changes every arm: the baseline's old trials are no partner of the new ones."""
    _, first = launch(tmp_path, definition())
    plan, _ = launch(tmp_path, definition(base={"optim.lr": 1e-3}), names=["saei"])
    old_grpo, old_saei = (f"{arm}@{first[arm, 0].trial_id[:8]}" for arm in ("grpo", "saei"))
    assert entries(plan) == [(old_grpo, 0, False), (old_saei, 0, False), ("saei", 0, True)]
    against = {arm["name"]: arm.get("against") for arm in plan["arms"]}
    assert against == {"saei": None, old_grpo: old_grpo, old_saei: old_grpo}


def test_the_report_shows_both_definitions_each_against_its_own_baseline(tmp_path):
    size = {"steps": 4, "problems": 5, "samples": 2, "text": "", "attacked": False}
    first = launch(tmp_path, definition(), seeds=3)[1]
    for (arm, seed), trial in first.items():
        write_run(trial.folder, effect=0.1, seed=seed, right={"grpo": 2, "saei": 3}[arm] + seed, **size)
    # alone: saei - grpo is 0.1 on every seed
    alone = contrasts.compared(load.load_sweep(tmp_path, "x")).set_index("arm")
    assert alone.loc["saei", "difference"] == pytest.approx(0.1)

    changed = definition(base={"optim.lr": 1e-3})
    for (arm, seed), trial in launch(tmp_path, changed, seeds=3)[1].items():
        write_run(trial.folder, effect=0.1, seed=seed, right={"grpo": 1, "saei": 6}[arm] + seed, **size)
    data = load.load_sweep(tmp_path, "x")
    old_grpo, old_saei = (f"{arm}@{first[arm, 0].trial_id[:8]}" for arm in ("grpo", "saei"))
    assert data.arms == ["grpo", "saei", old_grpo, old_saei]
    rows = contrasts.compared(data).set_index("arm")
    assert rows["against"].to_dict() == {"grpo": "", "saei": "grpo", old_grpo: "", old_saei: old_grpo}
    assert rows.loc["saei", "difference"] == pytest.approx(0.5)
    assert rows.loc[old_saei, "difference"] == pytest.approx(0.1)
    assert rows["exploratory"].tolist() == [True, True, False, False]
    assert rows.loc[old_grpo, "verdict"] == "baseline"
    shown = tables.verdicts(data)["arm"].tolist()
    assert shown[1] == "saei (primary contrast)" and shown[3] == f"{old_saei} (earlier definition)"
    assert arms.limits(data)[1] == (
        f"{old_saei} holds trials of an earlier definition of saei; it is kept apart from the saei of now and is "
        f"compared with {old_grpo}."
    )


def test_a_pair_whose_reference_was_added_later_is_exploratory(tmp_path):
    launch(tmp_path, definition(), names=["saei"])
    _, trials = launch(tmp_path, definition())
    for (_, seed), trial in trials.items():
        write_run(trial.folder, effect=0.1, attacked=False, seed=seed, steps=4, problems=2, samples=2, text="")
    rows = contrasts.compared(load.load_sweep(tmp_path, "x")).set_index("arm")
    assert rows.loc["saei", "primary"] and rows.loc["saei", "exploratory"]


def test_what_was_decided_first_stays_and_the_launcher_is_told(tmp_path):
    launch(tmp_path, definition())
    turned = definition(primary_contrast=("grpo", "saei"))
    plan, _ = launch(tmp_path, turned)
    assert plan["primary_contrast"] == ["saei", "grpo"]
    (told,) = plan_sentences(plan, turned)
    assert "keeps the primary contrast of the first launch, saei minus grpo" in told and "--results" in told


def test_an_arm_that_the_definition_has_no_more_stays_in_the_plan(tmp_path):
    launch(tmp_path, definition())
    smaller = replace(definition(), arms={"grpo": definition().arms["grpo"]}, primary_contrast=("grpo", "grpo"))
    plan, _ = launch(tmp_path, smaller, names=["grpo"])
    assert entries(plan) == [("grpo", 0, False), ("saei", 0, False)]
    assert {arm["name"]: arm["overrides"] for arm in plan["arms"]}["saei"] == {"view.step_size": 2.0}
    assert load.load_sweep(tmp_path, "x").arms == ["grpo", "saei"]


def test_a_plan_under_its_old_name_is_told_how_to_move(tmp_path):
    launch(tmp_path, definition())
    (tmp_path / "x" / "plan.json").rename(tmp_path / "x" / "sweep.json")
    with pytest.raises(ValueError, match=r"old name; launch again after: mv \S+/x/sweep.json \S+/x/plan.json"):
        launch(tmp_path, definition())
    with pytest.raises(ValueError, match=r"mv \S+/x/sweep.json \S+/x/plan.json"):
        load.load_sweep(tmp_path, "x")


def test_a_damaged_plan_is_never_taken_for_a_first_launch(tmp_path):
    launch(tmp_path, definition())
    (tmp_path / "x" / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan.json is not JSON .*would count as the first"):
        launch(tmp_path, definition())


@pytest.mark.parametrize("content", [b"\xff", b"[]", b'{"name": '])
def test_a_plan_that_is_no_object_is_never_written_over(tmp_path, content):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "plan.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"plan.json is not JSON .*would count as the first"):
        launch(tmp_path, definition())
    assert (tmp_path / "x" / "plan.json").read_bytes() == content
