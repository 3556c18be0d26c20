"""Blocks of an evaluation: how many items a kill loses, what Ctrl-C says, what is told without a terminal."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from saei.benchmarks import blocks as blocks_module
from saei.benchmarks.blocks import blocks, interrupted_words, progress_of
from saei.cli import run_main
from saei.config import Config, with_overrides


def of(rows: int, samples: int, count: int, engine: str = "transformers") -> list[tuple[int, int]]:
    settings = {"rollout.batch_rows": rows, "rollout.engine": engine, "rollout.engine_python": "/bin/python"}
    found = blocks(count, with_overrides(Config(), settings), samples)
    assert [number for block in found for number in block] == list(range(count))
    return [(block[0], block[-1]) for block in found]


def test_a_block_has_two_batches_of_samples_and_stays_between_multiples_of_the_batch():
    assert of(96, 8, 103) == [(0, 23), (24, 47), (48, 71), (72, 95), (96, 102)]
    assert of(96, 0, 103) == of(96, 1, 103) == of(96, 2, 103) == [(0, 95), (96, 102)]
    # 5 samples: 3 pieces of at most ceil(7 / 3) = 3 items; the last of each seven is short
    assert of(7, 5, 16) == [(0, 2), (3, 5), (6, 6), (7, 9), (10, 12), (13, 13), (14, 15)]
    assert of(1, 8, 2) == [(0, 0), (1, 1)]
    assert of(96, 8, 103, "vllm") == [(0, 95), (96, 102)]


def test_ctrl_c_says_how_many_items_are_kept_and_where(tmp_path: Path, capsys):
    for name, part in (("mathvision", "part-000000-000023"), ("mathverse", "part-000000-000005")):
        (tmp_path / name / "items").mkdir(parents=True)
        (tmp_path / name / "items" / f"{part}.parquet").touch()

    def command() -> int:
        with interrupted_words(tmp_path, ["mathvision", "mathverse", "mathvista"]):
            raise KeyboardInterrupt

    assert run_main(command) == 130
    said = capsys.readouterr().err
    assert said == f"interrupted; 30 finished items are kept in {tmp_path}; the same command goes on\n"


@pytest.mark.parametrize("kept", [0, 24])
def test_without_a_terminal_the_start_is_told_at_once_and_then_every_half_minute(kept, capsys, monkeypatch):
    clock = iter([0.0, 29.0, 31.0, 31.0, 70.0])
    monkeypatch.setattr(blocks_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    before = ", 24 of them kept before" if kept else ""
    with progress_of("MathVision", 103, kept, Path("out")) as done:
        assert capsys.readouterr().err == f"MathVision: 103 items{before}; finished ones are kept in out\n"
        done(48)  # 29 s after the start
        assert capsys.readouterr().err == ""
        done(72)
        assert capsys.readouterr().err == "MathVision: 72 of 103 items\n"
        done(103)  # the end is the table's to tell
    assert capsys.readouterr().err == ""
