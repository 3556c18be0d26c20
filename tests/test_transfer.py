"""Other domains and attacked images in the evaluation: which sets, which attacker, what the rows say."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from saei import evaluate, robustness
from saei.cli import run_main
from saei.config import Config, DataConfig, EvalConfig, ModelConfig, RolloutConfig, SelectConfig, ViewConfig
from saei.data import load_problems
from saei.data.transfer import transfer_fingerprints, transfer_sets
from saei.evaluate import evaluate_split, evaluation_means, first_problems
from saei.policy import Policy, load_policy
from saei.reward import Scorer
from saei.robustness import (
    ATTACKS,
    attacked_images,
    attacker_config,
    check_attacks,
    clean_completions,
    evaluate_under_attacks,
    interval,
)
from sweeps.definition import load_sweep
from sweeps.transfer import transfer_entries

COMPARED = ("decoding", "problem_id", "index", "text", "tokens", "accuracy", "entropy")


def folder_of_questions(folder: Path, answer: str = "circle") -> Path:
    """A set with a test split only, as easy-VQA's folder of real data has no validation split."""
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64), (200, 40, 40)).save(folder / "a.png")
    row = {
        "id": "q1",
        "image": "a.png",
        "question": "what shape is this?",
        "choices": None,
        "answer": answer,
        "answer_type": "text",
    }
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def config_for(*entries: str) -> Config:
    return Config(eval=EvalConfig(transfer=entries))


def test_transfer_sets_are_named_by_source_or_folder_and_can_be_loaded(tmp_path):
    folder = folder_of_questions(tmp_path / "easy_vqa")
    sets = transfer_sets(config_for("shapes/test", "shapes/outlined", f"local/test/{folder}"))
    assert list(sets) == ["shapes/test", "shapes/outlined", "easy_vqa/test"]
    (problem,) = load_problems(*sets["easy_vqa/test"])
    assert (problem.problem_id, problem.answer, problem.answer_type) == ("q1", "circle", "text")
    assert load_problems(*sets["shapes/outlined"])[0].problem_id == "shapes-outlined-0-00000"


def test_transfer_sets_keep_the_runs_image_limits_and_texts():
    config = replace(config_for("shapes/test"), data=DataConfig(max_pixels=7056, prompt_suffix=" Be brief."))
    data, split = transfer_sets(config)["shapes/test"]
    assert (data.source, split, data.max_pixels, data.prompt_suffix) == ("shapes", "test", 7056, " Be brief.")


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("shape/test", r"names the source 'shape'; sources: digits, shapes, local"),
        ("shapes/tset", r"'shapes/tset' cannot be loaded: .*splits train, .*got 'tset'"),
        ("shapes/test/somewhere", r"should read shapes/SPLIT, without a folder"),
        ("local/test", r"should read local/SPLIT/FOLDER"),
        ("local/test/no/such/folder", r"cannot be loaded: data.path must be a folder"),
    ],
)
def test_a_transfer_set_that_is_not_there_is_refused_in_a_sentence(entry, sentence):
    with pytest.raises(ValueError, match=sentence):
        transfer_sets(config_for(entry))


def test_two_transfer_sets_of_one_name_are_refused(tmp_path):
    first, second = (folder_of_questions(tmp_path / side / "easy_vqa") for side in ("one", "two"))
    with pytest.raises(ValueError, match="second set called easy_vqa/test"):
        transfer_sets(config_for(f"local/test/{first}", f"local/test/{second}"))


def test_transfer_fingerprints_follow_content_and_not_the_place(tmp_path):
    first, copy = (folder_of_questions(tmp_path / side / "easy_vqa") for side in ("one", "two"))
    other = folder_of_questions(tmp_path / "three" / "easy_vqa", answer="square")
    found = [transfer_fingerprints(config_for(f"local/test/{folder}")) for folder in (first, copy, other)]
    assert found[0] == found[1] != found[2]
    assert found[0].keys() == {"easy_vqa/test"}
    Image.new("RGB", (64, 64), (0, 0, 0)).save(copy / "a.png")
    assert transfer_fingerprints(config_for(f"local/test/{copy}")) != found[0]


def test_the_transfer_sweep_leaves_easy_vqa_out_where_its_folder_is_absent(tmp_path, caplog):
    assert not any("local" in entry for entry in transfer_entries(tmp_path / "easy_vqa"))
    assert "set SAEI_DATA" in caplog.text
    folder = folder_of_questions(tmp_path / "easy_vqa")
    assert transfer_entries(folder)[-1] == f"local/test/{folder}"


def test_the_robustness_sweep_names_attacks_and_levels_that_exist():
    base = load_sweep("robustness").base
    check_attacks(base["eval.attacks"], base["eval.attack_levels"])
    assert set(base["eval.attacks"]) == set(ATTACKS) and base["eval.attack_levels"][0] == 0


@pytest.mark.parametrize(
    ("attacks", "levels", "sentence"),
    [
        (("egsa",), (2.0,), "any of egas, random_sign, gaussian, error, got 'egsa'"),
        (("noise",), (2.0,), "other views have no size in grey levels"),
        (("egas", "egas"), (2.0,), "names an entry twice"),
        (("egas",), (2.0, 2.0), "names an entry twice"),
        (("egas",), (), "attack_levels is empty"),
        (("error",), (0.5,), "0 or at least 1"),
    ],
)
def test_attacks_that_could_not_be_carried_out_are_refused(attacks, levels, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_attacks(attacks, levels)


def test_the_attacker_is_the_same_whatever_the_policy_was_trained_with():
    trained = [
        Config(eval=EvalConfig(samples=4)),
        Config(
            eval=EvalConfig(samples=4),
            rollout=RolloutConfig(n_clean=12, n_view=0, temperature=0.7, top_p=0.9),
            view=ViewConfig(step_size=8.0, direction="descend", norm="l2"),
            select=SelectConfig(rule="all"),
        ),
    ]
    first, second = (attacker_config(config, "egas", 4.0) for config in trained)
    assert first == second
    assert (first.view, first.select) == (ViewConfig(name="egas", step_size=4.0), SelectConfig())
    # PGD: five steps of a quarter of the ball, of at least one level, inside the ball; nothing at size 0
    sizes = [attacker_config(trained[0], "error", level).view for level in (0.0, 1.0, 2.0, 16.0)]
    assert [(v.step_size, v.epsilon, v.iterations) for v in sizes] == [(0, 0, 5), (1, 1, 5), (1, 2, 5), (4, 16, 5)]


SETTINGS = Config(
    eval=EvalConfig(samples=3, attacks=tuple(ATTACKS), attack_levels=(0.0, 4.0), attack_problems=2),
    rollout=RolloutConfig(max_new_tokens=32),
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(ModelConfig(), DataConfig())


@pytest.fixture(scope="module")
def rows(policy) -> tuple[list[dict], list[dict]]:
    """Clean rows of three problems, and those under every attack."""
    problems = first_problems(load_problems(DataConfig(), "test"), 3)
    with Scorer(SETTINGS.reward) as scorer:
        clean = evaluate_split(policy, scorer, problems, SETTINGS, split="test", step=7)
        return clean, evaluate_under_attacks(policy, scorer, problems, SETTINGS, 7)


def test_an_attack_of_level_zero_is_the_clean_evaluation_and_a_larger_one_is_not(rows):
    clean, attacked = rows
    both = {row["problem_id"] for row in attacked}
    assert len(both) == 2  # eval.attack_problems, the first of the three
    wanted = [{name: row[name] for name in COMPARED} for row in clean if row["problem_id"] in both]
    for attack in ATTACKS:
        own = [row for row in attacked if row["split"] == f"test@{attack}:0"]
        # two problems and three are other heights of a batch, whose rows agree to rounding only
        for row, expected in zip(own, wanted, strict=True):
            assert {name: row[name] for name in COMPARED} == expected | {
                "entropy": pytest.approx(expected["entropy"], abs=1e-5)
            }
        moved = [row for row in attacked if row["split"] == f"test@{attack}:4"]
        assert [row["entropy"] for row in moved] != [row["entropy"] for row in own]


def test_attacked_rows_fill_the_eval_table_once_each(rows):
    attacked = rows[1]
    # 4 attacks, 2 levels, 2 problems, 3 sampled completions and a greedy one
    assert len(attacked) == 4 * 2 * 2 * (3 + 1)
    assert len({(r["split"], r["decoding"], r["problem_id"], r["index"]) for r in attacked}) == len(attacked)
    assert {row["step"] for row in attacked} == {7}
    means = evaluation_means(attacked)
    assert len(means) == 4 * 2 * 2
    one = [r["accuracy"] for r in attacked if r["split"] == "test@error:4" and r["decoding"] == "sampled"]
    assert {"step": 7, "split": "test@error:4", "decoding": "sampled", "accuracy": sum(one) / 6} in means


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacked_images_stay_within_their_size_and_the_policy_gets_no_gradient(policy, attack):
    problems = first_problems(load_problems(DataConfig(), "test"), 2)
    with Scorer(SETTINGS.reward) as scorer:
        progress = clean_completions(policy, scorer, problems, SETTINGS)
    lengths = []
    for level in (2.0, 8.0):
        images, ledger = attacked_images(policy, progress, attack, level, SETTINGS)
        moves = [
            (moved[0].to(torch.int16) - prompt.images[0].to(torch.int16)).abs()
            for moved, prompt in zip(images, progress.prompts, strict=True)
        ]
        if attack != "gaussian":  # noise of EgAS's L2 has no largest pixel
            assert max(int(move.max()) for move in moves) == level
        assert [row.problem_id for row in ledger] == [problem.problem_id for problem in problems]
        lengths.append(np.mean([row.l2 for row in ledger]))
    assert lengths[1] > 2 * lengths[0] > 0
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_intervals_are_over_problems():
    # mean 0.5, sd of (0, 0.5, 1) is 0.5: 1.96 * 0.5 / sqrt(3) = 0.566
    mean, half = interval([0.0, 0.5, 1.0])
    assert mean == 0.5 and half == pytest.approx(0.5658, abs=1e-4)
    assert math.isnan(interval([1.0])[1])


def test_the_robustness_command_prints_a_table_and_writes_the_rows(tmp_path, capsys):
    out = tmp_path / "new" / "rows.parquet"
    words = "--attacks egas --levels 0 4 --problems 2 --samples 2 --rollout.max-new-tokens 24 --data.test-split train"
    assert run_main(lambda: robustness.main([*words.split(), "--out", str(out)])) == 0
    printed = capsys.readouterr().out
    assert "2 problems of digits/train" in printed
    assert [line.split()[1:4:2] for line in printed.splitlines() if "egas" in line] == [["egas", "0"], ["egas", "4"]]
    table = pd.read_parquet(out)
    assert table["split"].unique().tolist() == ["train@egas:0", "train@egas:4"] and len(table) == 2 * 2 * 3


def test_the_commands_refuse_a_run_folder_and_name_its_model(tmp_path, capsys):
    (tmp_path / "status.json").write_text("{}")
    for command in (evaluate.main, robustness.main):
        assert run_main(lambda command=command: command(["--model", str(tmp_path)])) == 2
        assert "it has no model yet" in capsys.readouterr().err
    (tmp_path / "model").mkdir()
    assert run_main(lambda: evaluate.main(["--model", str(tmp_path)])) == 2
    assert f"--model {tmp_path / 'model'}" in capsys.readouterr().err


def test_the_evaluation_command_reads_shapes(capsys):
    words = "--data.source shapes --data.test-split outlined --problems 2 --samples 2 --rollout.max-new-tokens 8"
    assert run_main(lambda: evaluate.main(words.split())) == 0
    printed = capsys.readouterr().out
    assert "2 problems of shapes/outlined" in printed and "outlined/mean@2" in printed
