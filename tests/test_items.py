import pytest

from analysis import load
from analysis.items import ITEM_COLUMNS, paired_items
from saei import schema
from tests.fake_results import fake_id, write_sweep


def test_items_are_paired_by_seed_and_problem_at_the_last_step(tmp_path):
    # exactly the first 4 of 2 problems x 4 completions are right for SaEI: problem 0 all, problem 1 none
    write_sweep(
        tmp_path, arms={"GRPO": 0.1, "SaEI": 0.2}, seeds=2, problems=2, samples=4, leave_out=[("GRPO", 1)],
        right={"GRPO": [1, 0], "SaEI": [4, 4]},
    )  # fmt: skip
    data = load.load_sweep(tmp_path)
    frame = paired_items(data, "SaEI", "GRPO")
    assert tuple(frame) == ITEM_COLUMNS and list(frame["seed"]) == [0, 0]  # seed 1 has no partner
    assert list(frame["arm_accuracy"]) == [1.0, 0.0] and list(frame["against_accuracy"]) == [0.25, 0.0]
    assert set(frame["arm_greedy"]) | set(frame["against_greedy"]) <= {0.0, 1.0}
    assert list(frame["figure"]) == list(frame["problem_id"])  # none recorded: each its own cluster


def test_no_finished_pair_is_an_empty_frame_with_the_columns(tmp_path):
    write_sweep(tmp_path, unfinished={("SaEI", seed): schema.RUNNING for seed in range(3)})
    frame = paired_items(load.load_sweep(tmp_path), "SaEI", "GRPO")
    assert frame.empty and tuple(frame) == ITEM_COLUMNS


def test_items_of_different_problems_are_not_paired(tmp_path):
    write_sweep(tmp_path, problems=3, seeds=1)
    write_sweep(tmp_path / "other", problems=4, seeds=1)
    mine, theirs = (folder / "fake" / fake_id("SaEI", 0) / "eval" for folder in (tmp_path, tmp_path / "other"))
    for part in mine.iterdir():
        part.write_bytes((theirs / part.name).read_bytes())
    with pytest.raises(ValueError, match="seed 0: only one has test-003"):
        paired_items(load.load_sweep(tmp_path, "fake"), "SaEI", "GRPO")
