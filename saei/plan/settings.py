"""A plan of one config: its shapes, its layout on so many devices, the phases of a step, the hours, the command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saei.adapters import add_adapter
from saei.config import Config
from saei.families import family_of
from saei.identity import model_folder
from saei.master_weights import master_dtype
from saei.plan.hours import Hours, expected_hours
from saei.plan.memory import GIB, Phase, advice, phases
from saei.plan.shapes import on_meta, stock_config
from saei.plan.storage import Layout
from saei.plan.workload import Workload, assumed_workload
from saei.policy import freeze_parts
from saei.tiny import model_dir


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run will take on `processes` devices, one process each; nothing in it is measured."""

    model: Any
    layout: Layout
    work: Workload
    phases: list[Phase]
    hours: Hours
    advice: list[str]

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.bytes)


def make_plan(config: Config, *, processes: int, device_gb: float, work: Workload | None = None) -> Plan:
    """The plan on so many devices of `device_gb` GiB each. Raises ValueError for a model whose shape is not known."""
    model = model_to_train(config)
    stock, family = model.config, family_of(model)
    limits = config.data.min_pixels, config.data.max_pixels
    codec = family.codec(family.processor(_processor_source(config), *limits), stock, *limits)
    work = work or assumed_workload(config, codec)
    layout = layout_of(config, processes)
    found = phases(config, model, codec, layout, work)
    return Plan(
        model=model,
        layout=layout,
        work=work,
        phases=found,
        hours=expected_hours(config, model, work, processes, recompute=layout.recompute),
        advice=advice(config, found, layout, device_gb * GIB),
    )


def model_to_train(config: Config) -> Any:
    """The model on meta, what is fixed and what is trained of it as the settings say; an adapter is in it."""
    stock = stock_config(config.model)
    model, family = on_meta(stock, getattr(torch, config.model.dtype)), family_of(stock)
    freeze_parts(model, family, config.model)
    if config.model.lora_rank:
        with torch.device("meta"):
            add_adapter(model, family.decoder(model), config.model, config.seed)
    return model


def layout_of(config: Config, processes: int) -> Layout:
    """How this config keeps its weights on so many processes."""
    compute = getattr(torch, config.model.dtype)
    return Layout(
        compute=compute,
        master=master_dtype(compute, config.optim) or compute,
        parts=processes if config.distributed.strategy == "shard" else 1,
        recompute=config.model.gradient_checkpointing,
        reference=config.loss.kl_coef > 0,
    )


def _processor_source(config: Config) -> Path | str:
    """The image processor's files; of a hub id that is not here, those of the tiny model, whose patches are Qwen's."""
    folder = model_folder(config.model.path)
    return folder if folder is not None and any(folder.glob("*processor_config.json")) else model_dir()
