"""The sets of the catalogue that differ from the others by little: each read from a table with its own columns."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Image as ImageFeature
from datasets import Sequence, Value

from saei.data import load_problems
from tests.hub_fixtures import hub, image, own_cache, parquet  # noqa: F401  (own_cache is a fixture)

TEXT, MANY, ONE = Value("string"), Sequence(ImageFeature()), ImageFeature()
SETS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "geometry3k_4choices": (
        "test",
        {"images": MANY, "problem": TEXT, "choices": Sequence(TEXT), "ground_truth": TEXT},
        {"images": [image(1)], "problem": "<image>Find x.", "choices": ["3", "4", "5", "6"], "ground_truth": "C"},
    ),
    "k12_eval": (
        "train",
        {"id": TEXT, "question": TEXT, "answer": TEXT, "image": ONE},
        {"id": "u", "question": "Find x.", "answer": "$$\\dfrac{3}{2}$$", "image": image(1)},
    ),
    "geoqa_8k": (
        "train",
        {"images": MANY, "problem": TEXT, "answer": TEXT},
        {"images": [image(1)], "problem": "<image>Find x.", "answer": "<answer> 3 </answer>"},
    ),
    "clevr_count": (
        "test",
        {"images": MANY, "problem": TEXT, "answer": TEXT},
        {"images": [image(1)], "problem": "<image>How many?", "answer": "7"},
    ),
}
GOLDS = {"geometry3k_4choices": "C", "k12_eval": "\\dfrac{3}{2}", "geoqa_8k": "3", "clevr_count": "7"}


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_from_a_table_with_its_columns(tmp_path: Path, name: str):
    split, features, row = SETS[name]
    parquet(tmp_path, split, [row], features)
    (problem,) = load_problems(hub(tmp_path, name), split)
    assert problem.answer == GOLDS[name]
    assert [picture.shape for picture in problem.images] == [(30, 40, 3)]
    asked = row.get("problem", row.get("question"))
    assert problem.question == asked + ("\n(A) 3\n(B) 4\n(C) 5\n(D) 6" if "choices" in row else "")
    assert problem.choices == (tuple(row["choices"]) if "choices" in row else None)
