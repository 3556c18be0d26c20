"""Is there room for checkpoints, the model and the tables?"""

import shutil
from pathlib import Path

import torch

from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
from saei.exhausted import MEGABYTE
from saei.plan.settings import layout_of, model_to_train
from saei.plan.storage import ADAM_STATES, at_rest, counted, trained

TOKEN_BYTES = 12
"""Of a completion's token in the tables: its text, log-prob and entropy, compressed (assumed)."""
MARGIN = 1.1


def check_disk(patient: Patient) -> Finding:
    config = patient.config
    model = model_to_train(config)
    checkpoint = sum(at_rest(model, layout_of(config, 1)).values())
    if config.model.lora_rank:  # of an adapter, its own weights and states alone are kept
        checkpoint = (1 + ADAM_STATES) * trained(model) * torch.float32.itemsize
    exported = counted(model) * model.dtype.itemsize
    completions = config.steps * config.rollout.problems_per_step * config.group_size
    tables = completions * config.rollout.max_new_tokens * TOKEN_BYTES
    # one more than are kept: the newest is whole before the oldest goes
    needed = MARGIN * ((config.checkpoint.keep + 1) * checkpoint + exported + tables)
    place = next(path for path in (Path(config.out).resolve(), *Path(config.out).resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    figure = (
        f"needs about {_mb(needed)}: {config.checkpoint.keep} + 1 checkpoints of {_mb(float(checkpoint))}, model "
        f"{_mb(float(exported))}, tables at most {_mb(float(tables))}; {_mb(float(free))} free at {place}"
    )
    if needed > free:
        return failed(
            figure, f"free some, choose another --out, or --checkpoint.keep {max(1, config.checkpoint.keep - 1)}"
        )
    return passed(figure)


def _mb(size: float) -> str:
    size /= MEGABYTE
    return f"{size / 1024:,.1f} GB" if size >= 1024 else f"{size:,.1f} MB"
