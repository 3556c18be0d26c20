"""The optimizer of a run: stock AdamW, on fp32 master copies where the weights are narrower.

bfloat16 keeps 8 bits of a number: a weight moves only if the update is more than about 1/512 of it, and at the
published learning rate of 1e-6 hardly any is. With `optim.master_dtype float32` forward and backward passes still
compute in bfloat16, but gradients are summed, clipped and applied in fp32, on a copy that is rounded into the weights
after each update. A checkpoint keeps the copy: the weights are its rounding.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from saei.settings.learning import OptimConfig

_NARROW = (torch.bfloat16, torch.float16)


class MasterAdamW(AdamW):
    """AdamW on fp32 copies of those of the `weights` that are narrower, and on the others themselves.

    A gradient moves from a weight to its copy as soon as it has been computed, so that micro-batches add up in fp32 and
    hardly any gradient is held twice. `weights` and the optimizer's own parameters have the same order.
    """

    def __init__(self, weights: Iterable[nn.Parameter], **settings: Any) -> None:
        weights = list(weights)
        masters = [nn.Parameter(w.detach().float()) if w.dtype in _NARROW else w for w in weights]
        self.pairs = [(w, m) for w, m in zip(weights, masters, strict=True) if w is not m]
        """(weight, its master copy)."""
        super().__init__(masters, **settings)
        self._hooks = [w.register_post_accumulate_grad_hook(partial(_hand_over, m)) for w, m in self.pairs]

    def let_go(self) -> None:
        """Leave the weights their gradients, for whoever uses the model after this optimizer."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of the copies, then round them into the weights."""
        result = super().step(closure)
        for weight, master in self.pairs:
            weight.copy_(master)
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight, _ in self.pairs:
            weight.grad = None


def _hand_over(master: nn.Parameter, weight: Tensor) -> None:
    assert weight.grad is not None, "called after a gradient was accumulated"
    if master.grad is None:
        master.grad = weight.grad.float()
    else:
        master.grad += weight.grad
    weight.grad = None


def optimizer_for(model: nn.Module, optim: OptimConfig) -> Optimizer:
    """AdamW on all weights of the model that are trained, with master copies if the settings ask for them."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = MasterAdamW if optim.master_dtype == "float32" else AdamW
    # weight by weight, as torch does it on a CPU anyway: all at once, a GPU would hold a second copy of all of them
    return kind(weights, lr=optim.lr, betas=(0.9, optim.beta2), weight_decay=optim.weight_decay, foreach=False)


def master_dtype(dtype: torch.dtype, optim: OptimConfig) -> torch.dtype | None:
    """The type in which weights of `dtype` are kept, for whoever keeps them otherwise; None: their own."""
    return torch.float32 if optim.master_dtype == "float32" and dtype in _NARROW else None


def updated(optimizer: Optimizer) -> list[Tensor]:
    """What the optimizer updates, and where gradients lie after a backward pass: weights, or their master copies."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@contextmanager
def masters_in_place(optimizer: Optimizer) -> Iterator[None]:
    """Inside, the model holds the master copies themselves: what is saved, loaded or hashed of it is theirs.

    At the end the weights are the rounded copies. Without master copies nothing is done.
    """
    pairs = _pairs(optimizer)
    narrow = [weight.dtype for weight, _ in pairs]
    for weight, master in pairs:
        weight.data = master.data
    try:
        yield
    finally:
        for (weight, master), dtype in zip(pairs, narrow, strict=True):
            weight.data = master.data.to(dtype)


def kept_bytes(weights: Iterable[Tensor], optimizer: Optimizer) -> int:
    """Bytes of a checkpoint: of `weights`, or their master copies, and of AdamW's two numbers for each one updated."""
    masters = {id(weight): master for weight, master in _pairs(optimizer)}
    return sum(masters.get(id(weight), weight).nbytes for weight in weights) + _states_bytes(optimizer)


def told_of_training(model: nn.Module, optimizer: Optimizer, optim: OptimConfig) -> list[str]:
    """Lines for the log: how much is trained and what the optimizer holds; a warning where updates would be lost."""
    masters = {id(weight): master for weight, master in _pairs(optimizer)}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    trained, all_of_them = (sum(w.numel() for w in some) / 1e6 for some in (weights, model.parameters()))
    kinds = sorted({_name(weight.dtype) for weight in weights})
    held = (_states_bytes(optimizer) + sum(master.nbytes for master in masters.values())) / 2**20
    copies = ", with float32 master copies" if masters else ""
    share = f"training {trained:.2f} of {all_of_them:.2f} million weights ({', '.join(kinds)})"
    lines = [f"{share}; optimizer {held:.1f} MB{copies}"]
    alone = [_name(weight.dtype) for weight in weights if weight.dtype in _NARROW and id(weight) not in masters]
    if alone:
        lines.append(
            f"warning: weights and Adam states are {alone[0]} without a master copy: an update of about optim.lr "
            f"({optim.lr:g}) is rounded away on every weight larger than {512 * optim.lr:.1g}; set "
            "--optim.master-dtype float32"
        )
    return lines


def _pairs(optimizer: Optimizer) -> list[tuple[nn.Parameter, nn.Parameter]]:
    return optimizer.pairs if isinstance(optimizer, MasterAdamW) else []


def _states_bytes(optimizer: Optimizer) -> int:
    return sum(2 * parameter.nbytes for parameter in updated(optimizer))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
