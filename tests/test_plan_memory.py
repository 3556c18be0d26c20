"""The memory plan against what a tiny model really holds and saves, and against published parameter counts."""

import json

import pytest
import torch
from torch.optim import AdamW

from saei.cli import BadInput
from saei.config import Config, DataConfig, ModelConfig, with_overrides
from saei.data import load_problems
from saei.decoder import Prefix, RowDecoder, prefill
from saei.packing import split_requests
from saei.plan.__main__ import main
from saei.plan.activations import counting, decoder_bytes, packed_row, vision_bytes
from saei.plan.hours import A100, FLOPS_SHARE
from saei.plan.memory import cache_bytes, cache_columns
from saei.plan.settings import make_plan
from saei.plan.shapes import on_meta, stock_config
from saei.plan.storage import Layout, at_rest, counted, gradients, trained
from saei.policy import load_policy
from saei.scoring import _wanted_states
from saei.types import ScoreRequest, to_unit

PUBLISHED = {"3B": (3_754_622_976, None), "7B": (8_292_166_656, 676_550_144)}
"""Parameters of Qwen2.5-VL as the hub counts them, and of its vision tower as users print them."""
FP32 = Layout(compute=torch.float32, master=torch.float32)


@pytest.fixture(scope="module")
def policy():
    return load_policy(ModelConfig(), DataConfig())


@pytest.fixture(scope="module")
def prompt(policy):
    return policy.encode(load_problems(DataConfig(), "train")[0])


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_counted_as_the_hub_counts_them(size):
    model = on_meta(stock_config(ModelConfig(path=f"Qwen/Qwen2.5-VL-{size}-Instruct")), torch.bfloat16)
    all_, vision = PUBLISHED[size]
    assert counted(model) == all_
    assert vision is None or counted(model.model.visual) == vision


def test_bytes_at_rest_are_those_of_a_real_model_its_gradients_and_adams_states(policy):
    optimizer = AdamW(policy.model.parameters(), lr=0.0)
    sum(parameter.sum() for parameter in policy.model.parameters()).backward()
    held = sum(parameter.grad.nbytes for parameter in policy.model.parameters())
    optimizer.step()
    states = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if v.ndim)
    optimizer.zero_grad(set_to_none=True)
    model = on_meta(policy.model.config, torch.float32)
    rest = at_rest(model, FP32)
    assert rest["weights"] == sum(parameter.nbytes for parameter in policy.model.parameters())
    assert rest["optimizer"] == states
    assert rest["master weights"] == rest["reference policy"] == 0
    assert gradients(model, FP32) == held


def test_a_frozen_tower_takes_no_gradient_and_no_state_and_a_master_is_four_bytes():
    config = with_overrides(Config(), {"model.freeze_vision": True, "model.dtype": "bfloat16"})
    model = make_plan(config, processes=1, device_gb=80.0).model
    tower = counted(model.model.visual)
    assert trained(model) == counted(model) - tower
    wide = Layout(compute=torch.bfloat16, master=torch.float32)
    assert at_rest(model, wide) == {
        "weights": 2 * counted(model),
        "master weights": 4 * trained(model),
        "optimizer": 8 * trained(model),
        "reference policy": 0,
    }
    halves = Layout(compute=torch.bfloat16, master=torch.float32, parts=2)
    assert at_rest(model, halves)["optimizer"] == 4 * trained(model)
    assert at_rest(model, halves)["weights"] == tower  # the two bytes of what is not trained, halved


def test_an_adapter_is_all_that_is_trained_and_is_counted_as_the_loaded_one():
    config = with_overrides(Config(), {"model.lora_rank": 8})
    plan = make_plan(config, processes=1, device_gb=80.0)
    real = load_policy(config.model, config.data).model
    assert trained(plan.model) == sum(p.numel() for p in real.parameters() if p.requires_grad) > 0
    assert plan.phases[0].parts["optimizer"] == 8 * trained(plan.model)


def test_the_cache_has_the_bytes_of_the_decoders_own_tensors(policy, prompt):
    rows, new_tokens = 5, 70
    with torch.no_grad():
        start = prefill(policy, [Prefix(prompt.token_ids, prompt.images)])
        decoder = RowDecoder(policy, start, torch.zeros(rows, dtype=torch.long))
        for _ in range(new_tokens - 1):  # the last token is drawn, not fed
            decoder.step(torch.full((rows,), 40), None)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in decoder._layers)
    assert cache_bytes(policy.model, rows, cache_columns(new_tokens)) == held
    prompts = sum(tensor.nbytes for tensor in (*start.keys, *start.values))
    assert cache_bytes(policy.model, 1, len(prompt.token_ids)) == prompts


def test_what_a_packed_row_keeps_for_its_backward_pass_is_what_autograd_saves(policy, prompt):
    completions = tuple(tuple(range(40, 90)) for _ in range(6))
    request = ScoreRequest(prompt=prompt, images=prompt.images, completions=completions)
    (pieces,) = split_requests([request], 6144, policy.attention_cost)
    tower = policy.family.vision(policy.model)[0].requires_grad_(False)
    with counting(policy.model) as saved:
        _wanted_states(policy, pieces)
    tower.requires_grad_(True)
    prefix = len(prompt.token_ids)
    row = packed_row(prefix + 300, prefix, 50, 6)
    assert row == (prefix + 300, 7 * prefix + 300, 6 * 50 * (prefix + 50))
    reckoned = decoder_bytes(policy.model.config, torch.float32, row, recompute=False, weights=True)
    assert reckoned == pytest.approx(saved.bytes, rel=0.1)  # another kernel on a CPU, and the embeddings beside
    again = decoder_bytes(policy.model.config, torch.float32, row, recompute=True, weights=True)
    assert again < reckoned / 2


def test_what_an_image_keeps_for_its_pixel_gradient_is_what_autograd_saves(policy, prompt):
    policy.model.requires_grad_(False)
    image = to_unit(prompt.images[0]).requires_grad_()
    with counting(policy.model) as saved:
        policy.family.encode(policy.model, policy.codec, [image])
    policy.model.requires_grad_(True)
    patches = len(policy.codec.patchify(prompt.images[0]))
    reckoned = vision_bytes(policy.model.config, torch.float32, policy.codec, patches, recompute=False)
    assert reckoned == pytest.approx(saved.bytes, rel=0.02)


def test_hours_are_tokens_times_arithmetic_over_stated_speed():
    config = with_overrides(Config(), {"rollout.n_clean": 12, "rollout.n_view": 0, "steps": 36})
    plan = make_plan(config, processes=1, device_gb=80.0)
    row = plan.work.prompt + 12 * plan.work.completion
    # 8 problems; 2 operations a parameter and token forward, 4 backward
    update = 8 * row * 6 * counted(plan.model) / (A100.flops * FLOPS_SHARE)
    assert plan.hours.step["update"] == pytest.approx(update)
    assert plan.hours.training == pytest.approx(36 * sum(plan.hours.step.values()) / 3600)
    assert "attack" not in plan.hours.step
    halved = make_plan(config, processes=2, device_gb=80.0)
    assert halved.hours.step["update"] == pytest.approx(update / 2)


def test_a_plan_says_that_nothing_is_measured_and_what_to_change_where_it_does_not_fit(capsys):
    words = ["recipes/geo3k-3b-grpo.toml", "--gpus", "4", "--gpu-gb", "10", "--seed", "7"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert said.count("NOT MEASURED") == 2  # beside the memory and beside the hours
    assert "DOES NOT FIT: update needs" in said
    assert "--optim.pack-tokens 8192" in said
    assert "sbatch" not in said and "sweeps/run.py" not in said
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["sbatch"] == ""


def test_a_plan_that_fits_ends_with_the_command_that_submits_it(capsys):
    words = ["recipes/geo3k-3b-grpo.toml", "--gpus", "4", "--gpu-gb", "80", "--seed", "7"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "python -u -m saei.train --recipe recipes/geo3k-3b-grpo.toml --seed 7 --out results/manual/" in said
    assert "--ntasks-per-node=4" in said


def test_several_recipes_and_what_is_no_flag_are_refused_in_the_name_of_the_plan(capsys):
    with pytest.raises(BadInput, match=r"saei\.plan takes one recipe at a time, got 3: a\.toml, b\.toml, \.\.\."):
        main(["a.toml", "b.toml", "c.toml", "--gpus", "8"])
    with pytest.raises(SystemExit):
        main(["recipes/geo3k-3b-grpo.toml", "--gpus", "8", "b.toml"])
    assert "python -m saei.plan --help" in capsys.readouterr().err


def test_a_plan_that_fits_ends_with_code_0_and_is_json_on_request(capsys):
    assert main(["--preset", "saei", "--gpus", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["measured"] is False
    assert plan["fits"] and plan["advice"] == []
    assert set(plan["bytes"]) == {"at rest", "sampling", "attack", "scoring", "update"}


def test_a_model_of_unknown_shape_is_refused_with_what_to_do():
    config = with_overrides(Config(), {"model.path": "Nobody/No-Model"})
    with pytest.raises(ValueError, match=r"model\.path 'Nobody/No-Model': its shape is not known here.*config\.json"):
        make_plan(config, processes=1, device_gb=80.0)
