"""benchmarks/memory.py compares heads that agree, counts what a process holds, and says what does not run here."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import heads, memory
from benchmarks.heads import HEADS, Case, Missing, Size, refuse_other_results
from saei.cli import BadInput, Told

SMALL = Size(tokens=24, vocabulary=300, width=16, temperature=0.8, dtype="float32", device="cpu", threads=1)


def test_the_quick_run_writes_peaks_and_times_and_our_head_holds_an_eighth_at_most(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(memory.ROOT))
    out = tmp_path / "memory.json"
    assert memory.command(["--quick", "--heads", "naive", "ours", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    naive, ours = figures["memory"]["naive"], figures["memory"]["ours"]
    logits = 4 * 1024 * 20000
    gradients = 4 * 32 * (1024 + 20000)
    assert naive["gradient_bytes"] == ours["gradient_bytes"] == gradients
    assert naive["bytes"] > 3 * logits and ours["bytes"] < logits / 2
    assert ours["naive_over_it"] == naive["bytes"] / ours["bytes"] > 8
    assert figures["time"]["naive"]["over_naive"]["median"] == 1
    assert figures["time"]["ours"]["seconds"]["rounds"] == 3


def test_every_head_that_runs_here_has_the_naive_heads_results_and_the_others_say_why_not():
    case = Case(SMALL)
    expected = case.turn(HEADS["naive"]())
    ran = []
    for name, make in HEADS.items():
        try:
            head = make()
        except Missing as error:
            assert name == "Liger" and "Triton" in str(error)
            continue
        refuse_other_results(name, case.turn(head), expected, SMALL.dtype)
        ran.append(name)
    assert ran[:3] == ["naive", "ours", "TRL"]


def test_other_work_is_refused_and_named():
    case, plain = Case(SMALL), HEADS["naive"]()
    expected = case.turn(plain)
    warmer = case.turn(lambda states, weight, targets, temperature: plain(states, weight, targets, 1.0))
    with pytest.raises(Told, match=r"warmer: log-probs differ from the naive head's by .* not equal work"):
        refuse_other_results("warmer", warmer, expected, "float32")
    halved = (*expected[:3], expected[3] / 2)
    with pytest.raises(Told, match="d weight differ"):
        refuse_other_results("halved", halved, expected, "float32")
    nothing = (*expected[:3], expected[3] * torch.nan)
    with pytest.raises(Told, match="d weight differ"):
        refuse_other_results("nan", nothing, expected, "float32")


def test_other_work_at_the_full_size_is_refused_by_its_norms(monkeypatch):
    one = {"bytes": 9, "gradient_bytes": 4, "seconds": 1.0}
    norms = {"naive": [1.0, 2.0, 3.0, 4.0], "ours": [1.0, 2.0, 3.0, 4.1]}
    monkeypatch.setattr(memory, "held", lambda name, size: one | {"digest": norms[name]})
    with pytest.raises(Told, match=r"ours: a result of norm 4\.1 where the naive head's has 4: not equal work"):
        memory.memory_of(memory.Settings(heads=("naive", "ours")), SMALL)


def test_a_head_that_cannot_run_has_a_row_with_the_reason(monkeypatch):
    def gone():
        raise Missing("needs what is not here")

    monkeypatch.setitem(HEADS, "Liger", gone)
    assert heads.measured("Liger", SMALL) == {"missing": "needs what is not here"}
    times = memory.times_of(memory.Settings(heads=("naive", "Liger"), quick=True), SMALL)
    assert times["Liger"] == {"missing": "needs what is not here"}
    first, second = memory.tables_of({"Liger": times["Liger"]}, times, SMALL, replace(SMALL, tokens=8))
    for table in (first, second):
        assert list(table.columns[-1].cells) == ["does not run: needs what is not here"]


def test_a_head_in_a_process_that_fails_is_told(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(memory.ROOT))
    with pytest.raises(Told, match=r"the naive head ended with code 1 at 24 tokens: .*float31"):
        memory.held("naive", replace(SMALL, dtype="float31"))


@pytest.mark.parametrize("options", [{"heads": ("ours",)}, {"heads": ("naive", "mine")}, {"dtype": "float16"}])
def test_settings_that_cannot_be_compared_are_refused(options):
    (name,) = options
    with pytest.raises(BadInput, match=f"--{name}"):
        memory.Settings(**options)
