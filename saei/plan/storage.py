"""Bytes that a process holds at rest and gathers for a pass, from the parameters of a model, counted one by one.

At rest: the weights, AdamW's two states and, where trained weights are kept wider than they compute (`master`), the
wider copy; gradients live during an update. Sharded (`distributed.strategy shard`), a process holds its part of all of
these; an update gathers the decoder's layers one by one, all else gathers the whole model (see `saei/sharding.py`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from saei.families import family_of

ADAM_STATES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a run keeps its weights: type of the passes, type of what is trained, parts, layers computed again."""

    compute: torch.dtype
    master: torch.dtype
    parts: int = 1
    recompute: bool = False
    reference: bool = False

    @property
    def has_master(self) -> bool:
        return self.master != self.compute


def trained(model: nn.Module) -> int:
    """Numbers of the parameters that take gradients."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def counted(model: nn.Module) -> int:
    """Numbers of all parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def at_rest(model: nn.Module, layout: Layout) -> dict[str, int]:
    """Bytes of one process between steps: `weights`, `master weights`, `optimizer`, `reference policy`."""
    all_, own = counted(model), trained(model)
    compute, master = layout.compute.itemsize, layout.master.itemsize
    wide = own * master if layout.has_master else 0
    # in parts, the wide one is the only copy of what is trained
    weights = (all_ - own if wide and layout.parts > 1 else all_) * compute
    parts = {
        "weights": weights,
        "master weights": wide,
        "optimizer": ADAM_STATES * own * master,
        "reference policy": all_ * compute if layout.reference else 0,
    }
    return {name: -(-size // layout.parts) for name, size in parts.items()}


def gradients(model: nn.Module, layout: Layout) -> int:
    """Bytes of one process's gradients while an update is made; where there is a master copy, they are summed in it."""
    own = trained(model)
    if layout.parts > 1:
        return -(-own * layout.master.itemsize // layout.parts)
    return own * layout.master.itemsize


def gathered_for_update(model: Any, layout: Layout) -> int:
    """Bytes beyond a process's part: what is in no layer, two layers (the next is fetched early), their gradients."""
    if layout.parts == 1:
        return 0
    decoder: Any = family_of(model).decoder(model)
    layers = [sum(p.numel() for p in layer.parameters()) for layer in decoder.layers]
    rest = counted(model) - sum(layers)
    rest_trained = trained(model) - sum(layers)
    return layout.compute.itemsize * (rest + max(0, rest_trained) + 3 * max(layers))


def gathered_whole(model: nn.Module, layout: Layout) -> int:
    """Bytes of the whole model that sampling, attacks and scoring run on, beyond a process's part."""
    return counted(model) * layout.compute.itemsize if layout.parts > 1 else 0
