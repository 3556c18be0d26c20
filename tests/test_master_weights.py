"""bfloat16 weights with an fp32 master copy: what an update does, worked out by hand, and what a run keeps of it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim import AdamW

from saei import schema
from saei.config import OptimConfig
from saei.master_weights import MasterAdamW, masters_in_place, optimizer_for, told_of_training, updated
from saei.train import train
from tests.runs import assert_same_run, small_config

SETTINGS = OptimConfig(lr=1e-6)
MASTERED = OptimConfig(lr=1e-6, master_dtype="float32")


def one_weight(value: float, dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.constant_(layer.weight, value)
    return layer


def learn(layer: nn.Linear, optim: OptimConfig, updates: int) -> float:
    """Updates with the gradient 1; returns the optimizer's own number."""
    optimizer = optimizer_for(layer, optim)
    for _ in range(updates):
        layer.weight.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return updated(optimizer)[0].item()


def test_an_update_of_1e_6_is_lost_on_a_bfloat16_weight_and_kept_by_its_master_copy():
    # under a constant gradient AdamW moves a weight by lr an update; below 1, bfloat16 has steps of 2^-8
    assert learn(layer := one_weight(1.0), SETTINGS, 100) == 1.0
    # fp32 has steps of 6e-8 there: at most 3e-8 is lost in each of the 100 updates
    assert learn(layer, MASTERED, 100) == pytest.approx(1 - 100e-6, abs=3e-6)
    assert layer.weight.item() == 1.0  # 1e-4 is less than half a step


def test_the_weight_follows_as_soon_as_the_copy_is_half_a_step_away():
    # lr 2^-12: after 8 updates the copy is at 1 - 2^-9, half a step of 2^-8 below 1, and ties go to the even 1.0
    optim = OptimConfig(lr=2.0**-12, master_dtype="float32")
    for updates, expected in ((7, 1.0), (10, 1 - 2.0**-8)):
        learn(layer := one_weight(1.0), optim, updates)
        assert layer.weight.item() == expected
    learn(layer := one_weight(1.0), OptimConfig(lr=2.0**-12), 1000)
    assert layer.weight.item() == 1.0  # without a copy, never


def test_gradients_of_micro_batches_add_up_in_fp32():
    # 256 + 1 is 256 in bfloat16, whose 8 bits end there
    layer = one_weight(1.0)
    optimizer = optimizer_for(layer, MASTERED)
    for value in (256.0, 1.0):
        layer(torch.full((1, 1), value, dtype=torch.bfloat16)).sum().backward()
    assert updated(optimizer)[0].grad is not None and updated(optimizer)[0].grad.item() == 257.0
    assert layer.weight.grad is None
    optimizer.zero_grad()
    assert updated(optimizer)[0].grad is None


def test_an_update_equals_that_of_stock_adamw_on_fp32_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).bfloat16()
    optim = OptimConfig(lr=1e-2, weight_decay=0.1, master_dtype="float32")
    optimizer = optimizer_for(model, optim)
    copies = [parameter.detach().float().requires_grad_() for parameter in model.parameters()]
    oracle = AdamW(copies, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for _ in range(5):
        model(torch.randn(8, 6, dtype=torch.bfloat16)).square().mean().backward()
        for copy, master in zip(copies, updated(optimizer), strict=True):
            copy.grad = master.grad.clone()
        optimizer.step(), optimizer.zero_grad(), oracle.step()
    for copy, master, weight in zip(copies, updated(optimizer), model.parameters(), strict=True):
        assert torch.equal(copy, master) and torch.equal(weight, copy.bfloat16())


def test_weights_that_are_wide_enough_have_no_copy():
    model = nn.Sequential(one_weight(1.0), one_weight(1.0, torch.float32))
    optimizer = optimizer_for(model, MASTERED)
    assert isinstance(optimizer, MasterAdamW)
    assert [weight for weight, _ in optimizer.pairs] == [model[0].weight]
    assert updated(optimizer)[1] is model[1].weight
    model[1].requires_grad_(False)
    assert len(updated(optimizer_for(model, MASTERED))) == 1  # and frozen ones none at all
    assert type(optimizer_for(model, SETTINGS)) is AdamW


def test_freezing_for_an_attack_and_showing_the_copies_leave_the_handing_over_as_it_was():
    layer = one_weight(1.0)
    optimizer = optimizer_for(layer, MASTERED)
    layer.requires_grad_(False)
    layer.requires_grad_(True)
    with masters_in_place(optimizer):
        assert layer.weight.dtype == torch.float32
        layer.weight.data.copy_(torch.tensor(1 + 2.0**-12))  # as a checkpoint is read
    assert layer.weight.dtype == torch.bfloat16 and layer.weight.item() == 1.0
    assert updated(optimizer)[0].item() == 1 + 2.0**-12
    layer.weight.sum().backward()
    assert layer.weight.grad is None and updated(optimizer)[0].grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["same", "float32"])
def test_an_update_holds_no_second_copy_of_all_weights(kind):
    weight = torch.nn.Linear(2, 2).bfloat16()
    optimizer = optimizer_for(weight, OptimConfig(master_dtype=kind))
    assert [group["foreach"] for group in optimizer.param_groups] == [False]


def test_the_log_says_what_is_trained_and_warns_of_lost_updates():
    model = nn.Sequential(one_weight(1.0), nn.Linear(1000, 2000, bias=False, dtype=torch.bfloat16))
    model[0].requires_grad_(False)
    plain, mastered = (told_of_training(model, optimizer_for(model, o), o) for o in (SETTINGS, MASTERED))
    # 2 million weights: two numbers of 2 bytes each, or a copy and two numbers of 4 bytes
    assert plain[0] == "training 2.00 of 2.00 million weights (bfloat16); optimizer 7.6 MB"
    assert "rounded away on every weight larger than 0.0005; set --optim.master-dtype float32" in plain[1]
    assert mastered == [
        "training 2.00 of 2.00 million weights (bfloat16); optimizer 22.9 MB, with float32 master copies"
    ]


@pytest.fixture(scope="module")
def narrow_run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("narrow") / "run"
    train(narrow_config(out))
    return out


def narrow_config(out: Path):
    changed = {
        "model.dtype": "bfloat16", "optim.master_dtype": "float32", "optim.lr": 1e-5, "steps": 2, "checkpoint.every": 1,
        "rollout.max_new_tokens": 8, "eval.every": 0, "eval.problems": 1, "eval.test_problems": 1, "eval.samples": 1,
        "record.fresh_every": 0, "control.rule": "bonus", "control.coef": 1e-2,  # a gradient, whatever is rewarded
    }  # fmt: skip
    return small_config(out, "grpo", **{name.replace(".", "__"): value for name, value in changed.items()})


def test_a_checkpoint_keeps_the_copies_and_the_model_their_rounding(narrow_run):
    kept = load_file(narrow_run / "checkpoints/step-000002/model.safetensors")
    saved = load_file(narrow_run / "model/model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    moved = [float((tensor - tensor.bfloat16().float()).abs().max()) for tensor in kept.values()]
    assert max(moved) > 0  # something that bfloat16 could not hold
    ours = sorted((tuple(t.shape), float(t.bfloat16().double().sum())) for t in kept.values())
    assert ours == sorted((tuple(t.shape), float(t.double().sum())) for t in saved.values())


def test_a_run_with_copies_that_was_interrupted_equals_one_that_was_not(narrow_run, tmp_path, monkeypatch):
    import saei.train

    original, calls = saei.train.train_step, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(saei.train, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(narrow_config(tmp_path / "run"))
    monkeypatch.setattr(saei.train, "train_step", original)
    train(narrow_config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", narrow_run)
    last = [run / "checkpoints/step-000002" for run in (tmp_path / "run", narrow_run)]
    assert (last[0] / "model.safetensors").read_bytes() == (last[1] / "model.safetensors").read_bytes()
    cursors = [json.loads((folder / "cursor.json").read_text()) for folder in last]
    assert cursors[0]["checksum"] == cursors[1]["checksum"]
    assert "with float32 master copies" in (narrow_run / schema.LOG_FILE).read_text()
