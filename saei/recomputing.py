"""Gradient checkpointing: a layer keeps its input only, and is computed again in the backward pass.

The stock layers do it where they are in training mode, which the policy never is, because scores must repeat and the
sampler needs its cache. So the layers alone, not the dropout inside them, are put in training mode for a forward pass
that is differentiated: a packed one of the update, or of an attack.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(model: nn.Module) -> None:
    """Switch it on in every layer of text decoder and image tower. Raises ValueError where the model has none."""
    model.activation_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    if not _layers(model):
        raise ValueError(
            f"model.gradient_checkpointing: {type(model).__name__} has no layer that transformers can recompute; "
            "leave it off"
        )


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Inside, forward passes with gradient keep layer inputs only, if `recompute_layers` was called on the model."""
    layers = _layers(model) if torch.is_grad_enabled() else []
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.training = mode


def _layers(model: nn.Module) -> list[nn.Module]:
    modules = model.modules()
    return [module for module in modules if isinstance(module, GradientCheckpointingLayer) and _is_on(module)]


def _is_on(layer: GradientCheckpointingLayer) -> bool:
    return layer.gradient_checkpointing
