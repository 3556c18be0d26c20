"""Gradient checkpointing and frozen parts: the same gradients from less memory."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from saei.config import DataConfig, ModelConfig
from saei.policy import load_policy
from saei.recomputing import recompute_layers, recomputing
from saei.sampler import sample
from saei.scoring import score_requests
from saei.types import SampleRequest, to_unit
from saei.views.climb import image_gradients
from tests.oracle import scored
from tests.sampler_models import prompts, qwen2_5_vl, qwen3_vl
from tests.test_packing import requests_of

MAKERS = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}


def passes_by_layer(policy: Any) -> dict[str, int]:
    """Counts, from now on, how often each layer's attention or norm computes, recomputing included."""
    counts: dict[str, int] = {}
    for name, module in policy.model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            first = next(module.children())  # hooks of the layer itself stay outside the checkpoint

            def count(*_: Any, name: str = name) -> None:
                counts[name] = counts.get(name, 0) + 1

            first.register_forward_pre_hook(count)
    return counts


def scores_with_gradient(policy: Any, requests: Any) -> torch.Tensor:
    rows = score_requests(policy, requests, temperature=1.0, pack_tokens=4096, entropy_grad=True)
    return torch.stack([one.logprobs.mean() + one.entropy.square().mean() for group in rows for one in group])


@pytest.mark.parametrize("family", MAKERS)
def test_gradients_of_weights_and_pixels_are_the_same_bit_for_bit(family):
    found = []
    for recompute in (False, True):
        policy = scored(MAKERS[family](torch.float32))
        if recompute:
            recompute_layers(policy.model)
        counts = passes_by_layer(policy)
        requests = requests_of(policy)
        leaves = [[to_unit(image).requires_grad_() for image in request.images] for request in requests]
        seen = [dataclasses.replace(r, images=tuple(own)) for r, own in zip(requests, leaves, strict=True)]
        scores_with_gradient(policy, seen).sum().backward()
        assert set(counts.values()) == {2 if recompute else 1}
        assert any("visual" in name for name in counts) and any("language_model" in name for name in counts)
        grads = {name: p.grad for name, p in policy.model.named_parameters() if p.grad is not None}
        found.append(grads | {f"{i}.{j}": leaf.grad for i, own in enumerate(leaves) for j, leaf in enumerate(own)})
        assert not any(module.training for module in policy.model.modules())  # as it was
    assert found[0].keys() == found[1].keys() and len(found[0]) > 40
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_an_attack_on_frozen_weights_recomputes_too_and_gets_the_same_pixel_gradients():
    found = []
    for recompute in (False, True):
        policy = scored(qwen2_5_vl(torch.float32))
        policy.model.requires_grad_(False)
        if recompute:
            recompute_layers(policy.model)
        counts = passes_by_layer(policy)
        request = requests_of(policy)[0]

        def objective(images, policy=policy, request=request):
            return [scores_with_gradient(policy, [dataclasses.replace(request, images=tuple(images[0]))]).sum()]

        found.append(image_gradients(objective, [[to_unit(image) for image in request.images]]))
        assert set(counts.values()) == {2 if recompute else 1}
    assert torch.equal(found[0][0][0], found[1][0][0]) and found[0][0][0].abs().max() > 0


def test_sampling_keeps_its_cache_and_scores_without_gradient_compute_once():
    drawn = []
    for recompute in (False, True):
        policy = scored(qwen2_5_vl(torch.float64))
        if recompute:
            recompute_layers(policy.model)
        requests = [SampleRequest(prompt=p, images=p.images, indices=(0, 1)) for p in prompts(policy)]
        rows = sample(policy, requests, temperature=1.0, top_p=1.0, max_new_tokens=8, batch_rows=8, noise=None)
        drawn.append([one.token_ids for group in rows for one in group])
        counts = passes_by_layer(policy)
        with torch.no_grad():
            scores_with_gradient(policy, requests_of(policy))
        assert set(counts.values()) == {1}
    assert drawn[0] == drawn[1]


def test_dropout_inside_the_layers_stays_as_it_is():
    policy = qwen2_5_vl()
    recompute_layers(policy.model)
    attention = policy.model.model.language_model.layers[0].self_attn
    with recomputing(policy.model):
        assert policy.model.model.language_model.layers[0].training and not attention.training
    with torch.no_grad(), recomputing(policy.model):
        assert not policy.model.model.language_model.layers[0].training


def test_a_model_without_such_layers_is_refused():
    class Plain(nn.Module):
        def activation_checkpointing_enable(self, options):
            assert options == {"use_reentrant": False}

    with pytest.raises(ValueError, match="Plain has no layer that transformers can recompute"):
        recompute_layers(Plain())


def test_the_settings_reach_the_model():
    policy = load_policy(ModelConfig(device="cpu", gradient_checkpointing=True, freeze_projector=True), DataConfig())
    assert policy.model.is_activation_checkpointing
    frozen = [name for name, p in policy.model.named_parameters() if not p.requires_grad]
    assert frozen and all(name.startswith("model.visual.merger.") for name in frozen)
