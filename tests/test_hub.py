"""Source `hub`: every set of the catalogue read from files with its exact features, and the traps of real data.

Traps are numbered as in the reference on data sets, section 8.
"""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saei.config import DataConfig
from saei.data import fingerprint, load_problems
from saei.data import hub as hub_source
from saei.data.answers import GOLDS, tidy_gold
from saei.data.catalog import catalog, entry_of, prompts
from saei.data.hub import open_split
from saei.data.messages import user_turn
from saei.data.tables import slice_bounds
from saei.graders.exact import same_choice
from saei.settings.material import COLUMN_ROLES
from tests.hub_fixtures import (
    GEOMETRY3K,
    HALLUSIONBENCH,
    MATHVERSE,
    MATHVISION,
    MATHVISTA,
    MMK12,
    SOLUTION,
    TEXT,
    hub,
    image,
    jsonl,
    own_cache,
    parquet,
    picture,
)  # fmt: skip

REAL = Path(os.environ.get("SAEI_DATA", Path(__file__).parents[2] / "shared" / "data"))
__all__ = ["own_cache"]


def geometry(folder: Path, **splits: int) -> DataConfig:
    """A copy of hiyouga/geometry3k with so many rows; figures are numbered through."""
    first = 0
    for split, count in splits.items():
        rows = [
            {"images": [image(first + i)], "problem": f"<image>Find x{first + i}.", "answer": "8 \\sqrt { 3 }"}
            for i in range(count)
        ]
        parquet(folder, split, rows, GEOMETRY3K)
        first += count
    return hub(folder, "geometry3k")


def skipped(data: DataConfig, split: str) -> dict[str, str]:
    return {one.row_id: one.reason for one in open_split(data, split).skipped}


def test_the_catalogue_names_columns_prompts_and_answers_that_there_are():
    for name, entry in catalog().items():
        assert entry.columns.keys() <= {*COLUMN_ROLES, "messages"}, name
        assert entry.answers in GOLDS and entry.prompt in prompts(), name
        assert "answer" in entry.columns and {"question", "messages"} & entry.columns.keys(), name
        assert entry.licence and entry.url.startswith("https://"), name
    ids = [one for entry in catalog().values() for one in entry.ids]
    assert len(set(ids)) == len(ids)


def test_a_hub_id_finds_its_row_of_the_catalogue():
    assert entry_of(DataConfig(source="hub", path="xyliu6/geometry3k")).name == "geometry3k"
    assert entry_of(DataConfig(source="hub", path="AI4Math/MathVerse")).config == "testmini"


def test_geometry3k_rows_become_problems(tmp_path: Path):
    data = geometry(tmp_path, train=3, validation=1, test=2)
    problems = load_problems(data, "train")
    problem = problems[1]
    assert (len(problems), problem.problem_id, problem.source) == (3, "geometry3k-train-00001", "hub:geometry3k")
    assert (problem.question, problem.answer, problem.answer_type) == ("<image>Find x1.", "8 \\sqrt { 3 }", "math")
    assert problem.images[0].shape == (30, 40, 3)
    assert problem.images[0][0, 1].tolist() == [0, 0, 0]  # the bar of picture 1
    assert problem.facts == {"problem": "<image>Find x1.", "answer": "8 \\sqrt { 3 }"}


def test_pictures_are_decoded_only_when_a_problem_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = geometry(tmp_path, train=3)
    problems = load_problems(data, "train")
    decoded: list[bytes] = []
    monkeypatch.setattr(
        "saei.data.hub.decode", lambda encoded: decoded.append(encoded) or np.zeros((1, 1, 3), np.uint8)
    )
    assert [problem.images for problem in problems.bare()] == [(), (), ()]
    assert decoded == []
    assert problems[2].images[0].shape == (1, 1, 3)
    assert decoded == [picture(2)]


@pytest.mark.parametrize(("name", "reason"), [("pipe", "image unreadable: 1"), ("n" * 5000, "image unreadable: 1")])
def test_a_picture_that_is_a_pipe_or_no_possible_name_is_left_out(tmp_path: Path, name: str, reason: str):
    os.mkfifo(tmp_path / "pipe")
    jsonl(tmp_path / "train.jsonl", [{"image": name, "question": "q", "answer": "1", "id": 1}])
    with pytest.raises(ValueError, match=reason):
        load_problems(hub(tmp_path, columns=("image=image", "question=question", "answer=answer")), "train")
    with pytest.raises(ValueError, match="image"):
        load_problems(DataConfig(source="local", path=str(tmp_path)), "train")


def test_another_picture_column_is_looked_at_anew(tmp_path: Path):
    features = {"wrong": MMK12["image"], "right": MMK12["image"], "q": MMK12["id"], "a": MMK12["id"]}
    row = {"wrong": {"bytes": b"no picture", "path": None}, "right": image(1), "q": "How many?", "a": "1"}
    parquet(tmp_path, "train", [row], features)
    with pytest.raises(ValueError, match="image unreadable: 1"):
        load_problems(hub(tmp_path, columns=("image=wrong", "question=q", "answer=a")), "train")
    assert len(load_problems(hub(tmp_path, columns=("image=right", "question=q", "answer=a")), "train")) == 1


def test_a_second_start_decodes_nothing_and_changed_files_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = geometry(tmp_path, train=2)
    load_problems(data, "train")
    hub_source._open_split.cache_clear()
    monkeypatch.setattr("saei.data.survey.look_at", lambda _: pytest.fail("decoded again"))
    assert len(load_problems(data, "train")) == 2
    monkeypatch.undo()
    parquet(tmp_path, "train", [{"images": [image(9)], "problem": "<image>New?", "answer": "1"}], GEOMETRY3K)
    assert load_problems(data, "train")[0].question == "<image>New?"


def test_slices_keep_the_row_numbers_of_the_split_and_may_not_overlap(tmp_path: Path):
    data = geometry(tmp_path, train=10, test=2)
    parted = DataConfig(
        source="hub", path=data.path, dataset="geometry3k", train_split="train[:70%]", validation_split="train[-3:]"
    )
    assert [problem.problem_id[-5:] for problem in load_problems(parted, "train[-3:]").bare()] == [
        "00007", "00008", "00009",
    ]  # fmt: skip
    assert len(load_problems(parted, "train[:70%]")) == 7
    overlapping = DataConfig(
        source="hub", path=data.path, dataset="geometry3k", train_split="train[:8]", validation_split="train[-3:]"
    )
    with pytest.raises(ValueError, match=r"train\[:8\] and train\[-3:\] have 1 rows in common"):
        load_problems(overlapping, "test")
    with pytest.raises(ValueError, match=r"the slice '\[:x\]' of a split with 10 rows cannot be read"):
        slice_bounds("[:x]", 10)
    with pytest.raises(ValueError, match="has no rows"):
        load_problems(data, "train[5:5]")


def test_a_split_is_not_taken_for_another_whose_name_begins_alike(tmp_path: Path):
    row = {"images": [image(1)], "problem": "<image>q", "answer": "$$4$$"}
    parquet(tmp_path, "train", [row] * 2, GEOMETRY3K)
    parquet(tmp_path, "mini_train", [row], GEOMETRY3K)
    data = hub(tmp_path, "k12_freeform")
    assert [len(load_problems(data, split)) for split in ("train", "mini_train")] == [2, 1]
    with pytest.raises(ValueError, match=r"no files of a split mini: .*data files there: data/mini_train-00000"):
        load_problems(data, "mini")


def test_one_file_is_a_split_too(tmp_path: Path):
    geometry(tmp_path, train=4)
    (tmp_path / "data" / "train-00000-of-00001.parquet").rename(tmp_path / "mine.parquet")
    data = hub(tmp_path / "mine.parquet", "geometry3k")
    assert len(load_problems(data, "train[:3]")) == 3
    with pytest.raises(ValueError, match=r"is one file and holds no split test; take parts of it"):
        load_problems(data, "test")
    assert len(load_problems(hub(tmp_path, "geometry3k"), "mine.parquet")) == 4


def test_mmk12_is_free_form_in_training_and_letters_in_the_test(tmp_path: Path):
    row = {"id": "a", "question": "Find it.", "answer": "$$\\number{24} $$", "subject": "math", "image": image(0)}
    parquet(tmp_path, "train", [row, {**row, "answer": "3\r\n"}, {**row, "image": None}], MMK12)
    parquet(tmp_path, "test", [{**row, "question": "Which?\nA. 1\nB. 2", "answer": "B"}], MMK12)
    train, test = (load_problems(hub(tmp_path, "mmk12"), split) for split in ("train", "test"))
    assert [(p.answer, p.answer_type, p.kind) for p in train] == [("24", "math", "math"), ("3", "math", "math")]
    assert [(p.answer, p.answer_type) for p in test] == [("B", "choice")]
    # ids that are not unique get the number of their row; a row without its picture is left out and named
    assert [p.problem_id for p in train] == ["mmk12-train-a", "mmk12-train-a#1"]
    assert skipped(hub(tmp_path, "mmk12"), "train") == {"mmk12-train-a#2": "no image"}


def mm_eureka(folder: Path) -> DataConfig:
    """Its JSONL: the message is a JSON string, pictures are file:// paths, one row is text alone."""
    for number in (1, 2):
        (folder / f"{number}.png").write_bytes(picture(number))
    parts = [
        {"type": "text", "text": "See "}, {"type": "image", "image": f"file://{folder / '2.png'}"},
        {"type": "text", "text": " and "}, {"type": "image", "image": "1.png"}, {"type": "text", "text": ". Sum?"},
    ]  # fmt: skip
    rows = [
        {"id": "0", "message": json.dumps([{"role": "user", "content": parts}]), "answer": "3"},
        {"id": "1", "message": json.dumps([{"role": "user", "content": "What is 1+1?"}]), "answer": "2"},
        {"id": "2", "message": "[{", "answer": "2"},
    ]
    jsonl(folder / "train.jsonl", rows)
    return hub(folder, "mm_eureka")


def test_mm_eureka_messages_keep_the_order_of_text_and_pictures(tmp_path: Path):
    data = mm_eureka(tmp_path)
    (problem,) = load_problems(data, "train")
    assert problem.question == "See <image> and <image>. Sum?"
    assert [int(np.argmin(picture[0, :, 0])) for picture in problem.images] == [2, 1]  # the bars
    assert skipped(data, "train") == {"mm_eureka-train-1": "no image", "mm_eureka-train-2": "message unreadable"}


@pytest.mark.parametrize(("rule", "shapes"), [("white", [(224, 224, 3)]), ("keep", [])])
def test_rows_of_text_alone_are_kept_where_asked_for(tmp_path: Path, rule, shapes):
    data = DataConfig(source="hub", path=mm_eureka(tmp_path).path, dataset="mm_eureka", text_only=rule)
    problem = load_problems(data, "train")[1]
    assert [picture.shape for picture in problem.images] == shapes
    assert all(picture.min() == 255 for picture in problem.images)


def test_older_mm_eureka_rows_hold_conversations_and_image_urls(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(picture(3))
    conversation = str([{"role": "user", "content": "<image>Find x."}])  # a Python literal, as published
    row = {"id": "0", "conversations": conversation, "answer": "4", "image_urls": [f"file://{tmp_path / 'a.png'}"]}
    jsonl(tmp_path / "old.jsonl", [row])
    (problem,) = load_problems(hub(tmp_path, "mm_eureka_old"), "old.jsonl")
    assert (problem.question, problem.answer, len(problem.images)) == ("<image>Find x.", "4", 1)


@pytest.mark.parametrize(
    "stored", ["__import__('os').getcwd()", "[" * 5000, "3", '[{"role": "user", "content": [{"type": "video"}]}]', "[]"]
)
def test_a_message_that_is_none_is_refused_and_never_run(stored):
    with pytest.raises(ValueError, match=r"message|user turn"):
        user_turn(stored)


@pytest.mark.parametrize("dataset", ["geoqa_train_8k", "clevr_cogen", "open_r1"])
def test_golds_in_answer_tags_are_taken_out(tmp_path: Path, dataset):
    solutions = [
        "<answer> 3 </answer>",
        "<think>two\nsteps</think>\n\n<answer>\\frac{1}{2}</answer>",
        "<answer>B</answer>",
    ]
    rows = [{"image": image(i), "problem": "q", "solution": solution} for i, solution in enumerate(solutions)]
    parquet(tmp_path, "train", rows, SOLUTION)
    found = [(p.answer, p.answer_type) for p in load_problems(hub(tmp_path, dataset), "train")]
    assert found == [("3", "math"), ("\\frac{1}{2}", "math"), ("B", "choice")]


def mathvista(folder: Path) -> DataConfig:
    metadata = {
        "category": "math-targeted-vqa", "context": "geometry diagram", "grade": "high school", "img_height": 30,
        "img_width": 40, "language": "english", "skills": ["geometry reasoning"], "source": "Geometry3K",
        "split": "testmini", "task": "geometry problem solving",
    }  # fmt: skip
    row = {
        "pid": "7", "question": "Find x.", "image": "images/7.jpg", "decoded_image": image(7), "choices": ["10", "12"],
        "unit": None, "precision": None, "answer": "12", "question_type": "multi_choice", "answer_type": "text",
        "metadata": metadata, "query": "Hint: ...\nQuestion: Find x.\nChoices:\n(A) 10\n(B) 12",
    }  # fmt: skip
    free = {
        **row, "pid": "8", "choices": None, "precision": 1.0, "answer": "1.2", "question_type": "free_form",
        "answer_type": "float",
    }  # fmt: skip
    parquet(folder, "testmini", [row, free], MATHVISTA)
    parquet(folder, "test", [{**row, "answer": ""}], MATHVISTA)
    return hub(folder, "mathvista")


def test_trap_1_and_3_mathvista_has_its_picture_elsewhere_and_its_gold_is_the_options_text(tmp_path: Path):
    data = mathvista(tmp_path)
    chosen, free = load_problems(data, "testmini")
    assert chosen.images[0].shape == (30, 40, 3)
    assert chosen.question.startswith("Hint: ")
    assert (chosen.answer, chosen.answer_type, chosen.choices) == ("12", "choice", ("10", "12"))
    assert same_choice("B", chosen.answer, chosen.choices) and not same_choice("A", chosen.answer, chosen.choices)
    assert (free.answer, free.answer_type, free.choices) == ("1.2", "number", None)
    assert chosen.facts["metadata"]["skills"] == ["geometry reasoning"]
    assert (free.facts["precision"], chosen.facts["question"]) == (1.0, "Find x.")
    with pytest.raises(ValueError, match=r"none of its 1 rows is a problem \(no answer: 1\); .*Answers of `test`"):
        load_problems(data, "test")
    paths = DataConfig(source="hub", path=data.path, dataset="mathvista", columns=("image=image",))
    with pytest.raises(ValueError, match=r"image missing: 2"):
        load_problems(paths, "testmini")


def test_trap_1_3_and_8_mathverse_has_a_hyphen_several_letters_and_no_picture_of_text_only(tmp_path: Path):
    row = {
        "sample_index": "1", "problem_index": "1", "problem_version": "Vision Only", "question": "", "image": image(1),
        "answer": "C\nD", "question_type": "multi-choice", "query_wo": "w/o", "query_cot": "Please first reason.",
        "metadata": {"split": "testmini", "source": "Geometry3K", "subject": "Plane", "subfield": "Angle"},
        "question_for_eval": "Find x.",
    }  # fmt: skip
    parquet(tmp_path, "testmini", [row], MATHVERSE)
    parquet(tmp_path, "testmini_text_only", [{**row, "image": ""}], {**MATHVERSE, "image": TEXT})
    (problem,) = load_problems(hub(tmp_path, "mathverse"), "testmini")
    assert (problem.problem_id, problem.kind) == ("mathverse-testmini-1", "Vision Only")
    assert (problem.question, problem.answer_type) == ("Please first reason.", "choice")
    assert same_choice("C and D", problem.answer, None) and not same_choice("C", problem.answer, None)
    assert problem.facts["metadata"]["subfield"] == "Angle"
    plain = DataConfig(source="hub", path=str(tmp_path), dataset="mathverse_text_only", text_only="keep")
    assert [one.images for one in load_problems(plain, "testmini_text_only")] == [()]


def test_trap_2_and_3_mathvision_has_numbered_markers_letters_and_odd_golds(tmp_path: Path):
    row = {
        "id": "1", "question": "Which of <image1> and <image2>?", "options": ["1", "2"], "image": "images/1.jpg",
        "decoded_image": image(1, kind="JPEG"), "answer": "B", "solution": None, "level": 2, "subject": "counting",
    }  # fmt: skip
    golds = {"11 ": "11", "$\\boxed{\\frac{16}{7}}$": "\\frac{16}{7}", "\x0crac{36}{13}": "\\frac{36}{13}", "C": "C"}
    rows = [{**row, "id": f"g{i}", "options": [], "answer": gold} for i, gold in enumerate(golds)]
    drawn = {**row, "id": "d", "options": ["A", "B", "C", "D", "E"]}
    parquet(tmp_path, "testmini", [row, drawn, *rows], MATHVISION)
    first, letters, *odd = load_problems(hub(tmp_path, "mathvision"), "testmini")
    assert first.question == "Which of <image1> and <image2>?\n(A) 1\n(B) 2"
    assert (first.answer_type, first.choices, len(first.images)) == ("choice", ("1", "2"), 1)
    assert letters.question == "Which of <image1> and <image2>?"
    assert [(p.answer, p.answer_type) for p in odd] == [
        *((gold, "math") for gold in list(golds.values())[:3]), ("C", "choice"),
    ]  # fmt: skip
    assert odd[0].facts["answer"] == "11 "
    assert (first.kind, first.facts["level"]) == ("counting", 2)


def test_hallusionbench_answers_yes_and_no_under_the_key_of_its_metrics(tmp_path: Path):
    row = dict.fromkeys(HALLUSIONBENCH, "0") | {
        "category": "VS", "subcategory": "ocr", "set_id": "1", "figure_id": "2", "question": "Is it?", "image": image(1)
    }  # fmt: skip
    parquet(tmp_path, "image", [{**row, "gt_answer": "1"}, {**row, "category": "VD"}], HALLUSIONBENCH)
    problems = load_problems(hub(tmp_path, "hallusionbench"), "image")
    assert [(p.answer, p.answer_type, p.kind) for p in problems] == [("yes", "text", "ocr"), ("no", "text", "ocr")]
    assert [p.problem_id for p in problems] == [f"hallusionbench-image-{c}-ocr-1-2-0" for c in ("VS", "VD")]


def test_trap_4_and_7_wemath_pictures_lie_about_their_kind_and_serve_many_rows(tmp_path: Path):
    (tmp_path / "2steps").mkdir()
    (tmp_path / "2steps" / "1-1.png").write_bytes(picture(1, kind="JPEG"))
    row = {
        "ID": "1", "split": "testmini", "question": "Which?", "option": "A. 1;B. 2; E. No correct answer",
        "answer": "B", "image_path": "2steps/1-1.png",
    }  # fmt: skip
    rows = [{**row, "key": key} for key in ("2steps_1", "2steps_2", "2steps_multi")]
    (tmp_path / "testmini.json").write_text(json.dumps(rows))
    data = hub(tmp_path, "wemath")
    problems = load_problems(data, "testmini")
    assert [p.problem_id for p in problems] == [f"wemath-testmini-1-{row['key']}" for row in rows]
    assert problems[0].question == "Which?\n\nOptions: A. 1;B. 2; E. No correct answer"
    assert (problems[0].answer_type, problems[0].facts["ID"]) == ("choice", "1")
    seen = open_split(data, "testmini").pictures
    assert {one.format for (one,) in seen} == {"JPEG"}
    assert len({one.pixels for (one,) in seen}) == 1


def test_a_folder_of_images_with_metadata_is_a_set_with_a_column_map(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "one.png").write_bytes(picture(4))
        jsonl(tmp_path / split / "metadata.jsonl", [{"file_name": "one.png", "q": "How many?", "a": 3}])
    data = hub(tmp_path, columns=("image=image", "question=q", "answer=a"))
    (problem,) = load_problems(data, "test")
    assert (problem.question, problem.answer) == ("How many?", "3")
    assert int(np.argmin(problem.images[0][0, :, 0])) == 4


def test_an_unknown_set_needs_a_column_map_and_a_wrong_column_is_named(tmp_path: Path):
    geometry(tmp_path, train=1)
    with pytest.raises(ValueError, match=r"no catalogue row describes: name it with --data.dataset .*missing: answer"):
        load_problems(hub(tmp_path, columns=("question=problem",)), "train")
    with pytest.raises(ValueError, match=r"no column 'q' for the question; its columns are images, problem, answer"):
        load_problems(hub(tmp_path, "geometry3k", columns=("question=q",)), "train")
    with pytest.raises(ValueError, match=r"data\.dataset is one of geometry3k, .* got 'geometry4k'"):
        load_problems(hub(tmp_path, "geometry4k"), "train")
    with pytest.raises(ValueError, match=r"column 'images' holds pictures and cannot be the question"):
        load_problems(hub(tmp_path, "", columns=("question=images", "answer=answer")), "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ("question=a", "queston=b")}, r"entries read role=column with a role of id, image"),
        ({"columns": ("question=a", "question=b")}, r"names a role twice"),
        ({"source": "digits", "columns": ("question=a",)}, r"data\.columns belongs to data\.source hub"),
        ({"source": "digits", "text_only": "keep"}, r"data\.text_only belongs to data\.source hub"),
        ({"prompt": "easyr1", "system_prompt": "x"}, r"data\.prompt easyr1 is a whole prompt"),
        ({"path": ""}, r"data\.path must name a folder or a hub id"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**{"source": "hub", "path": "x", **settings})


def test_a_hub_id_loads_from_the_cache_offline_and_its_commit_is_the_fingerprint(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    geometry(tmp_path / "copy", train=2)
    load_problems(hub(tmp_path / "copy", "geometry3k"), "train")
    (arrow,) = tmp_path.glob("parquet/*/*/*/parquet-rows.arrow")
    commit = "0123456789abcdef0123456789abcdef01234567"
    target = tmp_path / "hiyouga___geometry3k" / "default" / "0.0.0" / commit
    target.mkdir(parents=True)
    shutil.copy(arrow, target / "geometry3k-train.arrow")
    told = json.loads((arrow.parent / "dataset_info.json").read_text())
    told |= {"dataset_name": "geometry3k", "splits": {"train": {**told["splits"]["rows"], "name": "train"}}}
    (target / "dataset_info.json").write_text(json.dumps(told))
    data = DataConfig(source="hub", path="hiyouga/geometry3k")
    problems = load_problems(data, "train")
    assert (len(problems), problems[1].problem_id) == (2, "geometry3k-train-00001")
    assert open_split(data, "train").table.commit == commit
    pinned = DataConfig(source="hub", path="hiyouga/geometry3k", revision="f" * 40)
    with pytest.raises(
        ValueError, match=rf"data\.revision is f+, but what is at hand of hiyouga/geometry3k is {commit}"
    ):
        load_problems(pinned, "train")


def test_a_hub_id_that_cannot_be_reached_says_how_to_use_a_copy(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"'xyliu6/k12-freeform' is no folder or file here.*--data\.dataset NAME"):
        load_problems(DataConfig(source="hub", path="xyliu6/k12-freeform"), "train")


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, without the pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_broken_and_dangerous_pictures_are_named_before_the_first_step(tmp_path: Path):
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "PNG")
    bad = {
        "text": b"no picture", "cut": whole.getvalue()[:6000], "bomb": png_of(100_000, 100_000),
        "large": png_of(9_000, 9_000), "long": picture(0, size=(402, 2)),
    }  # fmt: skip
    rows = [{"images": [image(1)], "problem": "<image>good", "answer": "1"}]
    rows += [
        {"images": [{"bytes": one, "path": None}], "problem": f"<image>{name}", "answer": "1"}
        for name, one in bad.items()
    ]
    rows += [{"images": [image(1), image(2)], "problem": "<image>one marker", "answer": "1"}]
    rows += [
        {"images": [image(1)], "problem": " ", "answer": "1"},
        {"images": [image(1)], "problem": "q", "answer": None},
    ]
    parquet(tmp_path, "train", rows, GEOMETRY3K)
    data = hub(tmp_path, "geometry3k")
    assert [p.question for p in load_problems(data, "train")] == ["<image>good"]
    assert list(skipped(data, "train").values()) == [
        "no question", "no answer", "image unreadable", "image unreadable", "image too large", "image too large",
        "image too long", "markers do not fit",
    ]  # fmt: skip


def test_trap_5_and_6_pictures_are_on_white_turned_and_of_any_size(tmp_path: Path):
    def encoded(picture: Image.Image, **options) -> dict:
        kept = io.BytesIO()
        picture.save(kept, options.pop("kind", "PNG"), **options)
        return {"bytes": kept.getvalue(), "path": None}

    turned = Image.new("RGB", (8, 4), (10, 200, 10))
    turned.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees, clockwise: the top left corner goes to the top right
    pictures = {
        "clear": encoded(Image.new("RGBA", (2, 1), (0, 0, 0, 0))),
        "veil": encoded(Image.new("RGBA", (2, 1), (0, 0, 0, 51))),  # 255 * 0.8 = 204
        "bit": encoded(Image.new("1", (3, 5), 0)),
        "deep": encoded(Image.fromarray(np.full((2, 2), 0x8042, np.uint16))),  # high byte 0x80
        "turned": encoded(turned, exif=exif),
    }
    rows = [{"images": [one], "problem": name, "answer": "1"} for name, one in pictures.items()]
    parquet(tmp_path, "train", rows, GEOMETRY3K)
    found = {p.question: p.images[0] for p in load_problems(hub(tmp_path, "geometry3k"), "train")}
    assert {name: found[name][0, 0].tolist() for name in ("clear", "veil", "bit", "deep")} == {
        "clear": [255, 255, 255], "veil": [204, 204, 204], "bit": [0, 0, 0], "deep": [128, 128, 128]
    }  # fmt: skip
    assert found["bit"].shape == (5, 3, 3)
    assert found["turned"].shape == (8, 4, 3)
    assert found["turned"][0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("gold", "tidied"),
    [
        ("3\r\n", "3"), ("$$ $$", ""), ("$$\\dfrac{3}{2}$$", "\\dfrac{3}{2}"), ("$$\\number{24} $$", "24"),
        ("118掳T", "118°T"), ("Area $=3$", "Area $=3$"), ("C\nD", "C\nD"), ("$$4$$,$$6$$", "$$4$$,$$6$$"),
        ("\\boxed{a} + \\boxed{b}", "\\boxed{a} + \\boxed{b}"), ("254.4\r\n267.12", "254.4\n267.12"), ("", ""),
    ],
)  # fmt: skip
def test_trap_8_golds_get_one_spelling_and_lose_nothing(gold, tidied):
    assert tidy_gold(gold) == tidied


def test_the_fingerprint_follows_content_and_settings_not_the_place(tmp_path: Path):
    one = geometry(tmp_path / "a", train=2, validation=1, test=1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    same = hub(tmp_path / "b", "geometry3k")
    dropping = DataConfig(source="hub", path=one.path, dataset="geometry3k", drop_shared_figures=True)
    mapped = hub(tmp_path / "a", "geometry3k", columns=("answer=problem",))
    assert fingerprint(one) == fingerprint(same)
    assert len({fingerprint(one), fingerprint(dropping), fingerprint(mapped)}) == 3


def test_the_fingerprint_follows_pictures_that_are_files(tmp_path: Path):
    data = mm_eureka(tmp_path)
    only = DataConfig(source="hub", path=data.path, dataset="mm_eureka", validation_split="train", test_split="train")
    before = fingerprint(only)
    assert fingerprint(only) == before
    (tmp_path / "1.png").write_bytes(picture(11))
    assert fingerprint(only) != before
    assert int(np.argmin(load_problems(only, "train")[0].images[1][0, :, 0])) == 11


def test_figures_of_the_test_split_are_dropped_from_training_only_when_asked(tmp_path: Path):
    def rows(*figures: int, kind: str = "PNG") -> list[dict]:
        return [{"images": [image(i, kind=kind)], "problem": f"<image>{i}", "answer": "1"} for i in figures]

    parquet(tmp_path, "train", rows(1, 2, 3, 2), GEOMETRY3K)
    parquet(tmp_path, "validation", rows(1), GEOMETRY3K)
    parquet(tmp_path, "test", rows(2, kind="BMP") + rows(5), GEOMETRY3K)  # equal pixels, other bytes
    data = hub(tmp_path, "geometry3k")
    drop = DataConfig(source="hub", path=str(tmp_path), dataset="geometry3k", drop_shared_figures=True)
    questions = {
        split: [p.question for p in load_problems(drop, split).bare()] for split in ("train", "validation", "test")
    }
    assert questions == {
        "train": ["<image>1", "<image>3"],
        "validation": ["<image>1"],
        "test": ["<image>2", "<image>5"],
    }
    assert len(load_problems(data, "train")) == 4
    parquet(tmp_path, "train", rows(2), GEOMETRY3K)
    with pytest.raises(ValueError, match="leaves no training problem"):
        load_problems(drop, "train")


@pytest.mark.slow
def test_real_geometry3k_figures_repeat_across_its_splits(tmp_path: Path):
    if not (REAL / "geometry3k").is_dir():
        pytest.skip(f"{REAL / 'geometry3k'} is absent; set SAEI_DATA to the folder of real data")
    for split in ("train", "test"):
        lines = (REAL / "geometry3k" / f"{split}.jsonl").read_text().splitlines()
        rows = [
            {
                "images": [{"bytes": (REAL / "geometry3k" / row["image"]).read_bytes(), "path": None}],
                "problem": f"<image>{row['question']}",
                "answer": row["answer_latex"],
            }
            for row in map(json.loads, lines)
        ]
        parquet(tmp_path, split, rows, GEOMETRY3K)
    drop = DataConfig(source="hub", path=str(tmp_path), dataset="geometry3k", drop_shared_figures=True)
    # counted independently below: figures whose decoded pixels stand in both
    test = {p.images[0].tobytes() for p in load_problems(drop, "test")}
    train = load_problems(hub(tmp_path, "geometry3k"), "train")
    kept = {p.problem_id for p in load_problems(drop, "train").bare()}
    assert {p.problem_id for p in train if p.images[0].tobytes() not in test} == kept
    assert (len(train), len(train) - len(kept)) == (318, 11)
