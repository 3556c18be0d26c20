"""benchmarks/gpu.sh runs with torch and transformers alone, and says what it could not run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_parts, stand_ins
from benchmarks.budget import Budget
from benchmarks.packed_group import Point, group_work, packed_scores
from benchmarks.random_model import SCALES, random_policy
from benchmarks.stock import stock_policy, with_attention

ROOT = Path(__file__).resolve().parent.parent


def machine(policy, **how):
    return gpu_parts.Machine(policy=policy, stock=stock_policy(policy), size="tiny", nats=1e-3, gradient=1e-2, **how)


def test_it_runs_where_only_torch_and_transformers_are_installed(tmp_path):
    out = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--scale", "tiny", "--seconds", "60", "--rounds", "3", "--out", str(out)]
    command = [sys.executable, str(ROOT / "tests/nothing_else_installed.py"), "benchmarks.gpu", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    written = json.loads(out.read_text())
    assert written["machine"]["stood_in_for"] == ["jaxtyping", "PIL"] and written["machine"]["device"] == "cpu"
    tables = written["figures"]["tables"]
    assert len(tables) == 5 and not any(written["figures"]["skipped"].values())
    contenders = [row.get("contender") for rows in tables.values() for row in rows]
    for name in ("packed, forward", "per row, forward + backward", "generate", "all logits", "dense mask, forward"):
        assert name in contenders
    (flex,) = [row for rows in tables.values() for row in rows if "why" in row]
    assert flex["contender"] == "flex" and "needs a GPU" in flex["why"] and "needs a GPU" in ran.stdout


def test_a_machine_without_a_gpu_is_told_what_to_do(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpu.main(["--device", "cuda"]) == 2
    assert "run with --device cpu --scale tiny" in capsys.readouterr().err


def test_nothing_stands_in_for_a_package_that_is_there():
    assert stand_ins.install() == [] == gpu.MISSING


def test_a_point_that_does_not_fit_is_a_row_that_says_so(monkeypatch):
    def no_room(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr(gpu_parts.packed_group, "assert_equal_work", no_room)
    rows = gpu_parts.packed(machine(random_policy("tiny", "cpu", torch.float32)), Budget(60.0))
    assert rows == [{"point": "64x3x16", "why": "out of memory: CUDA out of memory. Tried to allocate 9 GiB."}]


BACK_ENDS = ["sdpa", "saei_eager", pytest.param("saei_flex", marks=pytest.mark.slow)]  # flex is compiled first


@pytest.mark.parametrize("name", BACK_ENDS)
def test_a_twin_of_another_back_end_scores_alike(name):
    policy = random_policy("tiny", "cpu", torch.float32)
    scores = []
    for own in (policy, with_attention(policy, name)):
        work = group_work(own, own, Point(64, 3, 20), shortest=0.5, pack_tokens=4096)
        with torch.no_grad():
            scores.append(packed_scores(work)[0])
    assert float((scores[1] - scores[0]).abs().max()) < 1e-4


def test_the_twin_runs_the_back_end_that_was_asked_for():
    policy = random_policy("tiny", "cpu", torch.float32)
    named = [own.model.config.get_text_config()._attn_implementation for own in
             (policy, stock_policy(policy), with_attention(policy, "saei_flex"))]  # fmt: skip
    assert named == ["saei_sdpa", "sdpa", "saei_flex"]


def test_the_3b_scale_has_the_weights_of_qwen():
    # decoder layer: q and o 2048 x 2048 each, k and v 2048 x 256 each, three MLP products 2048 x 11008
    layer = 2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 11008
    sizes = SCALES["3b"]
    assert sizes.layers * layer + sizes.vocabulary * sizes.hidden == pytest.approx(3.09e9, rel=0.01)


def test_the_least_time_is_two_operations_a_weight_and_token():
    policy = random_policy("tiny", "cpu", torch.float32)
    work = group_work(policy, stock_policy(policy), Point(64, 3, 12), shortest=1.0, pack_tokens=4096)
    # by hand: q, o 160 x 160 with bias of q; k, v 160 x 80 with biases; MLP 3 x 160 x 448; two norms; 4 layers
    layer = 2 * 160**2 + 160 + 2 * (160 * 80 + 80) + 3 * 160 * 448 + 2 * 160
    row = gpu_parts.products_row(work, 1e9, {"packed: forward": [0.5, 0.5]})
    assert row["milliseconds"].median == pytest.approx(1000 * 2 * 4 * layer * 100 / 1e9)  # 64 + 3 x 12 = 100 tokens
    assert row["ratio"].median == pytest.approx(row["milliseconds"].median / 500)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_runs_on_a_gpu(tmp_path):
    out = tmp_path / "gpu.json"
    assert gpu.main(["--scale", "tiny", "--rounds", "3", "--seconds", "300", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["machine"]["gpu"]
