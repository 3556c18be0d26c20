"""LoRA against peft itself: scores, gradients, the exported model, and runs that are interrupted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from saei import schema
from saei.adapters import adapter_off, adapter_parameters, add_adapter
from saei.cli import BadInput
from saei.config import Config, DataConfig, ModelConfig, with_overrides
from saei.identity import weights_fingerprint
from saei.master_weights import optimizer_for, told_of_training
from saei.policy import load_policy
from saei.recomputing import recompute_layers
from saei.reference import reference_policy
from saei.scoring import score_requests
from saei.tiny import model_dir
from saei.train import train
from saei.types import to_unit
from saei.views.climb import image_gradients
from tests.oracle import plain, scored, worst_difference
from tests.runs import assert_same_run, small_config
from tests.sampler_models import qwen2_5_vl, qwen3_vl
from tests.test_packing import requests_of

MAKERS = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}
SETTINGS = ModelConfig(lora_rank=4, lora_alpha=8, device="cpu")


def adapted(family: str = "qwen2_5_vl", settings: ModelConfig = SETTINGS, dtype: torch.dtype = torch.float64) -> Any:
    """A toy policy whose adapter already does something."""
    policy = scored(MAKERS[family](dtype))
    add_adapter(policy.model, policy.model.model.language_model, settings, seed=0)
    disturb(policy.model)
    return policy


def disturb(model: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)


def scores_of(policy: Any, requests: Any, **options: Any) -> Any:
    return score_requests(policy, requests, temperature=1.0, pack_tokens=4096, entropy_grad=True, **options)


def test_a_new_adapter_changes_no_score_and_trains_itself_alone():
    policy = scored(qwen2_5_vl())
    requests = requests_of(policy)
    expected = plain(policy, requests)
    state = torch.get_rng_state()
    add_adapter(policy.model, policy.model.model.language_model, SETTINGS, seed=0)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator was left alone
    assert worst_difference(expected, scores_of(policy, requests)) < 1e-6
    adapter = adapter_parameters(policy.model)
    # 2 layers of 7 linears, two matrices each
    assert len(adapter) == 28 and all(".language_model.layers." in name for name in adapter)
    assert {n for n, p in policy.model.named_parameters() if p.requires_grad} == adapter.keys()
    assert not any(p.any() for name, p in adapter.items() if "lora_B" in name)


def test_the_first_values_come_from_the_seed_and_are_as_large_as_pefts():
    first = []
    for seed in (0, 0, 1):
        policy = qwen2_5_vl()
        add_adapter(policy.model, policy.model.model.language_model, SETTINGS, seed)
        first.append(next(iter(adapter_parameters(policy.model).values())).detach())
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    # kaiming_uniform with a = sqrt(5) over 32 inputs: uniform in +- 1 / sqrt(32)
    assert 0.9 / 32**0.5 < float(first[0].abs().max()) <= 1 / 32**0.5


@pytest.mark.parametrize("family", MAKERS)
def test_packed_scores_and_gradients_equal_pefts_own_model(family):
    policy = adapted(family)
    requests = requests_of(policy)
    oracle = scored(MAKERS[family]())
    wrapped = peft.get_peft_model(oracle.model, policy.model.peft_config["default"])
    missing = peft.set_peft_model_state_dict(
        wrapped, {f"base_model.model.{k}": v for k, v in peft.get_peft_model_state_dict(policy.model).items()}
    )
    assert not missing.unexpected_keys
    expected = plain(oracle, requests)
    ours = scores_of(policy, requests)
    assert policy.packed_forwards == 1
    assert worst_difference(expected, ours) < 1e-6
    with adapter_off(policy.model):
        assert worst_difference(expected, scores_of(policy, requests)) > 1e-3  # the adapter does something
    torch.stack([one.logprobs.sum() for group in ours for one in group]).sum().backward()
    from tests.oracle import plain_scores

    sum(lp.sum() for request in requests for lp, _ in plain_scores(oracle, request)).backward()
    theirs = {n.removeprefix("base_model.model."): p for n, p in wrapped.named_parameters() if p.grad is not None}
    mine = {n: p for n, p in policy.model.named_parameters() if p.grad is not None}
    assert mine.keys() == theirs.keys() == adapter_parameters(policy.model).keys()
    for name, parameter in theirs.items():
        scale = float(parameter.grad.abs().max())
        assert float((mine[name].grad - parameter.grad).abs().max()) <= 2e-5 * max(scale, 1e-6), name


def test_without_its_adapter_the_model_is_what_it_was_and_afterwards_what_it_is():
    policy = adapted(dtype=torch.float32)
    requests = requests_of(policy)
    base = scored(qwen2_5_vl(torch.float32))
    policy.model.requires_grad_(False)  # as inside an attack
    with torch.no_grad():
        before = scores_of(policy, requests)[0][0].logprobs
        with adapter_off(policy.model):
            assert torch.equal(scores_of(policy, requests)[0][0].logprobs, scores_of(base, requests)[0][0].logprobs)
        assert torch.equal(scores_of(policy, requests)[0][0].logprobs, before)
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())


def test_recomputing_gives_an_adapter_and_the_pixels_the_same_gradients():
    found = []
    for recompute in (False, True):
        policy = adapted(dtype=torch.float32)
        if recompute:
            recompute_layers(policy.model)
        request = requests_of(policy)[0]
        scores_of(policy, [request])[0][0].logprobs.sum().backward()
        grads = [p.grad for p in adapter_parameters(policy.model).values()]
        policy.model.requires_grad_(False)

        def objective(images, policy=policy, request=request):
            return [scores_of(policy, [replace(request, images=tuple(images[0]))])[0][0].entropy.sum()]

        found.append([*grads, *image_gradients(objective, [[to_unit(image) for image in request.images]])[0]])
    assert all(torch.equal(a, b) and a.abs().max() > 0 for a, b in zip(*found, strict=True))


def test_beside_bfloat16_weights_an_adapter_is_float32_and_needs_no_master_copy():
    policy = adapted(dtype=torch.bfloat16)
    assert {p.dtype for p in adapter_parameters(policy.model).values()} == {torch.float32}
    optim = Config().optim
    lines = told_of_training(policy.model, optimizer_for(policy.model, optim), optim)
    assert len(lines) == 1 and "(float32)" in lines[0]
    assert policy.model.dtype == torch.bfloat16


# --- folders


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("adapter") / "run"
    train(adapter_config(out))
    return out


def adapter_config(out: Path):
    changed = {
        "model.lora_rank": 4, "optim.lr": 1e-2, "loss.kl_coef": 0.01, "steps": 2, "checkpoint.every": 1,
        "rollout.max_new_tokens": 12, "eval.every": 0, "eval.problems": 1, "eval.test_problems": 1, "eval.samples": 1,
        "record.fresh_every": 0, "control.rule": "bonus", "control.coef": 1e-2, "model.gradient_checkpointing": True,
    }  # fmt: skip
    return small_config(out, **{name.replace(".", "__"): value for name, value in changed.items()})


def test_a_run_trains_checkpoints_and_exports_its_adapter(trained):
    checkpoint = trained / "checkpoints/step-000002"
    assert sorted(path.name for path in checkpoint.iterdir()) == ["adapter.safetensors", "cursor.json", "optimizer.pt"]
    kept = load_file(checkpoint / "adapter.safetensors")
    assert all(".lora_" in name for name in kept) and any(v.any() for n, v in kept.items() if "lora_B" in n)
    cursor = json.loads((checkpoint / "cursor.json").read_text())
    assert len(cursor["base"]) == 16 and cursor["checksum"] != cursor["base"]


def test_the_merged_model_the_adapter_on_its_model_and_pefts_own_merging_agree(trained):
    stock = AutoModelForImageTextToText.from_pretrained(trained / "model")
    assert not any("lora" in name or "base_layer" in name for name, _ in stock.named_parameters())
    base = AutoModelForImageTextToText.from_pretrained(model_dir())
    wrapped = peft.PeftModel.from_pretrained(base, str(trained / schema.ADAPTER_FOLDER))
    data = DataConfig(train_size=4)
    merged = load_policy(ModelConfig(path=str(trained / "model"), device="cpu"), data)
    from saei.data import load_problems
    from saei.types import ScoreRequest

    prompt = merged.encode(load_problems(data, "train")[0])
    request = ScoreRequest(prompt=prompt, images=prompt.images, completions=((5, 6, 7, 8),))
    unmerged = load_policy(ModelConfig(device="cpu"), data)
    first = plain(unmerged, [request])
    unmerged.model = wrapped.base_model.model  # peft's layers inside the stock class
    expected = plain(unmerged, [request])
    assert worst_difference(expected, [merged.score([request], temperature=1.0, pack_tokens=4096)[0]]) < 1e-4
    assert worst_difference(expected, [[type("S", (), {"logprobs": p, "entropy": h}) for p, h in first[0]]]) > 1e-3
    by_peft = dict(wrapped.merge_and_unload().named_parameters())
    for name, parameter in stock.named_parameters():
        assert torch.equal(parameter, by_peft[name]), name
    again = load_policy(ModelConfig(path=str(trained / schema.ADAPTER_FOLDER), device="cpu"), data)
    assert again.checksum() == merged.checksum()
    assert all(parameter.requires_grad for parameter in again.model.parameters())


def test_an_interrupted_run_with_an_adapter_equals_one_that_was_not(trained, tmp_path, monkeypatch):
    import saei.train

    original, calls = saei.train.train_step, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(saei.train, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(adapter_config(tmp_path / "run"))
    monkeypatch.setattr(saei.train, "train_step", original)
    train(adapter_config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", trained)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        ours, theirs = (run / schema.ADAPTER_FOLDER / name for run in (tmp_path / "run", trained))
        assert ours.read_bytes() == theirs.read_bytes()


def test_the_reference_is_the_same_weights_without_the_adapter():
    data = DataConfig(train_size=4)
    policy = load_policy(SETTINGS, data)
    reference = reference_policy(policy, SETTINGS, data)
    disturb(policy.model)
    base = load_policy(ModelConfig(device="cpu"), data)
    assert reference.model is policy.model
    from saei.data import load_problems
    from saei.types import ScoreRequest

    prompt = policy.encode(load_problems(data, "train")[0])
    request = ScoreRequest(prompt=prompt, images=prompt.images, completions=((5, 6, 7, 8),))
    with torch.no_grad():
        own, without, stock = (
            one.score([request], temperature=1.0, pack_tokens=4096)[0][0].logprobs for one in (policy, reference, base)
        )
    assert torch.equal(without, stock) and not torch.equal(own, stock)
    # its tokens are counted apart
    assert policy.tokens_forward == reference.tokens_forward == len(prompt.token_ids) + 4


def test_a_checkpoint_of_an_adapter_does_not_fit_other_weights(trained, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "DONE").unlink()
    cursor = run / "checkpoints/step-000002/cursor.json"
    cursor.write_text(json.dumps(json.loads(cursor.read_text()) | {"base": "0" * 16}))
    with pytest.raises(RuntimeError, match=r"its adapter was trained on other weights than model\.path has now"):
        train(adapter_config(run))


def test_an_incomplete_adapter_is_refused(trained, tmp_path):
    import shutil

    folder = tmp_path / "adapter"
    shutil.copytree(trained / schema.ADAPTER_FOLDER, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"cannot be used: its adapter and its model differ in 1 tensors"):
        load_policy(ModelConfig(path=str(folder), device="cpu"), DataConfig())
    tree = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(tree | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="must name its model in base_model_name_or_path"):
        load_policy(ModelConfig(path=str(folder), device="cpu"), DataConfig())
    (folder / "adapter_config.json").write_text(json.dumps(tree | {"base_model_name_or_path": str(folder)}))
    with pytest.raises(ValueError, match="is an adapter of an adapter"):
        weights_fingerprint(str(folder), "main")


def test_the_fingerprint_of_an_adapter_covers_the_model_under_it(trained):
    own, _, base = weights_fingerprint(str(trained / schema.ADAPTER_FOLDER), "main").partition(" on ")
    assert len(own) == 16 and base == weights_fingerprint("tiny", "main")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lora_rank": 4, "lora_dropout": 0.05}, r"lora_dropout must be 0, got 0\.05: importance ratios compare"),
        ({"lora_alpha": 16}, "do nothing without an adapter"),
        ({"lora_targets": ("q_proj",)}, "do nothing without an adapter"),
        ({"lora_rank": -1}, "must be >= 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_reason(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ModelConfig(**settings)


def test_targets_are_linears_of_the_decoder():
    policy = qwen2_5_vl()
    add_adapter(policy.model, policy.model.model.language_model, replace(SETTINGS, lora_targets=("q_proj",)), seed=0)
    assert len(adapter_parameters(policy.model)) == 4 and all("q_proj" in n for n in adapter_parameters(policy.model))
    other = qwen2_5_vl().model
    with pytest.raises(ValueError, match="names qkv; the text decoder of this model has down_proj, gate_proj, k_proj"):
        add_adapter(other, other.model.language_model, replace(SETTINGS, lora_targets=("qkv",)), 0)


def test_an_adapter_is_refused_where_weights_are_split_over_processes():
    with pytest.raises(ValueError, match=r"model\.lora_rank needs distributed\.strategy replicate"):
        with_overrides(Config(), {"model.lora_rank": 4, "distributed.strategy": "shard"})


def test_a_new_adapter_on_an_adapter_is_refused(trained, tmp_path):
    with pytest.raises(BadInput, match="is an adapter: a new one can be trained on its merged model only"):
        train(with_overrides(adapter_config(tmp_path / "run"), {"model.path": str(trained / schema.ADAPTER_FOLDER)}))
