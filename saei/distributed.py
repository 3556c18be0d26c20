"""Several processes for one trial: bookkeeping replicated, computing shared.

Every process holds the model, the optimizer and all facts of a step, and takes the same decisions from them. What is
expensive (sampling, attacks, scoring, the update's forward and backward passes) each does for its share, and the
results are gathered, so that how many processes there are changes no number beyond rounding. Process 0 alone writes.

    torchrun --nproc-per-node 2 -m saei.train --preset saei --out results/manual/two

accelerate's PartialState does not fit: it is one for the life of a process, has one backend (objects would travel
through GPU memory), and cannot say why another process ended. Here objects travel over gloo, gradients over NCCL where
every process has a GPU of its own; the first error of any process is left in the store where all can read it.
"""

import pickle
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from saei.cli import BadInput
from saei.parcel import from_bytes, to_bytes
from saei.rendezvous import Place

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

WAIT_S = 2400
"""Seconds that processes wait for each other inside a step. A process that ends is noticed at once, without this."""
LINGER_S = 5
"""Seconds that the process which keeps the store stays for the others to read why it ends."""
BUCKET_VALUES = 2**24
"""Gradients summed at a time, in numbers."""

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")
NumberT = TypeVar("NumberT", int, float)


class ProcessLost(RuntimeError):
    """Another process of this trial ended without saying why."""


class World:
    """The processes of one trial as one of them sees them; `rank` is its number. Alone, every method is the identity.

    All processes must call the same methods in the same order. Each raises what ended another process, or ProcessLost.
    """

    def __init__(self, place: Place | None = None, store: Store | None = None) -> None:
        self.rank = place.rank if place else 0
        self.size = place.size if place else 1
        self._local_rank = place.local_rank if place else 0
        self._store = store
        self._gradients: Any = None  # None: the group that objects travel in

    @property
    def is_writer(self) -> bool:
        """Is this the process that writes the run directory?"""
        return self.rank == 0

    def share(self, items: Sequence[ItemT], costs: Sequence[int] | None = None) -> list[ItemT]:
        """This process's part of `items`: a run of neighbours, about as costly (by default as long) as any other's."""
        if self.size == 1:
            return list(items)
        prices = [1] * len(items) if costs is None else list(costs)
        middles = [end - price / 2 for end, price in zip(accumulate(prices), prices, strict=True)]
        # an item belongs to the process in whose part of the total cost its middle lies
        owners = [min(self.size - 1, int(self.size * middle / sum(prices))) for middle in middles]
        return [item for item, owner in zip(items, owners, strict=True) if owner == self.rank]

    def turns(self, items: Sequence[ItemT]) -> list[ItemT]:
        """This process's part of `items`, taken in turns."""
        return list(items[self.rank :: self.size])

    def gathered(self, mine: Sequence[ItemT]) -> list[ItemT]:
        """The items of all processes, in their order. Tensors arrive on this process's device of the same kind."""
        if self.size == 1:
            return list(mine)
        parts = self._exchange(to_bytes(list(mine)))
        return [item for rank, part in enumerate(parts) for item in (mine if rank == self.rank else from_bytes(part))]

    def any_of(self, flag: bool) -> bool:
        """Is it true of any process?"""
        return any(self.gathered([flag]))

    def sums(self, *numbers: NumberT) -> list[NumberT]:
        """The sum of each number over all processes."""
        return [sum(values) for values in zip(*self.gathered([numbers]), strict=True)]  # pyright: ignore[reportReturnType]

    def from_writer(self, value: ValueT) -> ValueT:
        """The writer's value, whatever the others have."""
        return self.gathered([value if self.is_writer else None])[0]  # pyright: ignore[reportReturnType]

    def agreed(self, value: ValueT, what: str) -> ValueT:
        """`value`, which must be that of all processes. Raises RuntimeError, naming `what`, where it is not."""
        values = self.gathered([value])
        if any(other != value for other in values):
            raise RuntimeError(f"the {self.size} processes of this trial do not agree on {what}: {values}")
        return value

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.gathered([])

    @contextmanager
    def writer_first(self) -> Iterator[None]:
        """The writer does what is inside before the others, so that they find what it downloads."""
        if not self.is_writer:
            self.barrier()
        yield
        if self.is_writer:
            self.barrier()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the processes: the same bits on all of them.

        A parameter without gradient here counts as 0; one without gradient anywhere keeps none.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        present = self.gathered([[parameter.grad is not None for parameter in parameters]])
        wanted = [p for p, *flags in zip(parameters, *present, strict=True) if any(flags)]
        for bucket in _buckets(wanted):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([grad.flatten() for grad in grads])
            self._waiting(lambda flat=flat: dist.all_reduce(flat, group=self._gradients))
            for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = part.view_as(parameter).clone()

    def device(self, name: str) -> str:
        """The device of this process for the setting `model.device`: its own GPU, where there are GPUs.

        Processes that must share a GPU sum their gradients over gloo, because NCCL refuses. Raises BadInput for a
        numbered device, and where some processes have GPUs and others none.
        """
        if self.size == 1:
            return name
        if ":" in name:
            raise BadInput(
                f"model.device {name} is one device for {self.size} processes: set cuda, and each takes its own"
            )
        found = torch.cuda.device_count() if name != "cpu" else 0
        if found == 0:
            chosen, identity = "cpu" if name == "auto" else name, ""
        else:
            number = self._local_rank % found
            torch.cuda.set_device(number)
            chosen, identity = f"cuda:{number}", str(torch.cuda.get_device_properties(number).uuid)
        everyones = self.gathered([(socket.gethostname(), identity)])
        without = [host for host, identity in everyones if not identity]
        if 0 < len(without) < self.size:
            raise BadInput(
                f"model.device {name}: {len(without)} of {self.size} processes have no GPU (on {without[0]}): ask for "
                "one GPU a process, or set model.device cpu"
            )
        if not without and len(set(everyones)) == self.size and dist.is_nccl_available():
            self._gradients = dist.new_group(backend="nccl", timeout=timedelta(seconds=WAIT_S))
        return chosen

    def mesh(self, device: torch.device) -> "DeviceMesh":
        """The processes as torch's sharding wants them, for weights on `device`, which `self.device` has chosen.

        Raises BadInput where processes share a GPU, between which no sharded sum can travel.
        """
        from torch.distributed.device_mesh import DeviceMesh

        if device.type != "cpu" and self._gradients is None:
            raise BadInput(
                f"distributed.strategy shard needs a GPU for each of the {self.size} processes and NCCL between them: "
                "start as many processes as there are GPUs, or set model.device cpu"
            )
        everyone = self._gradients if device.type != "cpu" else dist.group.WORLD
        assert everyone is not None, "processes that met have a group"
        return DeviceMesh.from_group(everyone, device.type)

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Around collectives of torch's own: where the end of another process breaks them, raise what ended it."""
        try:
            yield
        except RuntimeError as error:
            broken = isinstance(error, dist.DistError) or "gloo" in str(error)
            if self.size == 1 or not broken:
                raise
            raise self._first_error() from error

    def _exchange(self, mine: bytes) -> list[bytes]:
        """Everyone's bytes, by rank."""
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        self._waiting(lambda: dist.all_gather(sizes, torch.tensor([len(mine)])))
        lengths = [int(size) for size in sizes]
        room = max(lengths)
        padded = torch.zeros(room, dtype=torch.uint8)
        padded[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        received = [torch.empty(room, dtype=torch.uint8) for _ in range(self.size)]
        self._waiting(lambda: dist.all_gather(received, padded))
        return [part[:length].numpy().tobytes() for part, length in zip(received, lengths, strict=True)]

    def _waiting(self, operation: Any) -> None:
        try:
            operation()
        except RuntimeError as error:  # gloo: a connection was closed, or WAIT_S went by
            raise self._first_error() from error

    def _first_error(self) -> BaseException:
        """What ended the process that ended first."""
        lost = ProcessLost(
            f"another of the {self.size} processes of this trial ended or stopped answering (killed, out of memory, "
            "its node lost): the end of each process's output may say why; the same command continues from the last "
            "checkpoint"
        )
        try:
            assert self._store is not None, "a lone process waits for nobody"
            self._store.set_timeout(timedelta(seconds=LINGER_S))
            error = pickle.loads(bytes.fromhex(self._store.get("first error").decode()))
            self._store.set(f"read by {self.rank}", "")
        except Exception:  # no word was left, or the store went with the process that kept it
            return lost
        return error if isinstance(error, BaseException) else lost

    def leave_word(self, error: BaseException) -> None:
        """Tell the others why this process ends; the first word stays. Never raises."""
        try:
            assert self._store is not None, "a lone process has nobody to tell"
            self._store.set_timeout(timedelta(seconds=LINGER_S))
            self._store.compare_set("first error", "", _word(error).hex())
            self._store.set(f"read by {self.rank}", "")
        except Exception:  # the process that keeps the store is gone: they will miss it themselves
            return

    def linger(self) -> None:
        """Keep the store for a moment, so that the others can read the word that was left in it. Never raises."""
        try:
            assert self._store is not None, "a lone process has nobody to tell"
            others = [f"read by {rank}" for rank in range(self.size) if rank != self.rank]
            self._store.wait(others, timedelta(seconds=LINGER_S))
        except Exception:
            return


ALONE = World()
"""The world of a trial with one process."""


def _word(error: BaseException) -> bytes:
    """`error` as the others can raise it."""
    try:
        word = pickle.dumps(error)
        pickle.loads(word)
    except Exception:  # it holds something that does not travel
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return word


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one type and device, about BUCKET_VALUES numbers together."""
    bucket: list[Tensor] = []
    for parameter in parameters:
        kind = (parameter.dtype, parameter.device)
        full = sum(one.numel() for one in bucket) + parameter.numel() > BUCKET_VALUES
        if bucket and (full or kind != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
