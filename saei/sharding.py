"""The weights of a policy in parts, one on each process, so that a model trains that fits no single device.

At rest a process holds its part of every weight, of its gradient and of the optimizer's states (torch's `fully_shard`,
FSDP2). Two ways lead from there to a forward pass, and each phase of a step has its own:

- *update*: `Shards.forward` gathers a decoder layer before it is used, forward and backward, and leaves on each process
  the sum over all of them of its part of the gradients. Such a pass is a collective: see `saei.even_passes`.
- *everything else* (sampling, attacks, scoring, evaluation): `whole` gathers all weights once, into a plain model that
  takes no gradient, and drops them at its end. Processes then make as many passes as each of them needs, nothing is
  hooked into the thousands of passes of a decoder, and an attack has no weight that could get a gradient.

accelerate's FullyShardedDataParallelPlugin does not fit: it is made for a model called by its forward, where ours is
entered at the vision tower, the decoder and the head, and needs the AcceleratorState that `saei.distributed` does
without. The vision tower, the embeddings and the head are one part of the model that stays gathered through a pass:
whether they run differs from pass to pass, and what a process gathers may not.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from saei.cli import BadInput
from saei.distributed import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

ResultT = TypeVar("ResultT")


class Shards:
    """The two models of a sharded policy: `parts`, which is trained, and a plain one that is empty but in `gathered`.

    Weights are in `master`, if that is given, where they are kept and trained, and of their own types in a pass.
    """

    def __init__(
        self, model: Any, decoder: nn.Module, world: World, device: torch.device, master: torch.dtype | None
    ) -> None:
        self.world = world
        self.parts = model
        self._types = {name: parameter.dtype for name, parameter in model.named_parameters()}
        self.plain = _empty_copy(model, device)
        self._owners = _owners(self.plain)
        self._depth = 0
        self._root = _fully_sharded(model, decoder, world.mesh(device), master)

    def forward(self, work: Callable[[], ResultT]) -> ResultT:
        """What `work` returns: one pass of `parts` and a loss from it, to call backward() on.

        All processes must make the same passes. Tensors whose gradient is wanted must be in a tuple, a list, a dict.
        """
        return self._root(work)

    def unused(self, counted: bool) -> None:
        """Must the processes reckon with weights that only some of them use in a pass?"""
        self._root.set_reduce_scatter_unused_params(counted)

    @contextmanager
    def gathered(self, *, as_kept: bool = False, device: str | None = None, everywhere: bool = True) -> Iterator[Any]:
        """The plain model with all weights, until the end of the block; inside of another such block, that block's.

        They are of the type of passes, or `as_kept`; on `device`, if not where their parts are. Not `everywhere`: on
        the writer alone, for the others the model stays empty. No process waits for another at the end.
        """
        self._depth += 1
        try:
            if self._depth == 1:
                with self.world.hearing():
                    self._fill(as_kept, device, everywhere or self.world.is_writer)
            yield self.plain
        finally:
            self._depth -= 1
            if self._depth == 0:
                for name, owners in self._owners.items():
                    _put(owners, torch.empty_like(self.plain.get_parameter(name), device="meta"))

    @torch.no_grad()
    def _fill(self, as_kept: bool, device: str | None, keep: bool) -> None:
        for name, parameter in self.parts.named_parameters():
            value = whole_value(parameter if as_kept else parameter.to(self._types[name]))
            if keep:
                _put(self._owners[name], value.to(device or value.device))
            del value  # one at a time

    @torch.no_grad()
    def take(self, model: nn.Module) -> None:
        """Replace the weights by those of `model`, of which every process keeps its part."""
        values = dict(model.named_parameters())
        for name, parameter in self.parts.named_parameters():
            parameter.copy_(part_of(values[name], parameter))


def shard(policy: Any | None, world: World, device: str, master: torch.dtype | None = None) -> None:
    """Split the weights of a policy, if there is one, just loaded on the CPU, over the processes of `world`.

    `master`: the type in which trained weights are kept, by default the model's own. Raises BadInput where processes
    share a GPU, or the model has no layers that could be gathered one by one.
    """
    if policy is None:
        return
    policy.device = torch.device(device)
    model, decoder = policy.model, policy.family.decoder(policy.model)
    policy.shards = Shards(model, decoder, world, policy.device, master)


def shards_of(policy: Any) -> Shards | None:
    """None for a policy that every process holds whole."""
    return getattr(policy, "shards", None)


@contextmanager
def whole(policy: Any) -> Iterator[None]:
    """Inside, all weights of the policy are on this process's device.

    Those of a sharded policy are gathered once, for the outermost of such blocks, and take no gradient. All processes
    must enter it; they leave it when they like.
    """
    shards = shards_of(policy)
    if shards is None:
        yield
        return
    with shards.gathered() as model:
        before, policy.model = policy.model, model
        try:
            yield
        finally:
            policy.model = before


def in_parts(policy: Any, work: Callable[[], ResultT]) -> ResultT:
    """What `work` returns, a pass of the policy with a loss from it; of a sharded policy, see `Shards.forward`."""
    shards = shards_of(policy)
    return work() if shards is None else shards.forward(work)


def whole_value(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process may hold a part; a collective where it does."""
    return tensor.detach().full_tensor() if _is_part(tensor) else tensor.detach()  # pyright: ignore[reportAttributeAccessIssue]


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """What this process holds of `value` where `like` is its part of a tensor of that shape."""
    if not _is_part(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # pyright: ignore[reportAttributeAccessIssue]
    return distribute_tensor(value.detach().to(like.device), mesh, placements, src_data_rank=None)


def sharded_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, int]:
    """Bytes that this process holds at rest: of `weights`, of `gradients` (0 between updates), of `optimizer` states.

    The same of a model that is not sharded. Without `optimizer`, what AdamW's two states of the trained weights take.
    """
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    states = 2 * _bytes(trained)
    if optimizer is not None:
        states = _bytes([v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)])
    return {"weights": _bytes(parameters), "gradients": _bytes(gradients), "optimizer": states}


def _bytes(tensors: list[Any]) -> int:
    own = [tensor.to_local() if _is_part(tensor) else tensor for tensor in tensors]
    return sum(one.numel() * one.element_size() for one in own)


def _is_part(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor, whose module one process alone need not load


class _Pass(nn.Module):
    """A model whose forward is whatever is asked of it, so that one hook sees a pass begin and end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def _fully_sharded(model: Any, decoder: nn.Module, mesh: "DeviceMesh", master: torch.dtype | None) -> Any:
    """The decoder's layers, each gathered by itself, in the whole, which gathers all that is in none of them."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    narrow = model.dtype in (torch.bfloat16, torch.float16)
    precision = MixedPrecisionPolicy(
        param_dtype=None if master is None else model.dtype,
        reduce_dtype=torch.float32 if narrow else None,
        cast_forward_inputs=False,
    )
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise BadInput(
            f"distributed.strategy shard gathers the layers of a decoder one by one, and {type(model).__name__} has "
            "none that it could find: use distributed.strategy replicate"
        )
    root = _Pass(model)
    for unit in [*layers, root]:
        for parameter in unit.parameters() if master is not None else ():
            if parameter.requires_grad and not _is_part(parameter):
                parameter.data = parameter.data.to(master)  # unit by unit, so that no memory holds all of it
        # a layer's weights are gathered again for its backward pass, those of the rest are not: they are needed at once
        fully_shard(unit, mesh=mesh, reshard_after_forward=unit is not root, mp_policy=precision)
        # a plain sum, which gloo knows too: denominators belong to the whole update batch already
        unit.set_gradient_divide_factor(1.0)  # pyright: ignore[reportCallIssue]
        unit.set_force_sum_reduction_for_comms(True)  # pyright: ignore[reportCallIssue]
    return root


def _empty_copy(model: nn.Module, device: torch.device) -> Any:
    """The model without its weights, as it is before anything is hooked into it; buffers are its own."""
    hollow: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in model.parameters()
    }
    twin = copy.deepcopy(model, hollow)
    for module in twin.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
    return twin


Owners = list[tuple[nn.Module, str]]


def _owners(model: nn.Module) -> dict[str, Owners]:
    """Of every weight, under its first name: the modules that hold it, and as what; tied weights have several."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    owners: dict[str, Owners] = {name: [] for name in names.values()}
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                owners[names[id(parameter)]].append((module, attribute))
    return owners


def _put(owners: Owners, value: Tensor) -> None:
    parameter = nn.Parameter(value, requires_grad=False)
    for module, attribute in owners:
        module._parameters[attribute] = parameter
