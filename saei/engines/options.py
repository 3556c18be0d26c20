"""What an engine's process is given besides messages: its arguments as the settings write them, its environment."""

import json
import os
from collections.abc import Sequence
from typing import Any

from saei.cli import BadInput

_OF_THE_TRAINER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONHOME")
"""Of torchrun and of the trainer's Python: an engine would take them for its own."""
_DEFAULTS = {
    "HF_HUB_OFFLINE": "1",  # weights and tokenizer come as a folder
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker itself is the process that holds the model
}


def engine_options(entries: Sequence[str]) -> dict[str, Any]:
    """`name=value` entries as keyword arguments; a value is JSON, or text where it is none."""
    options: dict[str, Any] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def engine_environment(devices: Sequence[str], rank: int) -> dict[str, str]:
    """The environment of the engine of process `rank`. Raises BadInput where `devices` has no entry for it."""
    found = {name: value for name, value in os.environ.items() if name not in _OF_THE_TRAINER}
    environment = {**_DEFAULTS, **found}
    if devices:
        if rank >= len(devices):
            raise BadInput(
                f"rollout.engine_devices has {len(devices)} entries, and process {rank} of this trial needs one too: "
                "give one for each process"
            )
        environment["CUDA_VISIBLE_DEVICES"] = devices[rank]
    return environment
