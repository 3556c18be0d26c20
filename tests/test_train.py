import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from saei import evaluate, schema
from saei.cli import run_main
from saei.config import with_overrides
from saei.environment import environment
from saei.evaluate import pass_at_k, scores
from saei.identity import trial_id
from saei.probe import run as probe
from saei.recorder import write_json
from saei.tiny import model_dir
from saei.train import train
from saei.update import learning_rate
from tests.runs import assert_same_run, frame, small_config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "run"
    train(small_config(folder))
    return folder


def test_a_run_leaves_the_directory_that_the_design_names(run):
    for name in ("config.json", "environment.json", "data_card.json", "status.json", "log.txt", "DONE"):
        assert (run / name).is_file(), name
    assert json.loads((run / "status.json").read_text())["state"] == schema.FINISHED
    assert json.loads((run / "config.json").read_text())["trial_id"] == trial_id(small_config(run))
    assert set(json.loads((run / "environment.json").read_text())["packages"]) >= {"torch", "transformers"}
    assert (run / "model" / "model.safetensors").is_file()


def test_tables_have_the_columns_of_the_schema_and_unique_keys(run):
    for table, columns in schema.TABLES.items():
        for part in (run / table).iterdir():
            assert list(pd.read_parquet(part).columns) == list(columns)
        assert not frame(run, table).duplicated(list(schema.KEYS[table])).any()
    assert frame(run, "steps")["step"].tolist() == [0, 1, 2, 3]
    # 4 steps, 2 problems, 2 clean + 2 moved completions
    assert len(frame(run, "rollouts")) == 4 * 2 * 4
    assert len(frame(run, "attacks")) == 4 * 2


def test_the_ledger_shows_two_levels_and_the_entropy_it_moved(run):
    attacks = frame(run, "attacks")
    assert attacks.loc[attacks["moved"], "linf"].round(9).eq(round(2 / 255, 9)).all()
    assert attacks["moved"].any()
    assert (attacks["tokens_kept"] < attacks["tokens_total"]).all()


def test_fresh_gain_is_measured_every_other_step_as_configured(run):
    assert frame(run, "steps")["fresh_gain"].notna().tolist() == [True, False, True, False]


def test_moved_completions_saw_another_image_and_their_old_logprobs_the_clean_one(run):
    rollouts = frame(run, "rollouts").groupby(["step", "problem_id"])["image_hash"].nunique()
    moved = frame(run, "attacks").set_index(["step", "problem_id"])["moved"]
    assert (rollouts == 1 + moved.reindex(rollouts.index).astype(int)).all()
    views = frame(run, "views").set_index("view")
    # clean completions: the sampler and the scorer are the same numbers; moved ones: another image
    assert views.loc["clean", "view_gap"].abs().max() < 1e-4
    assert views.loc["egas", "view_gap"].abs().max() > 1e-4


def test_advantages_of_a_group_sum_to_zero(run):
    sums = frame(run, "rollouts").groupby(["step", "problem_id"])["advantage"].sum()
    assert sums.abs().max() < 1e-6


def test_two_updates_a_step_are_counted(run):
    assert frame(run, "steps")["updates"].tolist() == [2, 4, 6, 8]


def test_the_same_settings_and_seed_give_the_same_run(tmp_path, run):
    train(small_config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", run)


def test_a_finished_run_is_not_trained_again(run):
    before = (run / "DONE").stat().st_mtime_ns
    train(small_config(run))
    assert (run / "DONE").stat().st_mtime_ns == before


def test_saei_with_step_zero_samples_what_grpo_samples(tmp_path):
    # float64, so that the two batchings cannot differ in the last bit; one step, so that weights are equal
    overrides = {"steps": 1, "model__dtype": "float64", "eval__every": 0}
    train(small_config(tmp_path / "zero", "step_zero", **overrides))
    train(small_config(tmp_path / "grpo", "grpo", **overrides))
    columns = ["problem_id", "index", "text", "reward", "advantage", "image_hash"]
    ours, theirs = (
        frame(tmp_path / name, "rollouts").sort_values(["problem_id", "index"]) for name in ("zero", "grpo")
    )
    pd.testing.assert_frame_equal(ours[columns].reset_index(drop=True), theirs[columns].reset_index(drop=True))
    assert not frame(tmp_path / "zero", "attacks")["moved"].any()


def test_training_as_sampled_conditions_old_logprobs_on_the_moved_image(tmp_path):
    train(small_config(tmp_path, loss__train_view="as_sampled", steps=1, eval__every=0))
    assert frame(tmp_path, "views")["view_gap"].abs().max() < 1e-4


def test_a_reference_policy_gives_a_kl_that_starts_at_zero(tmp_path):
    train(small_config(tmp_path, "grpo", loss__kl_coef=0.1, steps=2, eval__every=0))
    kl = frame(tmp_path, "steps")["kl"]
    # half of the first step's completions are scored before any update, the others after one
    assert 0 <= kl[0] < 1e-3 and kl.notna().all()


def test_the_learning_rate_warms_up_and_decays_by_formula(tmp_path):
    config = with_overrides(
        small_config(tmp_path),
        {"steps": 12, "optim.warmup_steps": 2, "optim.schedule": "cosine", "optim.lr": 3.0},
    )
    # warm-up 3 * 1/3, 3 * 2/3; then cosine over 10 steps: half-way (step 7) is 3 * 0.5
    assert [learning_rate(step, config) for step in (0, 1, 2)] == pytest.approx([1.0, 2.0, 3.0])
    assert learning_rate(7, config) == pytest.approx(1.5)


def test_where_model_and_data_lie_does_not_enter_the_trial(tmp_path):
    copies = [tmp_path / name for name in ("one", "two")]
    for copy in copies:
        shutil.copytree(model_dir(), copy)
    ids = {trial_id(with_overrides(small_config(tmp_path), {"model.path": str(copy)})) for copy in copies}
    assert len(ids) == 1
    (copies[1] / "config.json").write_text((copies[1] / "config.json").read_text() + " ")  # other content
    assert trial_id(with_overrides(small_config(tmp_path), {"model.path": str(copies[1])})) not in ids


def test_the_environment_of_every_launch_is_kept(tmp_path):
    path = tmp_path / "environment.json"
    for _ in range(3):
        write_json(path, environment("cpu", path))
    tree = json.loads(path.read_text())
    assert len(tree["earlier"]) == 2
    assert tree["earlier"][0]["git_sha"] == tree["git_sha"] and "earlier" not in tree["earlier"][0]


def test_pass_at_k_by_hand():
    # 4 samples, 1 right, k = 2: 1 - C(3,2)/C(4,2) = 1 - 3/6
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 3, 2) == 1.0


def test_scores_of_four_graded_completions():
    base = {"step": 0, "split": "test", "kind": "", "format": 1.0, "finished": True}
    rows = [
        base | {"decoding": "sampled", "problem_id": p, "index": i, "accuracy": a, "tokens": t, "entropy": h}
        for p, i, a, t, h in [
            ("a", 0, 1.0, 10, 0.2),
            ("a", 1, 0.0, 10, 0.2),
            ("b", 0, 0.0, 20, 0.5),
            ("b", 1, 0.0, 20, 0.5),
        ]
    ]
    rows += [base | {"decoding": "greedy", "problem_id": p, "index": 0, "accuracy": a, "tokens": 9, "entropy": 9.0}
             for p, a in (("a", 1.0), ("b", 1.0))]  # fmt: skip
    result = scores(rows)
    # 1 of 4 sampled right; a solved within 2, b not; entropy (10*.2*2 + 20*.5*2) / 60
    assert result["test/mean@2"] == 0.25
    assert result["test/pass@2"] == 0.5
    assert result["test/greedy"] == 1.0
    assert result["test/entropy"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "saie"], "did you mean saei?"),
        (["--data.source", "local", "--data.path", "/nowhere"], "/nowhere"),
        (["--model.path", "/nowhere/model"], "/nowhere/model"),
        (["--select.rule", "midle"], "select.rule is one of"),
        (["--out", "/dev/null/run"], "choose another --out"),
        (["--data.test-split", "tset"], "has the splits train, validation, test"),
    ],
)
def test_bad_input_ends_with_code_2_and_a_sentence(tmp_path, arguments, said):
    command = [sys.executable, "-m", "saei.train", "--steps", "1", "--out", str(tmp_path / "run"), *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run" / "config.json").exists()  # nothing that would refuse the corrected command


@pytest.mark.parametrize("arguments", [["--chunk", "0"], ["--step-sizes", "0.01"], ["--problems", "-1"]])
def test_a_probe_refuses_bad_settings_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        probe.main(arguments)
    assert left.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--seed", "-1"], ["--rollout.n-clean", "0"]])
def test_an_evaluation_refuses_bad_settings_with_code_2(arguments, capsys):
    assert run_main(lambda: evaluate.main(arguments)) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grpo_lifts_validation_mean_at_8(tmp_path, seed):
    config = with_overrides(
        small_config(tmp_path, "grpo"),
        {
            "steps": 150, "seed": seed, "rollout.problems_per_step": 8, "rollout.n_clean": 12, "eval.every": 0,
            "rollout.max_new_tokens": 64, "data.train_size": 20000, "eval.problems": 256, "eval.samples": 8,
        },
    )  # fmt: skip
    before = train(with_overrides(config, {"steps": 0, "out": str(tmp_path / "before")}))
    after = train(with_overrides(config, {"out": str(tmp_path / "after")}))
    assert after["validation/mean@8"] - before["validation/mean@8"] >= 0.08
