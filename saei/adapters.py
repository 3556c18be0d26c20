"""LoRA (arXiv 2106.09685) by peft: the stock model keeps its class and frozen weights, linears of its text decoder get
an update of low rank, and that alone is trained, checkpointed and shared.

An adapter has no dropout, since what was sampled and what is scored must agree, and starts from the run's seed. Beside
bfloat16 weights it is float32, so that its updates are not rounded away. peft is loaded where there is one to make,
read or write: a run without an adapter would spend an eighth of its start on it.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from saei.adapter_folder import ADAPTER_CONFIG
from saei.config import ModelConfig
from saei.seeding import torch_generator

_NAME = "default"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def add_adapter(model: Any, decoder: nn.Module, settings: ModelConfig, seed: int) -> None:
    """Freeze `model` and give linears of its `decoder` a trainable update, zero at first, drawn from `seed`.

    Raises ValueError where `model.lora_targets` names a linear that the decoder does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model

    prefix = next(name for name, module in model.named_modules() if module is decoder)
    linears = [f"{prefix}.{name}" for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    found = {name.rpartition(".")[2] for name in linears}
    unknown = [target for target in settings.lora_targets if target not in found]
    if unknown:
        raise ValueError(
            f"model.lora_targets names {', '.join(unknown)}; the text decoder of this model has "
            f"{', '.join(sorted(found))}"
        )
    wanted = settings.lora_targets or tuple(found)
    folder = Path(settings.path)
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules=[name for name in linears if name.rpartition(".")[2] in wanted],
        base_model_name_or_path=str(folder.resolve()) if folder.is_dir() else settings.path,
        revision=None if folder.is_dir() or settings.path == "tiny" else settings.revision,
    )
    with torch.random.fork_rng(devices=[]):  # peft draws first values from the global generator
        inject_adapter_in_model(config, model, _NAME)
    for name, layer in _layers(model):
        if model.dtype in (torch.bfloat16, torch.float16):
            for matrix in (layer.lora_A[_NAME], layer.lora_B[_NAME]):
                matrix.float()
        first = torch.empty(layer.lora_A[_NAME].weight.shape)
        generator = torch_generator(seed, "adapter", name)
        nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)  # as peft has it
        layer.lora_A[_NAME].weight.data.copy_(first)
    model.eval()


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's weights by their full names; empty for a model without one."""
    return {name: p for name, p in model.named_parameters() if ".lora_A." in name or ".lora_B." in name}


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what it did before it had an adapter."""
    before = [(p, p.requires_grad) for p in adapter_parameters(model).values()]
    for _, layer in _layers(model):
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for _, layer in _layers(model):
            layer.enable_adapters(True)
        for parameter, required in before:  # peft sets it, whatever it was
            parameter.requires_grad_(required)


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor] | None:
    """The stock model's weights with the adapter added to them, on the CPU; None for a model without one."""
    layers = dict(_layers(model))
    if not layers:
        return None
    merged: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner in layers and leaf == "weight":
            value = (value + layers[owner].get_delta_weight(_NAME)).to(value.dtype)
        merged[f"{owner}.{leaf}" if owner else name] = value.cpu()
    return merged


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter alone in peft's format, complete or not at all."""
    from peft import get_peft_model_state_dict

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model.peft_config[_NAME].save_pretrained(str(temporary))
    tree = json.loads((temporary / ADAPTER_CONFIG).read_text())
    tree["target_modules"] = sorted(tree["target_modules"])  # a set in peft: another order in every process
    (temporary / ADAPTER_CONFIG).write_text(json.dumps(tree, indent=1, sort_keys=True))
    tensors = {
        _PREFIX + name: value.cpu().contiguous()
        for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    safetensors.torch.save_file(tensors, str(temporary / _WEIGHTS), {"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def merge_adapter(model: Any, folder: Path) -> Any:
    """The stock model with the adapter in `folder` added to its weights, as `merged_state` gives them.

    Raises ValueError, or OSError, for an adapter that is incomplete or made for another model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    given = set(safetensors.torch.load_file(str(folder / _WEIGHTS)))
    try:
        wrapped = PeftModel.from_pretrained(model, str(folder))
        wanted = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
        if given != wanted:
            first = min(given ^ wanted)
            raise ValueError(f"its adapter and its model differ in {len(given ^ wanted)} tensors, first {first}")
        merged: Any = wrapped.merge_and_unload()
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(f"its adapter does not fit the model: {str(error).splitlines()[0]}") from error
    vars(merged).pop("peft_config", None)
    return merged.requires_grad_(True)  # peft froze it


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    if not adapter_parameters(model):
        return []
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
