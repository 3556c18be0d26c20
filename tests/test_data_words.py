"""What is told of a wrong column, or of one file for three splits; ids that have to be typed are whole."""

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from saei.config import DataConfig
from saei.data import fingerprint, load_problems
from saei.data.catalog import catalog
from saei.data.show import catalogue_table
from tests.hub_fixtures import TEXT, hub, jsonl, own_cache, parquet, picture

__all__ = ["own_cache"]


def test_a_wrong_picture_column_is_named_with_the_one_that_was_meant(tmp_path: Path):
    rows = [{"figur": "a.png", "the question": "Find x.", "gold": "3"}]
    for split in ("train", "validation", "test"):
        parquet(tmp_path, split, rows, dict.fromkeys(rows[0], TEXT))
    mapped = hub(tmp_path, columns=("image=figure", "question=the question", "answer=gold"))
    wanted = "no column 'figure' for the image; its columns are figur, the question, gold: did you mean 'figur'[?] Map"
    for told in (lambda: load_problems(mapped, "train"), lambda: fingerprint(mapped)):
        with pytest.raises(ValueError, match=wanted):
            told()
    with pytest.raises(ValueError, match="no column 'images' for the image; its columns are figur, the question, gold"):
        load_problems(hub(tmp_path, "k12_freeform"), "train[:60%]")


def test_the_cure_for_a_folder_with_one_split_works_as_it_is_printed(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(picture(4))
    rows = [{"id": str(i), "image": "a.png", "question": "Find x.", "answer": "3"} for i in range(10)]
    jsonl(tmp_path / "test.jsonl", rows)
    with pytest.raises(ValueError, match=r"has no train\.jsonl; its splits: test\. Slices") as refused:
        load_problems(DataConfig(source="local", path=str(tmp_path)), "train")
    words = shlex.split(str(refused.value).partition("do, too: ")[2])
    given = {word: words[at + 1] for at, word in enumerate(words) if word.startswith("--")}
    assert given["--data.source"] == "hub" and given["--data.path"] == str(tmp_path)
    splits = [given[f"--data.{name}-split"] for name in ("train", "validation", "test")]
    data = DataConfig(
        source="hub", path=str(tmp_path), columns=tuple(word for word in words if "=" in word and word[0] != "-"),
        train_split=splits[0], validation_split=splits[1], test_split=splits[2],
    )  # fmt: skip
    assert [len(load_problems(data, split)) for split in splits] == [6, 2, 2]


def test_the_catalogue_shows_every_id_whole_in_eighty_columns():
    out = io.StringIO()
    Console(file=out, width=80).print(catalogue_table())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in out.getvalue()
    head = next(line for line in lines if "hub id" in line)
    start, end = head.index("hub id"), head.index("splits")
    held = "".join(line[start:end].strip() for line in lines)
    for entry in catalog().values():
        for one in (entry.hub,) if entry.hub else entry.ids:
            assert one in held
