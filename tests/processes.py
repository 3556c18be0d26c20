"""Starting the processes of a trial as a launcher does, on loopback; and what "the same numbers" means for them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

from saei import schema
from saei.config import Config, to_dict
from tests.runs import frame

ROOT = Path(__file__).resolve().parent.parent
EQUAL = 1e-9
"""Relative; differences seen are below 1e-11 (the optimizer divides by roots of small squares)."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago, different from each other."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start(
    folder: Path, configs: Sequence[Config], size: int, *, plants: Sequence[tuple[int, int, str]] = ()
) -> list[subprocess.Popen[str]]:
    """`size` processes that run `configs` one after the other together; output goes to `folder/process-<rank>.txt`.

    `plants`: (number of the config, rank, fault), see process_child.py.
    """
    folder.mkdir(exist_ok=True)
    job = folder / "job.json"
    ports = free_ports(len(configs))
    job.write_text(json.dumps({"configs": [to_dict(one) for one in configs], "ports": ports, "plants": plants}))
    processes = []
    for rank in range(size):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
        }
        command = [sys.executable, str(ROOT / "tests/process_child.py"), str(job)]
        with open(output(folder, rank), "w") as file:
            processes.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file, text=True))
    return processes


def outcomes(folder: Path, rank: int) -> list[str]:
    """How each run ended for process `rank`: "done", or "<type of the error>: <its text>"."""
    return json.loads((folder / f"outcomes-{rank}.json").read_text())


def output(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}.txt"


def ended(processes: Sequence[subprocess.Popen[str]], timeout_s: float) -> list[int]:
    """Their exit codes; those that still run after `timeout_s` seconds in all are killed, which gives -9."""
    codes = []
    for process in processes:
        try:
            codes.append(process.wait(timeout=timeout_s))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(process.wait())
    return codes


def assert_nearly_same_run(one: Path, other: Path) -> None:
    """Every table, picture and weight of two float64 runs, but for rounding; timings aside."""
    for table in schema.TABLES:
        pd.testing.assert_frame_equal(frame(one, table), frame(other, table), rtol=EQUAL, atol=EQUAL, obj=table)
    weights, others = (load_file(run / schema.MODEL_FOLDER / "model.safetensors") for run in (one, other))
    assert weights.keys() == others.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=0, atol=EQUAL)
    pictures = [{p.name: p.read_bytes() for p in (run / schema.IMAGES_FOLDER).iterdir()} for run in (one, other)]
    assert pictures[0] == pictures[1]
