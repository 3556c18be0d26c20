"""What is written and read is what one process would write and read, however many hold parts of it.

So a checkpoint of any number of processes continues on any other, and the final model is a stock folder. Weights and
optimizer states are gathered one tensor at a time into the memory of the writer's machine; when reading, each process
holds all weights there for a moment, and copies its part of the states out of their file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from saei.distributed import World
from saei.policy import Policy
from saei.sharding import part_of, whole_value


class WholeOptimizer:
    """An optimizer whose states are in parts, with the two methods that a checkpoint needs; `state_dict` gathers."""

    copies_a_part = True
    """What `load_state_dict` is given may lie in a file, which is not read again afterwards."""

    def __init__(self, optimizer: Optimizer, *, keep: bool) -> None:
        self._optimizer, self._keep = optimizer, keep

    def state_dict(self) -> dict[str, Any]:
        """That of one process; without `keep`, this process only helps the others to gather theirs."""
        tree = self._optimizer.state_dict()
        return tree | {"state": {number: self._gathered(state) for number, state in tree["state"].items()}}

    def _gathered(self, state: dict[str, Any]) -> dict[str, Any]:
        whole: dict[str, Any] = {}
        for name, value in state.items():
            value = whole_value(value) if isinstance(value, Tensor) else value
            if self._keep:
                whole[name] = value.cpu() if isinstance(value, Tensor) else value
        return whole

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take this process's part of everyone's states."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        parts = {
            number: {name: _own_part(value, parameters[number]) for name, value in state.items()}
            for number, state in tree["state"].items()
        }
        self._optimizer.load_state_dict(tree | {"state": parts})


def _own_part(value: Any, parameter: Tensor) -> Any:
    """A copy of this process's part, where it is a state of every single weight, and else (a count of steps) of all."""
    if not isinstance(value, Tensor):
        return value
    of_weights = value.dim() > 0 and value.shape == parameter.shape
    return (part_of(value, parameter) if of_weights else value).clone()


@contextmanager
def to_write(policy: Policy, optimizer: Optimizer, world: World) -> Iterator[tuple[Any, Any]]:
    """Model and optimizer for a checkpoint; on other processes than the writer, nothing of use. All must enter."""
    if policy.shards is None:
        yield policy.model, optimizer
        return
    with policy.shards.gathered(as_kept=True, device="cpu", everywhere=False) as model:
        with world.hearing():
            tree = WholeOptimizer(optimizer, keep=world.is_writer).state_dict()
        yield model, _Written(tree)


class _Written:
    """The state of an optimizer in the place of an optimizer."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree

    def state_dict(self) -> dict[str, Any]:
        return self._tree


@contextmanager
def to_read(policy: Policy, optimizer: Optimizer) -> Iterator[tuple[Any, Any]]:
    """Model and optimizer to load a checkpoint into: at the end, each process has its part. All must enter."""
    if policy.shards is None:
        yield policy.model, optimizer
        return
    with policy.shards.gathered(as_kept=True, device="cpu") as model:
        yield model, WholeOptimizer(optimizer, keep=True)
        policy.shards.take(model)


@contextmanager
def to_save(policy: Policy) -> Iterator[None]:
    """Inside, the writer's policy can be saved; the others' can not. All must enter."""
    if policy.shards is None:
        yield
        return
    with policy.shards.gathered(device="cpu", everywhere=False) as model:
        before, policy.model = policy.model, model
        try:
            yield
        finally:
            policy.model = before
