"""The shipped model: its format, its tokenizer, what its card says, and the recipe that rebuilds it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from saei.config import DataConfig
from saei.data import load_problems
from saei.data.digits import answer_of, draw, task_at
from saei.seeding import stream
from saei.tiny import model_dir
from saei.tiny.build import SPECIAL, build_model, build_tokenizer
from saei.tiny.measure import Measurer, grey, majority_rate, own
from saei.tiny.solutions import STYLES, solution
from saei.tiny.warmstart import FIRST_INDEX, WarmStart, forward_loss, make_batch, patches_of, warm_start

CARD = json.loads((model_dir() / "card.json").read_text())


@pytest.fixture(scope="module")
def measurer() -> Measurer:
    torch.set_num_threads(1)
    return Measurer(model_dir())


def test_the_folder_is_small_and_loads_with_the_stock_classes():
    files = {path.name: path.stat().st_size for path in model_dir().iterdir()}
    assert sum(files.values()) <= 8_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= set(files)
    model = AutoModelForImageTextToText.from_pretrained(model_dir())
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 1_500_000 <= sum(weight.numel() for weight in model.parameters()) <= 2_100_000
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_any_text_encodes_digits_are_single_and_special_tokens_are_one_id_each():
    tokenizer = AutoTokenizer.from_pretrained(model_dir())
    assert 512 <= len(tokenizer) <= 1024
    for text in ("<think>3+8=11</think>\\boxed{11}", "héllo 世界 🙂\t\n", "$\\frac{1}{2}$ ∠ABC", "a  b   c "):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert [tokenizer.decode([token]) for token in tokenizer("2026").input_ids] == ["2", "0", "2", "6"]
    for token in (*SPECIAL, "<think>", "</think>"):
        assert len(tokenizer(token).input_ids) == 1
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"


def test_the_chat_template_is_qwens():
    tokenizer = AutoTokenizer.from_pretrained(model_dir())
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many?"}]}
    turn = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>\n<|im_start|>assistant\n"
    text = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + turn
    system = {"role": "system", "content": "Be brief."}
    text = tokenizer.apply_chat_template([system, user], add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n" + turn


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
def test_the_image_processor_leaves_a_grid_at_its_size_with_and_without_torchvision(backend: str):
    if backend == "torchvision":
        pytest.importorskip("torchvision", reason="torchvision is not installed; the PIL backend is tested")
    processor = AutoImageProcessor.from_pretrained(model_dir(), backend=backend)
    picture = load_problems(DataConfig(), "validation")[0].images[0]
    output = processor(images=[picture], return_tensors="pt")
    # 84 / 14 = 6 patches a side; 3 channels x 2 copies x 14 x 14 = 1176 values a patch
    assert output["image_grid_thw"].tolist() == [[1, 6, 6]]
    assert output["pixel_values"].shape == (36, 1176)
    torch.testing.assert_close(output["pixel_values"], patches_of(picture[None]), atol=1e-5, rtol=0)


def test_the_card_is_within_the_required_ranges():
    figures = CARD["figures"]
    for split in ("validation", "test"):
        assert 0.30 <= figures[f"{split}_accuracy_sampled"] <= 0.60
        assert figures[f"{split}_accuracy_greedy"] > figures[f"{split}_accuracy_sampled"]
    assert figures["entropy_nats"] >= 0.15
    # The model must look: blind or misled it does no better than the most frequent answer (three points of noise).
    for blind in ("grey", "other_image"):
        for way in ("sampled", "greedy"):
            assert figures[f"test_accuracy_{blind}_{way}"] <= figures["test_majority_rate"] + 0.03
    assert "grey" in (model_dir() / "MODEL_CARD.md").read_text()


def test_the_shipped_weights_do_what_the_card_says(measurer: Measurer):
    problems = load_problems(DataConfig(), "validation")[:96]
    sampled = measurer.answer(problems, own, sample=True, seed=5)
    # 96 draws at p = 0.5 have a standard deviation of 0.05: three of them
    assert abs(sampled.accuracy - CARD["figures"]["validation_accuracy_sampled"]) < 0.15
    assert abs(sampled.entropy - CARD["figures"]["entropy_nats"]) < 0.04
    assert sampled.formatted > 0.9
    greedy = measurer.answer(problems, own, sample=False, seed=5).accuracy
    blind = measurer.answer(problems, grey, sample=False, seed=5).accuracy
    assert greedy > blind + 0.2


def test_the_majority_rate_is_the_share_of_each_kinds_most_frequent_answer():
    problems = load_problems(DataConfig(), "train")[:400]
    kinds = {problem.kind for problem in problems}
    best = 0
    for kind in kinds:
        answers = [problem.answer for problem in problems if problem.kind == kind]
        best += max(answers.count(answer) for answer in set(answers))
    assert majority_rate(problems, problems) == pytest.approx(best / 400)


def test_solutions_without_mistakes_end_in_the_answer_and_come_in_every_style():
    beginnings = set()
    for index in range(200):
        task = task_at("train", index, 0)
        text = solution(task, stream(0, "warmstart", "test", index), 0.0)
        assert text.startswith("<think>")
        assert text.endswith(f"</think>\\boxed{{{answer_of(task)}}}")
        beginnings.add(text[:12])
    assert len(beginnings) > 2 * len(STYLES)


def test_mistakes_make_answers_wrong_about_as_often_as_asked():
    right = 0
    for index in range(400):
        task = task_at("train", index, 0)
        text = solution(task, stream(0, "warmstart", "test", index), 0.12)
        right += text.endswith(f"\\boxed{{{answer_of(task)}}}")
    assert 0.55 < right / 400 < 0.85


def test_the_warm_starts_loss_is_the_stock_models_loss():
    tokenizer = build_tokenizer(0)
    model = build_model(tokenizer, 0)
    batch = make_batch(WarmStart(batch=4), tokenizer, "mixed", 0)
    with torch.no_grad():
        mine, naming = forward_loss(model, batch, name_cells=True)
        stock = model(
            input_ids=batch.input_ids,
            attention_mask=(batch.input_ids != tokenizer.pad_token_id).long(),
            mm_token_type_ids=(batch.input_ids == model.config.image_token_id).int(),
            pixel_values=batch.pixel_values,
            image_grid_thw=torch.tensor([[1, 6, 6]]).expand(4, 3),
            labels=batch.labels,
        ).loss
    torch.testing.assert_close(mine, stock)
    assert naming > 1.0


def test_warm_start_draws_no_picture_of_the_train_split():
    train = {load_problems(DataConfig(), "train")[index].images[0].tobytes() for index in range(200)}
    first = WarmStart().batch
    still = np.random.default_rng(0)
    made = {draw(task_at("train", FIRST_INDEX + i, 0), "none", still).tobytes() for i in range(first)}
    assert train.isdisjoint(made)


def test_a_short_warm_start_writes_a_whole_folder_and_repeats_bit_for_bit(tmp_path: Path):
    digests = []
    for name in ("one", "two"):
        out = tmp_path / name
        warm_start(WarmStart(out=out, reading_steps=2, mixed_steps=2, practice_steps=2, batch=4, measure_problems=4))
        digests.append(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in model_dir().iterdir()}
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (model_dir() / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_the_recipe_rebuilds_the_shipped_accuracy_within_three_points(tmp_path: Path):
    recipe = {name: value for name, value in CARD["recipe"].items() if name != "out"}
    warm_start(WarmStart(out=tmp_path, **recipe))
    figures = json.loads((tmp_path / "card.json").read_text())["figures"]
    for name in ("validation_accuracy_greedy", "validation_accuracy_sampled"):
        assert abs(figures[name] - CARD["figures"][name]) <= 0.03
