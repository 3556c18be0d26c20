"""Where the processes of one trial meet: from torchrun's variables, or those that Slurm gives every task of a step.

Nothing is configured: a trial has as many processes as the launcher started, one for each GPU. A process that neither
names has no others.
"""

import os
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from saei.cli import BadInput

FIRST_PORT, PORTS = 20000, 12000
"""Ports below those that the kernel gives to outgoing connections."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Of one process: its number, how many there are, its number on its machine, and where process 0 listens.

    `name` tells this meeting from others that use the same port; `hosted`: the launcher listens, not process 0.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    one_machine: bool
    name: str
    hosted: bool = False


def find_place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """This process among those of its trial; None where it is alone.

    Raises BadInput for variables that do not fit together.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _of_torchrun(environ)
    if "SLURM_PROCID" in environ and "SLURM_STEP_NUM_TASKS" in environ:
        return _of_slurm(environ)
    return None


def _of_torchrun(environ: Mapping[str, str]) -> Place | None:
    size, rank = _number(environ, "WORLD_SIZE"), _number(environ, "RANK")
    if size == 1:
        return None
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(name)]
    if missing:
        raise BadInput(
            f"WORLD_SIZE is {size} but {' and '.join(missing)} is not set: start the processes with torchrun, or unset "
            "RANK and WORLD_SIZE for a single one"
        )
    address = environ["MASTER_ADDR"]
    return _checked(
        Place(
            rank=rank,
            size=size,
            local_rank=_number(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else rank,
            address=address,
            port=_number(environ, "MASTER_PORT"),
            one_machine=address in LOOPBACK or environ.get("LOCAL_WORLD_SIZE") == environ["WORLD_SIZE"],
            name=environ.get("TORCHELASTIC_RUN_ID", "") + "." + environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
            hosted=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        )
    )


def _of_slurm(environ: Mapping[str, str]) -> Place | None:
    """A task of an srun step; the batch script itself is no such task, however many the job asked for."""
    size, rank = _number(environ, "SLURM_STEP_NUM_TASKS"), _number(environ, "SLURM_PROCID")
    if size == 1:
        return None
    nodes = environ.get("SLURM_STEP_NODELIST", "")
    one = environ.get("SLURM_STEP_NUM_NODES", "1") == "1"
    # a requeued job has its number again, so that the restart is part of the name
    name = ".".join(environ.get(f"SLURM_{part}", "0") for part in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    return _checked(
        Place(
            rank=rank,
            size=size,
            local_rank=_number(environ, "SLURM_LOCALID") if "SLURM_LOCALID" in environ else rank,
            address=LOOPBACK[0] if one else _first_host(nodes),
            port=FIRST_PORT + zlib.crc32(name.encode()) % PORTS,
            one_machine=one,
            name=name,
        )
    )


def _first_host(nodes: str) -> str:
    """The first machine of a Slurm node list such as `node[03-05]`."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInput(
            f"this trial has processes on several machines ({nodes}), and `{' '.join(command)}` does not say which is "
            f"the first ({error}): set MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE in the job, or ask for 1 node"
        ) from error
    if not answer:
        raise BadInput(f"SLURM_STEP_NODELIST is {nodes!r} and names no machine: start the trial with srun")
    return answer[0]


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isdecimal():
        raise BadInput(f"the environment variable {name} is a whole number, got {text!r}: it is the launcher's to set")
    return int(text)


def _checked(place: Place) -> Place:
    if place.rank >= place.size:
        raise BadInput(f"process number {place.rank} of {place.size}: numbers begin at 0, so it must be smaller")
    return place
