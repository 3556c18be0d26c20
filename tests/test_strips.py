"""Strips carry what the attack read, and evaluation rows the figure that they are about."""

import json

import numpy as np
import torch
from PIL import Image

from saei import schema
from saei.config import Config
from saei.recorder import Recorder
from saei.strips import MOST_TEXTS, attack_texts, strip


def test_the_texts_of_a_strip_are_token_by_token_with_the_kept_positions():
    kept = ((0, 2), (1,), (0,))
    found = attack_texts(lambda ids: "abcdefgh"[ids[0]], kept, [(0, 1, 2), (7, 6), (3,), (4,)])
    assert found == [{"tokens": ["a", "b", "c"], "kept": [0, 2]}, {"tokens": ["h", "g"], "kept": [1]}]
    assert len(found) == MOST_TEXTS


def test_an_attack_that_read_nothing_has_no_texts():
    assert attack_texts(str, (), [(1,)]) == []


def test_a_picture_keeps_its_texts_and_is_written_alike_twice(tmp_path):
    (tmp_path / schema.IMAGES_FOLDER).mkdir()
    recorder = Recorder(Config(out=str(tmp_path)))
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    texts = [{"tokens": ["<script>", "é", "�"], "kept": [1]}]
    for name in ("one.png", "two.png"):
        recorder.picture(name, pixels, texts)
    one, two = (tmp_path / schema.IMAGES_FOLDER / name for name in ("one.png", "two.png"))
    assert one.read_bytes() == two.read_bytes()
    with Image.open(one) as image:
        assert json.loads(image.info[schema.ABOUT]) == texts  # pyright: ignore[reportArgumentType]


def test_the_difference_is_stretched_to_the_full_range_around_128():
    clean = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    moved = clean.clone()
    moved[:, 0, 1] = 98
    shown = strip(clean, moved)
    assert shown.shape == (1, 2 * 3 + 2 * 4, 3)
    assert shown[0, -2:, 0].tolist() == [128, 1]  # unchanged, and two levels down: 128 - 127
