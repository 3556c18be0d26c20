"""The JSONL + images source: odd images, and every way in which a folder can be wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saei.config import DataConfig
from saei.data import fingerprint, load_problems

REAL = Path(os.environ.get("SAEI_DATA", Path(__file__).parents[2] / "shared" / "data"))


def write(folder: Path, rows: list[dict | str], split: str = "train") -> DataConfig:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return DataConfig(source="local", path=str(folder))


def row(name: str, image: str | None = "a.png", **more: object) -> dict:
    return {"id": name, "image": image, "question": "Find x.", "answer": "3", **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (30, 20), (10, 20, 30)).save(tmp_path / "a.png")
    return tmp_path


def test_a_row_becomes_a_problem(folder: Path):
    data = write(folder, [row("one", answer=7, answer_type="integer", choices=["7", "8"])])
    (problem,) = load_problems(data, "train")
    assert (problem.problem_id, problem.question, problem.answer) == ("one", "Find x.", "7")
    assert (problem.answer_type, problem.choices, problem.split) == ("number", ("7", "8"), "train")
    assert problem.images[0].shape == (20, 30, 3)
    assert problem.images[0][0, 0].tolist() == [10, 20, 30]


def test_transparent_palette_and_one_bit_images_are_laid_on_white(folder: Path):
    Image.new("RGBA", (2, 1), (0, 0, 0, 0)).save(folder / "clear.png")
    # black at alpha 51/255 = 0.2 on white: 255 * 0.8 = 204
    Image.new("RGBA", (2, 1), (0, 0, 0, 51)).save(folder / "veil.png")
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(folder / "palette.png", transparency=0)
    Image.new("1", (2, 1), 0).save(folder / "bit.png")
    Image.new("L", (2, 1), 77).save(folder / "grey.png")
    names = ("clear", "veil", "palette", "bit", "grey")
    data = write(folder, [row(name, f"{name}.png") for name in names])
    colours = {problem.problem_id: problem.images[0][0, 0].tolist() for problem in load_problems(data, "train")}
    assert colours == {
        "clear": [255, 255, 255],
        "veil": [204, 204, 204],
        "palette": [0, 0, 255],
        "bit": [0, 0, 0],
        "grey": [77, 77, 77],
    }


def test_the_extension_of_an_image_does_not_matter(folder: Path):
    Image.new("RGB", (4, 4), (200, 0, 0)).save(folder / "really.bmp")
    (folder / "really.bmp").rename(folder / "lies.jpg")
    assert load_problems(write(folder, [row("one", "lies.jpg")]), "train")[0].images[0][0, 0].tolist() == [200, 0, 0]


def test_rows_without_an_image_are_skipped_and_counted(folder: Path, caplog: pytest.LogCaptureFixture):
    data = write(folder, [row("one"), row("two", None), row("three", None)])
    assert len(load_problems(data, "train")) == 1
    assert "2 of 3 rows have no image" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{not json"], r"train\.jsonl, row 1: not valid JSON"),
        ([row("one"), "[1, 2]"], r"row 2: a JSON object is needed, got list"),
        ([{"id": "one", "image": "a.png", "question": "?"}], r"row 1: field 'answer' is missing"),
        ([row("one"), row("two", "gone.png")], r"row 2: field 'image' names .*gone\.png, which does not exist"),
        ([row("one", "broken.png")], r"row 1: field 'image' names .*broken\.png, which cannot be read"),
        ([row("one", "cut.png")], r"row 1: field 'image' names .*cut\.png, which cannot be read"),
        ([row("one"), row("one")], r"row 2: field 'id' 'one' is already that of row 1"),
        ([row("one", None)], r"none of its 1 rows has an image"),
        ([row("one", question=3)], r"row 1: field 'question' must be text, got 3"),
        ([row("one", answer=["a"])], r"row 1: field 'answer' must be text or a number"),
        ([row("one", answer_type="choise")], r"row 1: field 'answer_type' is one of .*, got 'choise'"),
        ([""], r"no rows"),
    ],
)
def test_what_is_wrong_is_named_by_file_row_and_field(folder: Path, rows: list, message: str):
    (folder / "broken.png").write_text("this is no picture")
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:4000])
    data = write(folder, rows)
    with pytest.raises(ValueError, match=message):
        load_problems(data, "train")


def test_a_missing_split_or_folder_is_refused_with_what_is_there(folder: Path):
    data = write(folder, [row("one")])
    with pytest.raises(ValueError, match=r"has no test\.jsonl; its splits: train"):
        load_problems(data, "test")
    with pytest.raises(ValueError, match="is no folder"):
        load_problems(DataConfig(source="local", path=str(folder / "nowhere")), "train")


def test_the_fingerprint_follows_rows_and_image_bytes(folder: Path):
    for split in ("validation", "test"):
        write(folder, [row("v")], split)
    data = write(folder, [row("one")])
    before = fingerprint(data)
    assert before == fingerprint(data)
    Image.new("RGB", (30, 20), (10, 20, 31)).save(folder / "a.png")
    after_image = fingerprint(data)
    write(folder, [row("one", answer="4")])
    assert len({before, after_image, fingerprint(data)}) == 3


@pytest.mark.parametrize(
    ("name", "split", "count"),
    # counts: the folder's README; easy_vqa and hallusionbench are laid out otherwise
    [
        ("geometry3k", "train", 318),
        ("geometry3k", "validation", 51),
        ("geometry3k", "test", 105),
        ("mm_eureka_k12", "test", 173),
    ],
)
def test_the_real_folders_load_whole(name: str, split: str, count: int):
    if not (REAL / name).is_dir():
        pytest.skip(f"{REAL / name} is absent; set SAEI_DATA to the folder of real data")
    problems = load_problems(DataConfig(source="local", path=str(REAL / name)), split)
    assert len(problems) == count
    for problem in (problems[0], problems[count // 2], problems[-1]):
        assert problem.images[0].ndim == 3
        assert problem.question
        assert problem.answer
