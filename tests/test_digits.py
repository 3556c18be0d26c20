"""The embedded problem source: what is drawn, what is asked, and what the splits share."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from saei.config import DataConfig
from saei.data import fingerprint, load_problems, shifted_splits
from saei.data.digits import (
    KINDS,
    SHIFTED,
    SPLITS,
    GridTask,
    answer_of,
    draw,
    enlargement,
    load_scans,
    question_of,
    scan_numbers,
    task_at,
)
from saei.seeding import stream

GRID = np.array([[3, 8, 1], [7, 7, 0], [9, 2, 7]])


def task(kind: str, *where: object) -> GridTask:
    return GridTask(scans=np.zeros((3, 3), dtype=np.int64), digits=GRID, kind=kind, where=where)


@pytest.mark.parametrize(
    ("made", "question", "answer"),
    [
        # 3 8 1 / 7 7 0 / 9 2 7, by hand
        (task("sum", "row", 1), "What is the sum of row 1?", "12"),
        (task("sum", "column", 3), "What is the sum of column 3?", "8"),
        (task("largest", "row", 3), "What is the largest digit in row 3?", "9"),
        (task("largest", "column", 2), "What is the largest digit in column 2?", "8"),
        (task("count", 7), "How many cells show 7?", "3"),
        (task("count", 5), "How many cells show 5?", "0"),
        (task("difference", (1, 3), (3, 1)), "What is row 1 column 3 minus row 3 column 1?", "-8"),
        (task("comparison", (1, 2), (2, 1)), "Is row 1 column 2 larger than row 2 column 1?", "yes"),
        (task("comparison", (2, 3), (1, 3)), "Is row 2 column 3 larger than row 1 column 3?", "no"),
        (task("comparison", (2, 1), (2, 2)), "Is row 2 column 1 larger than row 2 column 2?", "equal"),
        (task("pair_sum", (1, 2), (3, 1)), "What is the sum of row 1 column 2 and row 3 column 1?", "17"),
    ],
)
def test_questions_and_answers_are_those_worked_out_by_hand(made: GridTask, question: str, answer: str):
    assert question_of(made) == question
    assert answer_of(made) == answer


def test_the_scans_are_those_that_scikit_learn_loads():
    images, digits = load_scans()
    known: Any = load_digits()
    assert np.array_equal(images, known["images"]) and np.array_equal(digits, known["target"])


def test_no_scan_is_in_two_of_train_validation_and_test_and_none_is_left_out():
    train, validation, test = (set(scan_numbers(name).tolist()) for name in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (1200, 250, 347)
    assert train | validation | test == set(range(1797))


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_draws_on_its_own_scans_whatever_the_seed(split: str):
    allowed = set(scan_numbers(split if split in ("train", "validation", "test") else "test").tolist())
    for seed in (0, 7):
        used = {int(scan) for index in range(40) for scan in task_at(split, index, seed).scans.flat}
        assert used <= allowed


def test_a_problem_depends_on_split_index_and_seed_and_nothing_else():
    data = DataConfig()
    first, again = load_problems(data, "train")[5], load_problems(replace(data, train_size=6), "train")[5]
    assert first.question == again.question
    np.testing.assert_array_equal(first.images[0], again.images[0])
    pictures = {
        load_problems(replace(data, seed=seed), split)[index].images[0].tobytes()
        for seed in (0, 1)
        for split in ("train", "test")
        for index in (0, 1)
    }
    assert len(pictures) == 8


def test_the_sum_asked_for_is_the_sum_of_the_scans_labels():
    labels = load_scans()[1]
    seen = 0
    for index in range(60):
        made = task_at("validation", index, 0)
        if made.kind == "sum" and made.where[0] == "row":
            seen += 1
            expected = sum(int(labels[scan]) for scan in made.scans[made.where[1] - 1])
            assert load_problems(DataConfig(), "validation")[index].answer == str(expected)
    assert seen >= 3


def test_pictures_are_grey_three_by_three_cells_within_32_and_223():
    problems = load_problems(DataConfig(), "train")
    for index in range(20):
        (picture,) = problems[index].images
        assert picture.shape == (84, 84, 3)
        assert picture.min() >= 32
        assert picture.max() <= 223
        assert (picture[..., 0] == picture[..., 2]).all()
    assert max(problems[index].images[0].max() for index in range(20)) == 223


def test_enlarging_keeps_constants_and_the_brightness_of_the_scan():
    # each row of the interpolation sums to one, so a scan of level 16 is a cell of level 16
    np.testing.assert_allclose(enlargement().sum(axis=1), 1.0)
    np.testing.assert_allclose(enlargement().sum(axis=0).sum(), 28.0)


def test_shifted_sets_change_what_their_names_say():
    data = DataConfig()
    assert shifted_splits(data) == SHIFTED == ("larger_grid", "unseen_question", "rotated", "low_contrast", "noise")
    assert shifted_splits(replace(data, shifted_splits=("noise",))) == ("noise",)
    plain = load_problems(data, "test")[3]
    assert load_problems(data, "larger_grid")[3].images[0].shape == (112, 112, 3)
    kinds = {load_problems(data, "unseen_question")[index].kind for index in range(10)}
    assert kinds.isdisjoint(KINDS)
    for name in ("rotated", "low_contrast", "noise"):
        moved = load_problems(data, name)[3]
        assert (moved.question, moved.answer) == (plain.question, plain.answer)
        assert (moved.images[0] != plain.images[0]).any()
    # 127.5 + 0.4 * (level - 127.5) for levels 32..223: 89.3..165.7
    low = load_problems(data, "low_contrast")[3].images[0]
    assert low.min() >= 89 and low.max() <= 166
    same_noise = draw(task_at("noise", 3, 0), "noise", stream(0, "data", "digits picture", "noise", 3))
    np.testing.assert_array_equal(load_problems(data, "noise")[3].images[0], same_noise)


def test_sizes_come_from_the_settings_and_negative_indices_count_from_the_end():
    data = DataConfig(train_size=7, validation_size=3, test_size=4, shifted_size=2)
    assert [len(load_problems(data, name)) for name in ("train", "validation", "test", "noise")] == [7, 3, 4, 2]
    assert load_problems(data, "train")[-1].problem_id == load_problems(data, "train")[6].problem_id
    assert len({problem.problem_id for problem in load_problems(data, "train")}) == 7
    with pytest.raises(IndexError, match="problem 7"):
        load_problems(data, "train")[7]


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(ValueError, match=r"has the splits train, .*got 'tset'"):
        load_problems(DataConfig(), "tset")


def test_the_fingerprint_follows_what_determines_the_problems():
    data = DataConfig()
    assert fingerprint(data) == fingerprint(replace(data, max_pixels=10_000, system_prompt="x"))
    changed = [replace(data, seed=1), replace(data, train_size=100), replace(data, shifted_size=5)]
    assert len({fingerprint(data), *(fingerprint(each) for each in changed)}) == 4
    assert len(fingerprint(data)) == 64
