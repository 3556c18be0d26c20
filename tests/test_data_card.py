"""The data card: what it counts, which figures it finds in two splits, golds graded against themselves, prompts."""

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from saei.config import Config, DataConfig, ModelConfig, RewardConfig
from saei.data import card as card_module
from saei.data import load_problems
from saei.data.card import data_card, keep_data_card
from saei.data.catalog import check_answer_place, prompts
from saei.data.golds import gold_against_itself
from saei.data.shared import alike
from saei.data.show import main
from saei.data.survey import look_at
from saei.data.transfer import transfer_sets
from saei.pixels import ImageCodec
from saei.policy import load_policy
from saei.reward import GOLD_UNPARSED, Scorer
from saei.types import Problem
from tests.hub_fixtures import GEOMETRY3K, hub, image, own_cache, parquet

__all__ = ["own_cache"]


@pytest.fixture(scope="module")
def scorer():
    with Scorer(RewardConfig()) as opened:
        yield opened


def row(figure: int, answer: str | None = "3", problem: str = "<image>Find x.", **how) -> dict:
    return {"images": [image(figure, **how)], "problem": problem, "answer": answer}


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    parquet(tmp_path, "train", [row(1), row(1), row(2, "$$\\frac{1}{2}$$"), row(3, None)], GEOMETRY3K)
    parquet(tmp_path, "validation", [row(9, size=(20, 30))], GEOMETRY3K)
    parquet(tmp_path, "test", [row(2, kind="BMP"), row(1, size=(80, 60)), row(7, mode="L")], GEOMETRY3K)
    return hub(tmp_path, "geometry3k", prompt="easyr1")


def test_the_card_counts_rows_problems_pictures_and_shared_figures(data: DataConfig, scorer: Scorer):
    card = data_card(data, scorer)
    train = card["splits"]["train"]
    assert (train["rows"], train["published_rows"], train["problems"]) == (4, 2101, 3)
    assert train["skipped"] == {
        "no answer": {"count": 1, "examples": ["geometry3k-train-00003"], "details": "the gold is ''"}
    }
    assert (train["images"]["count"], train["images"]["different"], train["images"]["most_problems_of_one"]) == (
        3,
        2,
        2,
    )
    assert card["splits"]["validation"]["images"]["below_28_pixels"] == 1
    assert card["splits"]["test"]["images"]["modes"] == {"RGB": 2, "L": 1}
    assert card["splits"]["test"]["images"]["formats"] == {"BMP": 1, "PNG": 2}
    assert (train["golds"]["checked"], train["golds"]["right"], train["golds"]["unparsed"]) == (3, 3, 0)
    shared = {tuple(pair["splits"]): pair for pair in card["shared_figures"]}
    # figure 2 stands in both, once re-encoded
    assert shared["train", "test"]["figures"] == 1
    assert shared["train", "test"]["problems"] == [1, 1]
    assert shared["train", "validation"]["figures"] == 0
    assert (card["dataset"], card["licence"], card["prompt"]["name"]) == ("geometry3k", "MIT", "easyr1")
    assert card["prompt"]["suffix"].startswith(" You FIRST think")
    json.dumps(card)


def test_a_copy_of_another_size_is_alike_and_another_figure_is_not(tmp_path: Path):
    drawn = Image.new("RGB", (256, 256), (255, 255, 255))
    ImageDraw.Draw(drawn).polygon([(20, 220), (230, 220), (90, 30)], outline=(0, 0, 0), width=5)
    for name, picture in {"one": drawn, "smaller": drawn.resize((128, 128)), "other": drawn.rotate(90)}.items():
        picture.save(tmp_path / f"{name}.png")
    drawn.save(tmp_path / "pressed.jpg", quality=90)
    names = ("one.png", "smaller.png", "pressed.jpg", "other.png")
    one, smaller, pressed, other = (look_at(tmp_path / name) for name in names)
    assert len({one.pixels, smaller.pixels, pressed.pixels}) == 3
    Image.new("RGB", (256, 256), (255, 255, 255)).save(tmp_path / "blank.png")
    blank = look_at(tmp_path / "blank.png")
    mine, theirs = alike([one, other, blank], [smaller, pressed, blank])
    assert mine.tolist() == [True, False, False]  # blank pictures are not copies of each other
    assert theirs.tolist() == [True, True, False]


def test_a_run_keeps_its_card_until_the_data_change(data: DataConfig, scorer: Scorer, tmp_path: Path, monkeypatch):
    path = tmp_path / "data_card.json"
    keep_data_card(path, data, scorer)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(card_module, "data_card", lambda *_, **__: pytest.fail("made again"))
        keep_data_card(path, data, scorer)
    assert path.read_bytes() == before
    parquet(Path(data.path), "test", [row(5)], GEOMETRY3K)
    keep_data_card(path, data, scorer)
    assert json.loads(path.read_text())["splits"]["test"]["problems"] == 1


def test_generated_sources_have_a_card_of_their_first_problems(scorer: Scorer):
    card = data_card(DataConfig(source="shapes", train_size=500), scorer, ("train", "test"))
    train = card["splits"]["train"]
    assert (train["problems"], train["looked_at"], train["images"]["modes"]) == (500, 8, {"RGB": 8})
    assert train["golds"]["right"] == 8
    assert card["shared_figures"] == []


def test_a_local_folder_has_a_card(tmp_path: Path, scorer: Scorer):
    Image.new("P", (30, 20)).save(tmp_path / "a.png")
    rows = [{"id": i, "image": "a.png" if i else None, "question": "q", "answer": i} for i in range(3)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    train = data_card(DataConfig(source="local", path=str(tmp_path)), scorer, ("train",))["splits"]["train"]
    assert (train["rows"], train["problems"], train["skipped"]["no image"]["examples"]) == (3, 2, ["0"])
    assert train["images"]["modes"] == {"P": 2}


def problem(answer: str, answer_type="math", **more) -> Problem:
    return Problem(problem_id=answer, images=(), question="", answer=answer, answer_type=answer_type, **more)


def test_golds_that_no_answer_could_equal_are_counted_and_named(scorer: Scorer):
    asked = [
        problem("8 \\sqrt { 3 }"), problem("3"), problem("yes", "text"), problem("12", "choice", choices=("10", "12")),
        problem("(1)3;(2)3, quadrilateral"), problem(" < "), problem("\\frac{1}{"), problem("}{"),
    ]  # fmt: skip
    report = gold_against_itself(asked, scorer)
    assert (report.checked, report.prose) == (8, 1)
    assert [name for name, *_ in report.unread] == [" < ", "\\frac{1}{", "}{"]
    # these two leave the box open, or close it early: even repeated word for word they are not found
    assert [name for name, *_ in report.wrong] == ["\\frac{1}{", "}{"]
    assert report.share == 6 / 8


def test_trap_a_gold_that_cannot_be_read_rewards_nobody(scorer: Scorer):
    (grade,) = scorer.grade(["<think></think>\\boxed{4}"], [problem(" < ")])
    assert (grade.accuracy, grade.status) == (0.0, GOLD_UNPARSED)


def test_published_prompts_stand_where_they_were_published(data: DataConfig):
    asked = Problem(
        problem_id="p", images=load_problems(data, "train")[0].images, question="<image>Find x.", answer="3"
    )
    texts = {}
    for name in ("plain", "easyr1", "noisyrollout", "mm_eureka_boxed"):
        policy = load_policy(ModelConfig(device="cpu"), DataConfig(prompt=name))
        encoded = policy.encode(asked)
        texts[name] = policy.decode(encoded.token_ids)
        start, end = encoded.question
        assert policy.decode(encoded.token_ids[start:end]).strip() in ("Find x.", "Find x")  # ". " may be one token
    instruction = prompts()["noisyrollout"].system
    assert f"Find x. {instruction}" in texts["easyr1"]
    assert texts["noisyrollout"].index(instruction) < texts["noisyrollout"].index("Find x.")
    assert "Answer the following question: Find x.\nPlease reason step by step" in texts["mm_eureka_boxed"]
    assert instruction not in texts["plain"]


def test_a_prompt_that_asks_for_tags_is_refused_for_training():
    with pytest.raises(ValueError, match=r"data\.prompt r1v asks for the answer in <answer> tags.*mm_eureka_boxed"):
        check_answer_place(DataConfig(prompt="r1v"))
    with pytest.raises(ValueError, match=r"data\.prompt is one of plain, easyr1, .*got 'easyr2'"):
        check_answer_place(DataConfig(prompt="easyr2"))


def test_a_set_of_the_hub_can_be_a_transfer_set(data: DataConfig):
    config = Config()
    config = replace(config, eval=replace(config.eval, transfer=(f"hub/test/geometry3k={data.path}",)))
    ((name, (found, split)),) = transfer_sets(config).items()
    assert (name, split) == (f"{Path(data.path).name}/test", "test")
    assert len(load_problems(found, split)) == 3


def test_the_resize_is_at_most_a_cell_from_easyr1s_two():
    """EasyR1 and NoisyRollout: int(side * sqrt(ratio)) into [min, max] pixels, then the processor's own resize to whole
    cells, under its own wide limits. Ours does both at once, and so stays within the limits.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    lowest, highest, cell = 262_144, 1_000_000, 28
    codec = ImageCodec(
        patch=14,
        merge=2,
        temporal=2,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        resample=3,
        min_pixels=lowest,
        max_pixels=highest,
    )
    assert easyr1((200, 300), lowest, highest) == (418, 627)
    assert smart_resize(418, 627, factor=cell, min_pixels=3136, max_pixels=12_845_056) == (420, 616)
    assert codec._settled_size(200, 300) == (420, 644)
    for size in [(200, 300), (3, 5), (13, 3), (28, 7), (1280, 2520), (8526, 900), (60, 774), (512, 512), (999, 1001)]:
        theirs = smart_resize(*easyr1(size, lowest, highest), factor=cell, min_pixels=3136, max_pixels=12_845_056)
        ours = codec._settled_size(*size)
        assert all(abs(a - b) <= cell for a, b in zip(ours, theirs, strict=True)), size
        assert lowest <= ours[0] * ours[1] <= highest


def easyr1(size: tuple[int, int], lowest: int, highest: int) -> tuple[int, int]:
    """(height, width) after EasyR1's own resize, before the processor's."""
    height, width = size
    for limit, beyond in ((highest, height * width > highest), (lowest, height * width < lowest)):
        if beyond:
            ratio = sqrt(limit / (height * width))
            height, width = int(height * ratio), int(width * ratio)
    return height, width


def test_the_command_prints_the_card_and_writes_it(data: DataConfig, tmp_path: Path, capsys: pytest.CaptureFixture):
    words = [
        "--data.source",
        "hub",
        "--data.path",
        data.path,
        "--data.dataset",
        "geometry3k",
        "--splits",
        "train",
        "test",
    ]
    assert main([*words, "--out", str(tmp_path / "card.json")]) == 0
    told = capsys.readouterr().out
    assert "no answer: 1" in told and "4 (published:" in told and "Shared figures" in told
    assert json.loads((tmp_path / "card.json").read_text())["splits"].keys() == {"train", "test"}
    assert main(["--catalogue"]) == 0
    assert "hallusionbench" in capsys.readouterr().out


def test_control_codes_of_a_data_set_do_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture):
    parquet(tmp_path, "train", [row(1, "\x1b]0;owned\x07[bold]{")], GEOMETRY3K)
    main(["--data.source", "hub", "--data.path", str(tmp_path), "--data.dataset", "geometry3k", "--splits", "train"])
    assert "\x1b]0;" not in capsys.readouterr().out
