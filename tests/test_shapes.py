"""The drawn problem source: what is asked, what is drawn, and what the splits share."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from saei.config import DataConfig, ModelConfig
from saei.data import fingerprint, load_problems, shifted_splits
from saei.data.shapes import (
    BACKGROUND,
    CELL,
    FORMS,
    KINDS,
    LARGEST_RADIUS,
    PALETTE,
    SHIFTED,
    SPLITS,
    Shape,
    ShapesTask,
    answer_of,
    draw,
    question_of,
    reach,
    task_at,
)
from saei.policy import load_policy

SHAPES = DataConfig(source="shapes")


def shape(form: str, colour: str, radius: float = 5.0, centre: tuple[float, float] = (42.0, 42.0)) -> Shape:
    return Shape(form=form, colour=colour, radius=radius, centre=centre)


FOUR = (shape("circle", "red"), shape("circle", "blue", 9.0), shape("square", "red"), shape("triangle", "green"))


@pytest.mark.parametrize(
    ("kind", "asked", "question", "answer"),
    [
        # two circles (red, blue), a red square, a green triangle; the blue circle is the largest
        ("count_form", ("circle",), "How many circles are there?", "2"),
        ("count_colour", ("yellow",), "How many yellow shapes are there?", "0"),
        ("more", ("red", "blue"), "Are there more red shapes than blue ones?", "yes"),
        ("more", ("blue", "green"), "Are there more blue shapes than green ones?", "no"),  # one each
        ("largest_form", (), "Which shape is largest?", "circle"),
        ("largest_colour", (), "What colour is the largest shape?", "blue"),
    ],
)
def test_questions_and_answers_are_those_worked_out_by_hand(kind, asked, question, answer):
    made = ShapesTask(shapes=FOUR, kind=kind, asked=asked)
    assert (question_of(made), answer_of(made)) == (question, answer)


@pytest.mark.parametrize("outlined", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_shape_is_drawn_in_its_colour_inside_its_cell_and_anti_aliased(form, outlined):
    task = ShapesTask(shapes=(shape(form, "red", LARGEST_RADIUS, (42.4, 41.7)),), kind="largest_form")
    picture = draw(task, outlined=outlined).astype(int)
    inked = (picture != BACKGROUND).any(axis=2)
    assert not inked[:CELL].any() and not inked[2 * CELL :].any()
    assert not inked[:, :CELL].any() and not inked[:, 2 * CELL :].any()
    full = (picture == PALETTE["red"]).all(axis=2)
    assert full.any() and (inked & ~full).any()  # pure colour, and mixed pixels on the edge
    assert full[42, 42] != outlined
    if not outlined:
        # all forms have the area of the circle: pi * 9^2 = 254.5; share of ink in every pixel, summed. Pillow's
        # shapes include their last row and column of the 4x canvas: about a quarter of a pixel more on each axis
        share = (BACKGROUND[0] - picture[..., 0]) / (BACKGROUND[0] - PALETTE["red"][0])
        assert share.sum() == pytest.approx(254.5, rel=0.04)


def test_shapes_never_meet_and_one_is_clearly_the_largest():
    for split in ("train", "more_shapes"):
        for index in range(60):
            task = task_at(split, index, 0)
            assert SPLITS[split].fewest <= len(task.shapes) <= SPLITS[split].most
            first, second = sorted((each.radius for each in task.shapes), reverse=True)[:2]
            assert first**2 >= 1.6 * second**2  # of areas: 81 / 49 = 1.65
            cells = set()
            for each in task.shapes:
                x, y = each.centre
                cells.add((int(x // CELL), int(y // CELL)))
                for value in (x, y):
                    assert value % CELL - reach(each.radius) >= 0.4
                    assert value % CELL + reach(each.radius) <= CELL - 0.4
            assert len(cells) == len(task.shapes)


@pytest.mark.parametrize("split", ["train", *SHIFTED])
def test_no_answer_is_more_than_a_fifth_of_all_and_every_kind_is_asked(split):
    tasks = [task_at(split, index, 0) for index in range(1200)]
    answers = Counter(answer_of(task) for task in tasks)
    assert answers.most_common(1)[0][1] <= 240
    assert len(answers) >= 12
    assert {task.kind for task in tasks} == set(KINDS)
    # of yes and no, and of the forms, none prevails
    for several in (("yes", "no"), FORMS):
        counts = [answers[each] for each in several]
        assert max(counts) < 1.5 * min(counts)


def test_a_problem_depends_on_split_index_and_seed_and_nothing_else():
    first, again = load_problems(SHAPES, "train")[5], load_problems(replace(SHAPES, train_size=6), "train")[5]
    assert (first.question, first.answer) == (again.question, again.answer)
    np.testing.assert_array_equal(first.images[0], again.images[0])
    pictures = {
        load_problems(replace(SHAPES, seed=seed), split)[index].images[0].tobytes()
        for seed in (0, 1)
        for split in ("train", "validation", "test", "more_shapes", "other_colours")
        for index in (0, 1)
    }
    assert len(pictures) == 2 * 5 * 2


def test_pictures_leave_an_attack_of_32_levels_room_on_both_sides():
    for split in ("train", "other_colours"):
        levels = np.stack([problem.images[0] for problem in load_problems(SHAPES, split)[:20]])
        assert levels.shape == (20, 84, 84, 3)
        assert levels.min() >= 32 and levels.max() <= 223


def test_shifted_sets_change_what_their_names_say():
    assert shifted_splits(SHAPES) == SHIFTED == ("more_shapes", "other_colours", "outlined")
    usual = {each.colour for index in range(40) for each in task_at("test", index, 0).shapes}
    other = {each.colour for index in range(40) for each in task_at("other_colours", index, 0).shapes}
    assert usual == {"red", "green", "blue", "yellow"} and usual.isdisjoint(other)
    plain, outlined = load_problems(SHAPES, "test")[3], load_problems(SHAPES, "outlined")[3]
    assert (plain.question, plain.answer) == (outlined.question, outlined.answer)
    assert (plain.images[0] != outlined.images[0]).any()


def test_sizes_come_from_the_settings_and_an_unknown_split_is_refused():
    data = replace(SHAPES, train_size=7, validation_size=3, test_size=4, shifted_size=2)
    assert [len(load_problems(data, name)) for name in ("train", "validation", "test", "outlined")] == [7, 3, 4, 2]
    with pytest.raises(ValueError, match=r"has the splits train, .*got 'tset'"):
        load_problems(data, "tset")


def test_the_fingerprint_follows_what_determines_the_problems():
    assert fingerprint(SHAPES) == fingerprint(replace(SHAPES, system_prompt="x"))
    changed = [replace(SHAPES, seed=1), replace(SHAPES, train_size=100), replace(SHAPES, source="digits")]
    assert len({fingerprint(SHAPES), *(fingerprint(each) for each in changed)}) == 4


def test_the_shipped_model_can_read_every_question_back():
    policy = load_policy(ModelConfig(), SHAPES)
    for problem in load_problems(SHAPES, "test")[:10]:
        prompt = policy.encode(problem)
        assert problem.question in policy.decode(prompt.token_ids)
        assert tuple(prompt.images[0].shape) == (3, 84, 84)  # three by three vision tokens, not resized
