"""Results copied from several places load as if they had been made in one; what is half, renamed or torn is refused."""

import json
import math
import os
import shutil
import time

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import cells, load, merge, problems, stats, sweep_tables, tables, trajectories, unfinished
from analysis.where import parse_condition, parse_selection, parse_since
from saei import parts, schema
from tests.fake_results import fake_id, write_sweep

ARMS = {"GRPO": 0.1, "SaEI": 0.2}
TABLES = ("steps", "views", "attacks", "eval", "problems", "attack_means")


def small(results, **options):
    return write_sweep(results, **{"arms": ARMS, "seeds": 2, "steps": 8, "problems": 4, "samples": 2, **options})


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def split_in_two(folder, tmp_path):
    """The sweep of `folder` in two results folders: seed 0 in one, seed 1 in the other, each with its own plan."""
    halves = []
    for seed in (0, 1):
        half = tmp_path / f"cluster_{seed}" / "results" / folder.name
        shutil.copytree(folder, half)
        plan = json.loads((half / schema.PLAN_FILE).read_text())
        plan["trials"] = [trial for trial in plan["trials"] if trial["seed"] == seed]
        (half / schema.PLAN_FILE).write_text(json.dumps({**plan, "seeds": [seed]}))
        for arm in ARMS:
            shutil.rmtree(half / fake_id(arm, 1 - seed))
        halves.append(half.parent)
    return halves


def refusal(results, sweep="fake", **options):
    with pytest.raises(ValueError) as caught:
        data = load.load_sweep(results, sweep, **options)
        for name in TABLES:
            data.table(name)
    return str(caught.value)


# ---- several folders


def test_a_sweep_merged_from_two_folders_is_the_sweep_in_one(tmp_path):
    folder = small(tmp_path / "one")
    merged = load.load_sweep(split_in_two(folder, tmp_path), "fake")
    alone = load.load_sweep(tmp_path / "one")
    assert merged.arms == alone.arms and merged.plan["seeds"] == [0, 1]
    places = ["folder", "finished"]
    pd.testing.assert_frame_equal(merged.trials.drop(columns=places), alone.trials.drop(columns=places))
    for name in TABLES:
        pd.testing.assert_frame_equal(merged.table(name), alone.table(name))
    assert (
        merged.merged_note.startswith("Merged from ") and "0 of the trials are in more than one" in merged.merged_note
    )
    assert alone.merged_note == ""


def test_a_trial_in_two_folders_counts_once_and_a_finished_copy_before_an_unfinished_one(tmp_path):
    first = small(tmp_path / "a", unfinished={("SaEI", 1): schema.RUNNING})
    second = small(tmp_path / "b")
    data = load.load_sweep([first.parent, second.parent], "fake")
    assert list(data.trials["state"]) == ["finished"] * 4
    assert data.trials.set_index(["arm", "seed"]).loc[("SaEI", 1), "folder"].is_relative_to(second)
    assert len(data.table("steps")) == 4 * 8
    assert "4 of the trials are in more than one" in data.merged_note


def test_of_two_unfinished_copies_the_one_that_came_furthest_counts(tmp_path):
    folders = [small(tmp_path / name, unfinished={("SaEI", 1): schema.INTERRUPTED}, steps=8) for name in "ab"]
    change(folders[1] / fake_id("SaEI", 1) / schema.STATUS_FILE, step=5)
    row = load.load_sweep([folder.parent for folder in folders]).trials.set_index(["arm", "seed"]).loc[("SaEI", 1)]
    assert row["folder"].is_relative_to(folders[1]) and row["step"] == 5


@pytest.mark.parametrize("what", ["scores", "rows of steps"])
def test_two_finished_copies_with_different_rows_are_refused_by_name(tmp_path, what):
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    run = second / fake_id("GRPO", 0)
    if what == "scores":
        change(run / schema.DONE_FILE, scores={"test/mean@8": 0.0})
    else:
        part = run / "steps" / "part-000004-000008.parquet"
        pq.write_table(pq.read_table(part).slice(1), part)
    said = refusal([first.parent, second.parent])
    assert f"duplicate keys: trial {fake_id('GRPO', 0)} is finished in" in said and f"with different {what}" in said


def test_a_copy_whose_parts_were_joined_is_the_same_run(tmp_path):
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    for table in ("steps", "eval"):
        parts = sorted((second / fake_id("GRPO", 0) / table).iterdir())
        joined = pa.concat_tables([pq.read_table(part) for part in parts])
        for part in parts:
            part.unlink()
        pq.write_table(joined, parts[0].with_name("part-000000-000008.parquet"))
    assert list(load.load_sweep([first.parent, second.parent]).trials["state"]) == ["finished"] * 4


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"baseline": "SaEI"}, 'baseline is "SaEI" in the first and "GRPO" in the second'),
        ({"primary_metric": "test/mean@4"}, 'primary metric is "test/mean@4"'),
        ({"primary_contrast": ["GRPO", "SaEI"]}, "primary contrast is"),
        ({"arms": [{"name": "GRPO", "overrides": {"steps": 9}}, {"name": "SaEI"}]}, "arm GRPO has other overrides"),
    ],
)
def test_plans_that_decided_differently_are_refused_with_both_files(tmp_path, entries, said):
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    change(second / schema.PLAN_FILE, first_launch=2.0, **entries)
    refused = refusal([first.parent, second.parent])
    assert said in refused and "report on the folders one by one" in refused
    assert all(str(folder / schema.PLAN_FILE) in refused for folder in (first, second))


def test_an_arm_of_another_definition_is_refused(tmp_path):
    first, second = small(tmp_path / "a"), small(tmp_path / "b", leave_out=[("SaEI", 0), ("SaEI", 1)])
    plan = json.loads((second / schema.PLAN_FILE).read_text())
    for trial in plan["trials"]:
        if trial["arm"] == "SaEI":
            trial["trial_id"] = f"0123456789ab-s{trial['seed']}"
    change(second / schema.PLAN_FILE, trials=plan["trials"], first_launch=2.0)
    assert "arm SaEI is 0123456789ab in the first" in refusal([first.parent, second.parent])


def exploratory(folders):
    trials = load.load_sweep(folders, "fake").trials
    return dict(zip(trials["seed"], trials["exploratory"], strict=True))


def test_seeds_launched_elsewhere_after_a_trial_had_ended_are_exploratory(tmp_path):
    folders = split_in_two(small(tmp_path / "one"), tmp_path)
    first, second = (folder / "fake" for folder in folders)
    change(first / schema.PLAN_FILE, first_launch=100.0)
    for arm, ended in (("GRPO", 300.0), ("SaEI", 200.0)):
        change(first / fake_id(arm, 0) / schema.DONE_FILE, finished=ended)
    change(second / schema.PLAN_FILE, first_launch=150.0)  # nobody could have seen a result
    assert exploratory(folders) == {0: False, 1: False}
    change(second / schema.PLAN_FILE, first_launch=250.0)
    assert exploratory(folders) == {0: False, 1: True}
    entries = load.load_sweep(folders, "fake").plan["trials"]
    assert {entry["launch"] for entry in entries if entry["seed"] == 1} == {1}


def test_what_had_ended_before_the_first_plan_was_launched_makes_no_later_one_exploratory(tmp_path):
    folders = split_in_two(small(tmp_path / "one"), tmp_path)
    first, second = (folder / "fake" for folder in folders)
    change(first / schema.PLAN_FILE, first_launch=100.0)
    # a trial of another sweep that the first folder points to
    small(folders[0], name="before")
    shutil.rmtree(first / fake_id("GRPO", 0))
    (first / fake_id("GRPO", 0)).mkdir()
    (first / fake_id("GRPO", 0) / schema.SAME_AS_FILE).write_text(f"../../before/{fake_id('GRPO', 0)}")
    change(folders[0] / "before" / fake_id("GRPO", 0) / schema.DONE_FILE, finished=50.0)
    change(first / fake_id("SaEI", 0) / schema.DONE_FILE, finished=200.0)
    for launched, late in ((150.0, False), (250.0, True)):
        change(second / schema.PLAN_FILE, first_launch=launched)
        assert exploratory(folders) == {0: False, 1: late}


def test_of_two_finished_copies_the_one_with_more_tables_counts_in_any_order(tmp_path):
    whole, bare = small(tmp_path / "whole"), small(tmp_path / "bare")
    for run in bare.glob("*-s*"):
        shutil.rmtree(run / "attacks", ignore_errors=True)
    for folders in ([whole.parent, bare.parent], [bare.parent, whole.parent]):
        data = load.load_sweep(folders, "fake")
        assert set(data.table("attacks")["arm"]) == {"SaEI"}


def test_a_torn_part_in_one_of_two_finished_copies_is_refused_by_name(tmp_path):
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    part = second / fake_id("GRPO", 0) / "steps" / "part-000004-000008.parquet"
    for size in (900, 0):
        os.truncate(part, size)
        assert refusal([first.parent, second.parent]).startswith(f"{part} is no whole parquet file")


def test_an_arm_that_two_folders_name_differently_is_refused(tmp_path):
    first, second = small(tmp_path / "a"), small(tmp_path / "b")
    plan = json.loads((second / schema.PLAN_FILE).read_text())
    arms = [*plan["arms"], {"name": "SaEI again"}]
    trials = [{**trial, "arm": f"{trial['arm']} again"} for trial in plan["trials"] if trial["arm"] == "SaEI"]
    change(second / schema.PLAN_FILE, arms=arms, trials=[*plan["trials"][:2], *trials])
    assert f"trial {fake_id('SaEI', 0)} is planned as SaEI and as SaEI again" in refusal([first.parent, second.parent])


def test_the_newest_sweep_is_that_of_the_newest_plan_in_any_folder(tmp_path):
    for place, name, launched in (("a", "first", 30), ("b", "first", 10), ("c", "second", 20)):
        plan = tmp_path / place / name / schema.PLAN_FILE
        plan.parent.mkdir(parents=True)
        plan.write_text("{}")
        os.utime(plan, (launched, launched))
    assert merge.newest([tmp_path / place for place in "abc"]) == "first"
    assert merge.newest([tmp_path / "nothing"]) == ""


def test_a_pointer_leads_into_another_folder(tmp_path):
    small(tmp_path / "a", name="first")
    second = small(tmp_path / "b", name="second", leave_out=[("GRPO", 0)])
    pointer = second / fake_id("GRPO", 0)
    pointer.mkdir()
    (pointer / schema.SAME_AS_FILE).write_text(f"../../first/{fake_id('GRPO', 0)}\n")
    assert load.load_sweep(second.parent, "second").trials.iloc[0]["state"] == "missing"
    row = load.load_sweep([second.parent, tmp_path / "a"], "second").trials.iloc[0]
    assert (row["state"], row["same_as"]) == ("finished", f"first/{fake_id('GRPO', 0)}")


def test_a_pointer_never_leads_out_of_the_results_folders(tmp_path):
    small(tmp_path / "outside", name="first")
    second = small(tmp_path / "b", name="second", leave_out=[("GRPO", 0)])
    pointer = second / fake_id("GRPO", 0)
    pointer.mkdir()
    for target in (f"../../../outside/first/{fake_id('GRPO', 0)}", str(tmp_path / "outside/first" / pointer.name)):
        (pointer / schema.SAME_AS_FILE).write_text(target)
        assert load.load_sweep(second.parent, "second").trials.iloc[0]["state"] == "missing"


def test_pointers_in_a_circle_are_refused(tmp_path):
    folders = {name: small(tmp_path, name=name, leave_out=[("GRPO", 0)]) for name in ("first", "second")}
    for name, other in (("first", "second"), ("second", "first")):
        (folders[name] / fake_id("GRPO", 0)).mkdir()
        (folders[name] / fake_id("GRPO", 0) / schema.SAME_AS_FILE).write_text(f"../../{other}/{fake_id('GRPO', 0)}")
    assert "lead in a circle" in refusal(tmp_path, "first")


def test_a_folder_that_holds_nothing_of_the_sweep_is_refused(tmp_path):
    folder = small(tmp_path / "a")
    assert "holds nothing of fake" in refusal([folder.parent, tmp_path / "typo"])


# ---- half copies


def damaged(run, how):
    damages = {
        "no settings": lambda: (run / schema.CONFIG_FILE).unlink(),
        "a part": lambda: (run / "steps" / "part-000000-000003.parquet").unlink(),
        "the end": lambda: (run / "eval" / "part-000004-000008.parquet").unlink(),
        "a table": lambda: shutil.rmtree(run / "views"),
        "torn JSON": lambda: (run / schema.DONE_FILE).write_text('{"trial_id": "'),
        "torn table": lambda: os.truncate(run / "eval" / "part-000004-000008.parquet", 900),
        "empty table": lambda: os.truncate(run / "eval" / "part-000004-000008.parquet", 0),
        "renamed": lambda: run.rename(run.with_name("old")),
        "no plan": lambda: (run.parent / schema.PLAN_FILE).unlink(),
        "torn plan": lambda: os.truncate(run.parent / schema.PLAN_FILE, 40),
    }
    damages[how]()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no settings", "holds a run without its config.json: it was copied half"),
        ("a part", "is finished, but its steps lack step 0 (of 8): it was copied half"),
        ("the end", "the part of eval with its last evaluation (step 8) is not there"),
        ("a table", "its views lack step 0"),
        ("torn JSON", "DONE is not JSON"),
        ("torn table", "part-000004-000008.parquet is no whole parquet file"),
        ("empty table", "part-000004-000008.parquet is no whole parquet file"),
        ("renamed", f"holds trial {fake_id('SaEI', 1)}: it was renamed; mv "),
        ("no plan", "holds trials but no plan.json"),
        ("torn plan", "plan.json is not JSON"),
    ],
)
def test_what_was_copied_half_is_refused_with_a_cure(tmp_path, how, said):
    folder = small(tmp_path)
    damaged(folder / fake_id("SaEI", 1), how)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize("table", ["steps", "problems"])
def test_a_part_that_is_a_link_to_nothing_is_refused_by_name(tmp_path, table):
    folder = small(tmp_path)
    part = folder / fake_id("SaEI", 1) / sweep_tables.MADE_FROM.get(table, table) / "part-000004-000008.parquet"
    part.unlink()
    part.symlink_to("../../elsewhere.parquet")
    data = load.load_sweep(tmp_path)
    with pytest.raises(ValueError, match=r"part-000004-000008.parquet is not there: a link to nothing"):
        data.table(table)


def test_the_command_about_a_failed_trial_names_the_folder_that_has_it(tmp_path):
    first = small(tmp_path / "a", leave_out=[("SaEI", 1)])
    second = small(tmp_path / "b", unfinished={("SaEI", 1): schema.FAILED})
    told = unfinished.why(load.load_sweep([first.parent, second.parent], "fake"))
    assert told == f"python sweeps/run.py why fake/SaEI-s1 --results {second.parent}"


def test_a_renamed_sweep_is_refused_with_the_way_back(tmp_path):
    folder = small(tmp_path)
    folder.rename(tmp_path / "copy")
    assert f"the folder was renamed; rename it back: mv {tmp_path / 'copy'} {folder}" in refusal(tmp_path, "copy")


def test_an_unfinished_run_may_lack_what_it_has_not_written(tmp_path):
    folder = small(tmp_path, unfinished={("SaEI", 1): schema.RUNNING})
    shutil.rmtree(folder / fake_id("SaEI", 1) / "views")
    assert len(load.load_sweep(tmp_path).table("steps")) == 3 * 8 + 4


# ---- selections


def settled(tmp_path):
    """Two arms with seeds 0 and 1 whose configs have a step size, an epsilon, a share and a loss."""
    folder = small(tmp_path, leave_out=[("SaEI", 1)])
    for arm, levels, epsilon, share in (("GRPO", 0.0, None, "1/3"), ("SaEI", 2.0, 8.0, "1/5")):
        for path in (folder / fake_id(arm, seed) / schema.CONFIG_FILE for seed in (0, 1)):
            if path.exists():
                config = json.loads(path.read_text())["config"]
                own = {"view": {"step_size": levels, "epsilon": epsilon}, "select": {"share": share}}
                change(path, config={**config, **own, "loss": {"name": arm.lower()}})
    return folder


def selected(tmp_path, *where, since="", now=None):
    now = time.time() if now is None else now
    data = load.load_sweep(tmp_path, selection=parse_selection(since=since, where=where, now=now))
    return [(str(row.arm), row.seed, row.state) for row in data.trials.itertuples()]


GRPO = [("GRPO", 0, "finished"), ("GRPO", 1, "finished")]
SAEI = [("SaEI", 0, "finished"), ("SaEI", 1, "missing")]


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("view.step_size > 1", [SAEI[0]]),
        ("view.step_size == 2/255", [SAEI[0]]),
        ("view.step_size<2", GRPO),
        ("view.epsilon == none", GRPO),
        ("view.epsilon >= 8", [SAEI[0]]),  # none is in no order
        ("select.share == 0.2", [SAEI[0]]),  # stored as "1/5"
        ("select.share > 1/4", GRPO),
        ("loss.name in [grpo, 'gspo']", GRPO),
        ("loss.name != grpo", [SAEI[0]]),
        ("arm == SaEI", SAEI),
        ("seed < 1", [GRPO[0], SAEI[0]]),
    ],
)
def test_a_condition_selects_trials_by_their_settings(tmp_path, where, left):
    settled(tmp_path)
    # settings of the trial that has not begun are not known: no reason to leave it out, where arm and seed leave it
    unknown = [] if where.startswith(("seed", "arm")) else [SAEI[1]]
    assert selected(tmp_path, where) == [*left, *unknown]


def test_conditions_hold_together_and_a_report_says_what_is_left_out(tmp_path):
    settled(tmp_path)
    assert selected(tmp_path, "view.step_size > 1", "seed == 0") == [SAEI[0]]
    selection = parse_selection(where=["view.step_size > 1", "seed == 0"], now=0.0)
    data = load.load_sweep(tmp_path, selection=selection)
    assert data.selection_note == (
        "Only trials with view.step_size > 1 and seed == 0: 1 of 4; left out: arm GRPO, 1 of 2 trials of SaEI. "
        "Verdicts and adjusted p values are those of the selected trials alone: a selection made after a look at "
        "results is exploratory. Without the baseline GRPO no arm is compared with it."
    )
    assert data.arms == ["SaEI"] and data.plan["seeds"] == [0] and len(data.plan["trials"]) == 1
    assert len(data.table("steps")) == 8 and load.load_sweep(tmp_path).selection_note == ""


def test_since_reads_when_a_trial_finished_and_else_when_it_was_last_heard_of(tmp_path):
    folder = small(tmp_path, unfinished={("GRPO", 1): schema.INTERRUPTED}, leave_out=[("SaEI", 1)])
    change(folder / fake_id("GRPO", 0) / schema.DONE_FILE, finished=10_000.0)
    change(folder / fake_id("SaEI", 0) / schema.DONE_FILE, finished=50_000.0)
    change(folder / fake_id("GRPO", 1) / schema.STATUS_FILE, heartbeat=40_000.0)
    now = 60_000.0
    assert selected(tmp_path, since="4h", now=now) == [("SaEI", 0, "finished")]  # since 45,600
    assert selected(tmp_path, since="6h", now=now) == [("GRPO", 1, "interrupted"), ("SaEI", 0, "finished")]
    assert "none of the 4 trials of fake is selected" in refusal(
        tmp_path, selection=parse_selection(since="30m", now=now)
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 1000 - 5400), ("1.5h", 1000 - 5400), ("2d", 1000 - 172800), ("1970-01-02T00:00+00:00", 86400)],
)
def test_since_is_a_time_back_from_now_or_a_date(text, seconds):
    assert parse_since(text, now=1000.0) == seconds


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("view.stepsize > 1", "no trial has a setting 'view.stepsize'; did you mean view.step_size"),
        ("step_size > 1", "did you mean view.step_size"),
        ("view.step_size > 0.0078", "view.step_size is in grey levels (0-255), got 0.0078; write 2/255 or 2"),
        ("view.step_size > large", "view.step_size is in grey levels, such as 2 or 2/255, got 'large'"),
        ("loss.name > 3", "has no order"),
        ("steps == many", "steps is a number, here 8, got 'many'"),
        ("steps = 8", "compare with =="),
        ("__import__('os').system('true')", "is not SETTING OPERATOR VALUE"),
        ("steps in []", "has an empty value"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(tmp_path, where, said):
    settled(tmp_path)
    with pytest.raises(ValueError) as caught:
        selected(tmp_path, where)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["tomorrow", "6 hours", "2026-13-01", "-1h"])
def test_a_time_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ValueError, match="--since is a date such as"):
        parse_since(text, now=0.0)


def test_a_hostile_value_in_a_config_is_a_word_and_not_a_calculation():
    begun = time.perf_counter()
    assert not parse_condition("model.path == 1").holds("1e999999999")
    assert not parse_condition("model.path == 1").holds("9" * 100_000)
    assert time.perf_counter() - begun < 1


def test_what_a_report_is_about_can_be_handed_to_a_notebook_as_one_path(tmp_path):
    folder = settled(tmp_path / "results")
    selection = parse_selection(where=["view.step_size > 1", "arm in [SaEI, GRPO]"], since="2d", now=time.time())
    path = load.remember(tmp_path, [folder.parent], selection)
    direct = load.load_sweep(folder.parent, "fake", selection=selection)
    again = load.load_sweep(path, "fake")
    assert again.selection_note == direct.selection_note != ""
    pd.testing.assert_frame_equal(again.trials, direct.trials)
    with pytest.raises(ValueError, match=r"neither a results folder nor a selection\.json"):
        load.load_sweep(folder / schema.PLAN_FILE, "fake")


# ---- tables of problems


def test_problems_hold_the_means_of_the_completions(tmp_path):
    small(tmp_path, attacked=True)
    data = load.load_sweep(tmp_path)
    key = ["trial_id", "step", "split", "decoding", "problem_id"]
    rows = data.table("eval")
    oracle = rows.groupby(key)["accuracy"].agg(["size", "sum", "mean"]).reset_index()
    found = data.table("problems").astype(dict.fromkeys(["trial_id", "split", "decoding", "problem_id"], "str"))
    joined = found.merge(oracle, on=key, validate="one_to_one")
    assert len(joined) == len(oracle) == len(found)
    assert joined["samples"].tolist() == joined["size"].tolist()
    assert joined["right"].tolist() == joined["sum"].tolist()
    assert joined["accuracy"].tolist() == pytest.approx(joined["mean"].tolist())
    assert found["tokens"].sum() == rows["tokens"].sum()


def test_entropy_of_a_problem_is_weighted_by_tokens():
    # (0.1 x 10 + 0.4 x 30) / 40 = 0.325 nats
    rows = {"step": [5, 5], "split": ["test"] * 2, "decoding": ["sampled"] * 2, "problem_id": ["a"] * 2}
    rows |= {
        "kind": ["sum"] * 2,
        "figure": ["f"] * 2,
        "accuracy": [1.0, 0.0],
        "tokens": [10, 30],
        "entropy": [0.1, 0.4],
    }
    (row,) = problems.per_problem(pa.table(rows)).to_pylist()
    assert row["entropy"] == pytest.approx(0.325)
    assert (row["samples"], row["right"], row["accuracy"], row["tokens"]) == (2, 1.0, 0.5, 40)


def test_entropies_that_are_not_known_do_not_count_as_zero(tmp_path):
    rows = pd.DataFrame({"arm": list("aaab"), "entropy": [0.1, 0.4, math.nan, math.nan], "tokens": [10, 30, 60, 20]})
    found = problems.mean_entropy(rows, ["arm"])
    assert found["a"] == pytest.approx(0.325) and math.isnan(found["b"])  # (0.1 x 10 + 0.4 x 30) / 40
    data = load.load_sweep(small(tmp_path).parent)
    own = data.table("problems")
    own.loc[own["arm"] == "SaEI", "entropy"] = math.nan
    known = trajectories.evaluations(data).groupby("arm", observed=True)["entropy"].count()
    assert known["GRPO"] > 0 and known["SaEI"] == 0
    for table in (tables.side_figures(data), tables.summary_table(data)):
        empty = table["entropy (nats)"] == cells.EMPTY
        assert set(table.loc[empty, "arm"]) == {"SaEI"} and set(table.loc[~empty, "arm"]) == {"GRPO"}


@pytest.mark.parametrize("decoding", ["sampled", "greedy"])
def test_scores_of_problems_are_scores_of_completions(tmp_path, decoding):
    small(tmp_path)
    data = load.load_sweep(tmp_path)
    for split in ("test", "validation"):
        pd.testing.assert_frame_equal(
            stats.scores(data.table("problems"), split, decoding), stats.scores(data.table("eval"), split, decoding)
        )
    both = [stats.side_figures(data.table(name), ["test", "larger_grid"]) for name in ("problems", "eval")]
    pd.testing.assert_frame_equal(*both)


def test_the_newest_parts_of_some_trials_are_read_alone(tmp_path):
    small(tmp_path)
    data = load.load_sweep(tmp_path)
    chosen = [fake_id("GRPO", 1), fake_id("SaEI", 0)]
    rows = data.table("eval", ["step", "text"], trials=chosen, newest=True)
    # the parts are of steps 0 to 3 and 4 to 8; evaluations are at 0, 2, 4, 6, 8
    assert set(rows["trial_id"]) == set(chosen) and set(rows["step"]) == {4, 6, 8}
    assert set(data.table("eval", ["step", "text"])["step"]) == {0, 2, 4, 6, 8}


def test_problems_of_an_older_run_have_no_figure(tmp_path):
    folder = small(tmp_path)
    for part in (folder / fake_id("SaEI", 1) / "eval").iterdir():
        pq.write_table(pq.read_table(part).drop_columns("figure"), part)
    frame = load.load_sweep(tmp_path).table("problems")
    older = (frame["arm"] == "SaEI") & (frame["seed"] == 1)
    assert older.sum() == len(frame) / 4
    assert frame["figure"].isna().tolist() == older.tolist()


def test_an_unknown_table_names_those_there_are(tmp_path):
    small(tmp_path)
    with pytest.raises(ValueError, match=r"no 'step'; a sweep has steps, views, rollouts, attacks, eval, problems"):
        load.load_sweep(tmp_path).table("step")


# ---- kept tables


@pytest.fixture
def keeping(monkeypatch):
    """Tables are kept whatever they cost; how many runs were read from their parts."""
    monkeypatch.setattr(sweep_tables, "WORTH_PARTS", 1)
    read, original = [], sweep_tables.read_run_table

    def counted(folder, name, columns, **options):
        read.append(folder.name)
        return original(folder, name, columns, **options)

    monkeypatch.setattr(sweep_tables, "read_run_table", counted)
    return read


def test_kept_tables_give_the_frames_that_the_parts_give(tmp_path, keeping):
    folder = small(tmp_path, unfinished={("SaEI", 1): schema.RUNNING})
    fresh = {name: load.load_sweep(tmp_path).table(name) for name in TABLES}
    assert sorted(path.name for path in (folder / "report" / "tables").iterdir()) == [
        "attack_means.arrow", "attacks.arrow", "problems.arrow", "steps.arrow", "views.arrow"
    ]  # fmt: skip
    keeping.clear()
    some = {"steps": ["reward", "step"], "views": ["reward", "step"], "attack_means": ["same", "levels"]}
    for name in ("steps", "views", "attacks", "problems", "attack_means"):
        again = load.load_sweep(tmp_path)
        pd.testing.assert_frame_equal(again.table(name), fresh[name])
        columns = some.get(name, ["problem_id", "step"])
        expected = fresh[name][["state", "arm", "seed", "trial_id", *columns]]
        pd.testing.assert_frame_equal(again.table(name, columns).iloc[:, :6], expected)
    assert set(keeping) == {fake_id("SaEI", 1)}  # it runs: its parts change


def test_a_run_that_changed_is_read_anew(tmp_path, keeping):
    folder = small(tmp_path)
    load.load_sweep(tmp_path).table("steps")
    part = folder / fake_id("GRPO", 1) / "steps" / "part-000000-000003.parquet"
    rows = pq.read_table(part).to_pandas().assign(reward=7.0)
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), part)
    keeping.clear()
    assert (load.load_sweep(tmp_path).table("steps")["reward"] == 7.0).sum() == 4
    assert keeping == [fake_id("GRPO", 1)]
    keeping.clear()
    load.load_sweep(tmp_path).table("steps")
    assert keeping == []


@pytest.mark.parametrize("content", [b"", b"not arrow at all", None])
def test_a_damaged_kept_table_is_made_again(tmp_path, keeping, content):
    folder = small(tmp_path)
    fresh = load.load_sweep(tmp_path).table("steps")
    path = folder / "report" / "tables" / "steps.arrow"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    pd.testing.assert_frame_equal(load.load_sweep(tmp_path).table("steps"), fresh)
    keeping.clear()
    load.load_sweep(tmp_path).table("steps")
    assert keeping == []


def test_small_sweeps_keep_no_tables(tmp_path):
    folder = small(tmp_path)
    load.load_sweep(tmp_path).table("steps")
    assert not (folder / "report").exists()


def test_tables_that_cannot_be_kept_are_read_from_the_parts(tmp_path, keeping):
    folder = small(tmp_path)
    (folder / "report").write_text("a file where the folder would be")
    assert len(load.load_sweep(tmp_path).table("steps")) == 4 * 8


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (schema.STATUS_FILE, '{"step": [], "steps": {}, "message": 7, "heartbeat": "now", "state": null}'),
        (schema.DONE_FILE, '{"finished": "yesterday"}'),
    ],
)
def test_values_of_another_kind_in_a_run_s_papers_are_as_absent(tmp_path, file, text):
    folder = small(tmp_path)
    (folder / fake_id("SaEI", 1) / file).write_text(text)
    trials = load.load_sweep(tmp_path).trials.set_index("trial_id")
    assert trials.loc[fake_id("SaEI", 1), "state"] == schema.FINISHED


def test_json_nested_without_end_is_a_sentence(tmp_path):
    folder = small(tmp_path)
    (folder / fake_id("SaEI", 1) / schema.STATUS_FILE).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="copy it again, restore or delete it"):
        load.load_sweep(tmp_path)


def test_a_trial_of_another_sweep_that_was_not_copied_is_told_with_the_cure(tmp_path):
    folder = small(tmp_path)
    name = fake_id("SaEI", 1)
    shutil.rmtree(folder / name)
    (folder / name).mkdir()
    (folder / name / schema.SAME_AS_FILE).write_text(f"../../other/{name}\n")
    data = load.load_sweep(tmp_path)
    assert data.trials.set_index("trial_id").loc[name, "state"] == "missing"
    assert data.borrowed_note == (
        "1 of 4 trials were run in another sweep, whose rows are not here. "
        f"Of {name}: it is the same as other/{name}, which is not in {tmp_path}: copy that sweep, too."
    )


def test_bytes_that_changed_on_the_way_are_found(tmp_path):
    folder = small(tmp_path)
    (path, *_) = sorted((folder / fake_id("SaEI", 1) / "eval").iterdir())
    parts.write_part(path.parent, *parts.part_ranges(path.parent)[0], pq.read_table(path))
    data = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(0)
    column = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "accuracy")
    data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match="CRC checksum verification failed"):
        load.load_sweep(tmp_path).table("eval")


@pytest.mark.parametrize("sweep", ["a/b", "a/b/"])
def test_a_path_in_place_of_a_name_is_told_apart(tmp_path, sweep):
    small(tmp_path)
    with pytest.raises(ValueError, match="is a path; give the name and its results folder: b --results a"):
        load.load_sweep(tmp_path, sweep)


def test_the_slash_of_a_folder_is_no_part_of_the_name(tmp_path):
    folder = small(tmp_path)
    assert load.load_sweep(tmp_path, f"{folder.name}/").name == folder.name


def test_an_arm_that_is_not_there_is_no_selection(tmp_path):
    small(tmp_path)
    with pytest.raises(ValueError, match=r"the sweep has no arm 'SaIE'; did you mean SaEI\?"):
        load.load_sweep(tmp_path, selection=parse_selection(where=["arm in [GRPO, SaIE]"], now=0.0))
