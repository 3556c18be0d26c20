import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import saei.again
import saei.train
import saei.verify
from saei import schema
from saei.again import changes_since, read_recorded, recorded_command_line, refuse_changes
from saei.cli import BadInput, run_main
from saei.config import Config, with_overrides
from saei.recorder import write_json
from saei.tiny import model_dir
from saei.train import train
from saei.verify import compare_runs, compare_table
from tests.runs import assert_same_run, small_config


@pytest.fixture(scope="module")
def trial(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("sweep") / "trial"
    train(small_config(run, steps=2))
    return run


@pytest.fixture
def copy(trial, tmp_path) -> Path:
    return Path(shutil.copytree(trial, tmp_path / "results" / "sweep" / "copy"))


def change(run: Path, name: str, **fields) -> None:
    path = run / name
    write_json(path, json.loads(path.read_text()) | fields)


def edit_table(run: Path, table: str, edit) -> None:
    part = next((run / table).glob("part-*.parquet"))
    found = pq.read_table(part)
    rows = found.to_pylist()
    edit(rows)
    pq.write_table(type(found).from_pylist(rows, schema=found.schema), part)


def verify(run: Path, *words: str) -> int:
    return run_main(lambda: saei.verify.main([str(run), *words]))


def test_a_trial_that_comes_out_again_is_equal_in_every_row(trial, capsys):
    assert verify(trial) == 0
    shown = capsys.readouterr().out
    assert "came out again, equal in every row" in shown
    # 2 steps, 2 problems, 2 clean and 2 moved completions
    assert any(line.split()[:3] == ["rollouts", "16", "yes"] for line in shown.splitlines())
    assert "not compared (seconds on a clock): time_sample" in shown


def test_a_changed_value_is_found_with_its_row_and_column(copy, tmp_path, capsys):
    def edit(rows):
        rows[3]["reward"] += 1e-12

    edit_table(copy, "rollouts", edit)
    assert verify(copy, "--keep", str(tmp_path / "again")) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "differs in rollouts" in shown and "reward" in shown
    assert f"kept in {tmp_path / 'again'}" in shown and (tmp_path / "again" / schema.DONE_FILE).exists()


def test_a_missing_row_and_another_weight_are_found(trial, copy):
    edit_table(copy, "steps", lambda rows: rows.pop())
    (copy / schema.MODEL_FOLDER / "model.safetensors").write_bytes(b"other")
    found = {one.table: one.difference for one in compare_runs(copy, trial)}
    assert found["steps"] == "step 1: only in the second run"
    assert found["weights"].startswith("model.safetensors: ")
    assert not found["rollouts"] and not found["final scores"] and not found["pictures"]


def test_nan_equals_nan_and_clocks_are_not_compared(trial, copy):
    def edit(rows):
        for row in rows:
            assert row["kl"] != row["kl"], "without a reference policy it is NaN"
            row["time_step"] = -1.0

    edit_table(copy, "steps", edit)
    assert compare_table(trial, copy, "steps").difference == ""


def test_a_folder_that_points_to_its_twin_is_that_twin(trial, tmp_path):
    pointing = tmp_path / "results" / "other" / "trial"
    pointing.mkdir(parents=True)
    (pointing / schema.SAME_AS_FILE).write_text(f"{trial}\n")
    assert read_recorded(pointing).folder == trial


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / schema.DONE_FILE).unlink(), "is not finished (finished, step 2 of 2)"),
        (lambda run: change(run, "config.json", schema_version=99), "has tables of version 99"),
        (lambda run: (run / "config.json").unlink(), "is no run directory"),
        (lambda run: (run / "config.json").write_text("{"), "cannot be read"),
        (lambda run: change(run, "config.json", config={"nonsense": 1}), "settings that this code refuses"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(copy, capsys, damage, said):
    damage(copy)
    assert verify(copy) == 2
    shown = capsys.readouterr().err
    assert said in shown and "Traceback" not in shown


def test_from_runs_the_trial_again_elsewhere(trial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_main(lambda: saei.train.main(["--from", str(trial)])) == 0
    again = tmp_path / "results" / "again" / read_recorded(trial).trial_id
    assert_same_run(again, trial)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "{run}", "--steps", "3"], "takes only --out, got --steps"),
        (["--steps=3", "--from", "{run}"], "takes only --out, got --steps=3"),
        (["--from"], "--from needs a folder"),
        (["--from", "{run}", "--from={run}"], "--from is given twice"),
        (["--from", "/nowhere"], "/nowhere is no run directory"),
    ],
)
def test_from_takes_no_other_settings(trial, words, said):
    with pytest.raises(BadInput) as raised:
        recorded_command_line([word.replace("{run}", str(trial)) for word in words])
    assert said in str(raised.value)


def test_other_initial_weights_are_refused(tmp_path):
    model = Path(shutil.copytree(model_dir(), tmp_path / "model"))
    config = with_overrides(small_config(tmp_path / "run", steps=0), {"model.path": str(model)})
    train(config)
    trial = read_recorded(tmp_path / "run")
    refuse_changes(trial)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    with pytest.raises(BadInput, match=r"initial weights .* are not those that .* began with"):
        refuse_changes(trial)


def test_other_problems_are_refused(copy):
    identity = json.loads((copy / "config.json").read_text())["identity"]
    change(copy, "config.json", identity=identity | {"data": "0" * 64})
    with pytest.raises(BadInput, match=r"the problems .digits. are not those that .*, 000000000000 then"):
        refuse_changes(read_recorded(copy))


def test_a_setting_that_this_code_does_not_have_is_named(copy):
    identity = json.loads((copy / "config.json").read_text())["identity"]
    identity["settings"]["optim"]["lr"] = 0.5
    change(copy, "config.json", identity=identity)
    with pytest.raises(BadInput, match=r"optim.lr \(0.5 there, 0.0001 here\)"):
        refuse_changes(read_recorded(copy))


def test_other_code_is_said_with_the_commands_that_bring_it_back(copy):
    change(copy, "environment.json", git_sha="a" * 40, git_diff="diff", git_untracked=["new.py"], world_size=2)
    said = "\n".join(changes_since(read_recorded(copy)))
    assert "it ran commit aaaaaaaaaaaa" in said
    assert "git worktree add ../saei-aaaaaaaaaaaa aaaaaaaaaaaa && python -c" in said
    assert "git -C ../saei-aaaaaaaaaaaa apply" in said and "not kept: new.py" in said
    assert "2 processes shared it" in said


def test_the_snapshot_that_cluster_jobs_ran_is_named(copy):
    code = {"git_sha": "a" * 40, "git_diff": "diff", "git_untracked": []}
    change(copy, "environment.json", **code)
    snapshot = copy.parent.parent / ".code" / "aaaaaaaaaaaa-12345678"
    snapshot.mkdir(parents=True)
    write_json(snapshot / "SNAPSHOT.json", code)
    assert f"Its code lies in {snapshot}" in "\n".join(changes_since(read_recorded(copy)))


def test_other_package_versions_are_said(copy):
    packages = json.loads((copy / "environment.json").read_text())["packages"]
    change(copy, "environment.json", packages=packages | {"torch": "1.0"})
    assert any("torch 1.0 then" in line for line in changes_since(read_recorded(copy)))


def test_the_second_run_tells_no_tracker(copy, monkeypatch):
    seen: list[Config] = []

    def no_training(config: Config) -> None:
        seen.append(config)
        raise BadInput("enough")

    tree = json.loads((copy / "config.json").read_text())
    tree["config"]["record"]["trackers"] = ["tensorboard"]
    write_json(copy / "config.json", tree)
    monkeypatch.setattr(saei.verify, "train", no_training)
    assert verify(copy) == 2
    assert seen[0].record.trackers == () and seen[0].out != str(copy)
