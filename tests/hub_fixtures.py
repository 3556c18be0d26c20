"""Small data sets written with the exact features of the hub's: what `datasets.load_dataset` would have there."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image

from saei.config import DataConfig

TEXT, WHOLE = Value("string"), Value("int64")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Arrow files and what was seen of pictures go to a folder of these tests."""
    patch = pytest.MonkeyPatch()
    patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield
    patch.undo()


def picture(number: int, size: tuple[int, int] = (40, 30), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded picture with its own levels for each number: a grey wedge and a bar at column `number`."""
    levels = np.tile(np.linspace(255, 120, size[0]).astype(np.uint8), (size[1], 1))
    levels[:, number % size[0]] = 0
    kept = io.BytesIO()
    Image.fromarray(levels).convert(mode).save(kept, kind)
    return kept.getvalue()


def image(number: int, **how: Any) -> dict[str, Any]:
    return {"bytes": picture(number, **how), "path": None}


def parquet(folder: Path, split: str, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
    """`data/<split>-00000-of-00001.parquet`, as push_to_hub writes it."""
    target = folder / "data" / f"{split}-00000-of-00001.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in features}
    Dataset.from_dict(columns, features=Features(features)).to_parquet(target)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def hub(folder: Path, dataset: str = "", **more: Any) -> DataConfig:
    return DataConfig(source="hub", path=str(folder), dataset=dataset, **more)


GEOMETRY3K = {"images": Sequence(ImageFeature()), "problem": TEXT, "answer": TEXT}
MMK12 = {"id": TEXT, "question": TEXT, "answer": TEXT, "subject": TEXT, "image": ImageFeature()}
SOLUTION = {"image": ImageFeature(), "problem": TEXT, "solution": TEXT}
MATHVISTA = {
    "pid": TEXT, "question": TEXT, "image": TEXT, "decoded_image": ImageFeature(), "choices": Sequence(TEXT),
    "unit": TEXT, "precision": Value("float64"), "answer": TEXT, "question_type": TEXT, "answer_type": TEXT,
    "metadata": {
        "category": TEXT, "context": TEXT, "grade": TEXT, "img_height": WHOLE, "img_width": WHOLE, "language": TEXT,
        "skills": Sequence(TEXT), "source": TEXT, "split": TEXT, "task": TEXT,
    },
    "query": TEXT,
}  # fmt: skip
MATHVERSE = {
    "sample_index": TEXT, "problem_index": TEXT, "problem_version": TEXT, "question": TEXT, "image": ImageFeature(),
    "answer": TEXT, "question_type": TEXT,
    "metadata": {"split": TEXT, "source": TEXT, "subject": TEXT, "subfield": TEXT},
    "query_wo": TEXT, "query_cot": TEXT, "question_for_eval": TEXT,
}  # fmt: skip
MATHVISION = {
    "id": TEXT, "question": TEXT, "options": Sequence(TEXT), "image": TEXT, "decoded_image": ImageFeature(),
    "answer": TEXT, "solution": TEXT, "level": WHOLE, "subject": TEXT,
}  # fmt: skip
HALLUSIONBENCH = {
    **dict.fromkeys(
        ("category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note", "question_id", "question",
         "gt_answer_details", "gt_answer", "filename"), TEXT,
    ),
    "image": ImageFeature(),
}  # fmt: skip
