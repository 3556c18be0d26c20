"""Checkpoints: what is needed so that "interrupted and resumed" equals "straight through", bit for bit on CPU.

A checkpoint is a folder `checkpoints/step-000025` with the weights, the optimizer, the counters and the controllers'
memory; it is made under another name and renamed when complete, so a folder with that name is whole. No RNG state is
stored because there is none: every draw is a function of (seed, purpose, step, ...), and the data cursor is the step.
Weights are loaded strictly and their checksum is compared, because a lenient load of Qwen2.5-VL restores nothing and
says so nowhere.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import nn
from torch.optim import Optimizer

from saei.adapters import adapter_parameters
from saei.master_weights import kept_bytes

_FOLDER = re.compile(r"step-(\d+)")
_ADAPTER = "adapter.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where the run is: `step` steps and `updates` optimizer updates are done; `checksum` is of the weights, `state`
    what the controllers remember (`RunState`), `base` the checksum of the weights under an adapter.
    """

    trial_id: str
    step: int
    updates: int
    checksum: str
    state: dict[str, Any]
    base: str = ""


class CheckpointError(RuntimeError):
    """A checkpoint that does not belong here or is not what it says."""


def save_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, cursor: Cursor, *, keep: int) -> Path:
    """Write `folder/step-<cursor.step>`, unless it is there, then delete all but the newest `keep`.

    What a failed write leaves is removed.
    """
    target = folder / f"step-{cursor.step:06d}"
    if not target.exists():  # a run that was warned before its first step stands where it began
        temporary = folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            _write(temporary, model, optimizer, cursor)
            os.replace(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def _write(folder: Path, model: nn.Module, optimizer: Optimizer, cursor: Cursor) -> None:
    folder.mkdir(parents=True)
    adapter = adapter_parameters(model)
    if adapter:
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in adapter.items()}
        safetensors.torch.save_file(tensors, str(folder / _ADAPTER))
    else:
        safetensors.torch.save_model(model, str(folder / "model.safetensors"))
    with open(folder / "optimizer.pt", "wb") as file:
        _save_to(file, optimizer.state_dict())
    (folder / "cursor.json").write_text(json.dumps(asdict(cursor), indent=1))
    for path in folder.iterdir():
        _flush_to_disk(path)


def _save_to(file: BinaryIO, tree: dict[str, Any]) -> None:
    """torch.save; what stopped the writing (a full disk, an interrupt) is raised in place of torch's own words."""
    try:
        torch.save(tree, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError | KeyboardInterrupt):
            raise error.__context__ from error
        raise


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@torch.no_grad()
def _load_adapter(checkpoint: Path, adapter: dict[str, nn.Parameter]) -> None:
    tensors = safetensors.torch.load_file(str(checkpoint / _ADAPTER))
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    wanted = {name: (tuple(parameter.shape), parameter.dtype) for name, parameter in adapter.items()}
    different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if different:
        raise CheckpointError(f"{checkpoint}: {len(different)} tensors of the adapter differ, first {different[0]}")
    for name, parameter in adapter.items():
        parameter.copy_(tensors[name])


def expected_mb(model: nn.Module, optimizer: Optimizer) -> float:
    """Size of a checkpoint, before there is one."""
    return kept_bytes(adapter_parameters(model).values() or model.parameters(), optimizer) / 2**20


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _FOLDER.fullmatch(path.name))


def read_cursor(checkpoint: Path) -> Cursor:
    return Cursor(**json.loads((checkpoint / "cursor.json").read_text()))


def load_checkpoint(checkpoint: Path, model: nn.Module, optimizer: Optimizer, *, trial_id: str) -> Cursor:
    """Restore model and optimizer in place. The caller compares `cursor.checksum` with the policy's own.

    Raises CheckpointError for another trial's checkpoint and for missing or unexpected tensors.
    """
    cursor = read_cursor(checkpoint)
    if cursor.trial_id != trial_id:
        raise CheckpointError(f"{checkpoint} belongs to trial {cursor.trial_id}, this is trial {trial_id}")
    adapter = adapter_parameters(model)
    if adapter:
        _load_adapter(checkpoint, adapter)
    else:
        missing, unexpected = safetensors.torch.load_model(model, str(checkpoint / "model.safetensors"), strict=True)
        if missing or unexpected:
            raise CheckpointError(f"{checkpoint}: tensors missing {sorted(missing)}, unexpected {sorted(unexpected)}")
    # who keeps a part copies it out of the mapped file: 8 processes would else read all states 8 times into one machine
    mapped = getattr(optimizer, "copies_a_part", False)
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True, mmap=mapped))
    return cursor
