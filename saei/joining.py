"""The processes of one trial meet at its start and part at its end, whatever that end is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
from torch.distributed.distributed_c10d import PrefixStore, Store

from saei.cli import BadInput
from saei.distributed import ALONE, WAIT_S, World
from saei.rendezvous import Place, find_place

JOIN_S = 300
"""Seconds that the first process waits for the last one to start."""


@contextmanager
def joined() -> Iterator[World]:
    """Meet the other processes of this trial, if the launcher started any, and part at the end.

    An error here ends the others too, with the same error. Raises BadInput where the others do not come.
    """
    place = find_place()
    if place is None:
        yield ALONE
        return
    world = _met(place)
    try:
        yield world
    except SystemExit:
        raise
    except BaseException as error:
        world.leave_word(error)
        dist.destroy_process_group()  # closes the connections, which is what the others notice
        if world.is_writer:
            world.linger()
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _met(place: Place) -> World:
    wait = timedelta(seconds=JOIN_S)
    if place.one_machine:
        # the host's name need not resolve to an address that it can be reached at
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        keeps = place.rank == 0 and not place.hosted
        store: Store = TCPStore(place.address, place.port, is_master=keeps, timeout=wait, wait_for_workers=False)
        store = PrefixStore(f"saei {place.name}", store)
        store.set(f"here is {place.rank}", "")
        store.wait([f"here is {rank}" for rank in range(place.size)], wait)
        together = timedelta(seconds=WAIT_S)
        dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.size, timeout=together)
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"process {place.rank} of {place.size} did not meet the others at {place.address}:{place.port} within "
            f"{JOIN_S} s ({str(error).splitlines()[0]}): start all of them together (torchrun, srun), with a port that "
            "is free and reachable"
        ) from error
    return World(place, store)
