"""Does the memory plan fit the device; and where a GPU is here, what did the checks take at their peak?"""

import os

import torch

from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
from saei.plan.memory import GIB
from saei.plan.settings import make_plan


def check_memory(patient: Patient) -> Finding:
    size, name = _device(patient)
    plan = make_plan(patient.config, processes=patient.processes, device_gb=size)
    most = f"{plan.peak.name} takes most, {plan.peak.bytes / GIB:.2f} GiB (reckoned, not measured)"
    figure = f"{most}, of {size:.1f} GiB {name}"
    if torch.cuda.is_available():
        figure += f"; measured so far: {torch.cuda.max_memory_allocated() / GIB:.2f} GiB at the peak of these checks"
    if patient.processes > 1:
        figure += f", on each of {patient.processes}"
    if plan.advice:
        return failed(figure, _not_said(patient) or plan.advice[0].partition(": ")[2])
    return passed(figure)


def _not_said(patient: Patient) -> str:
    """The flags that say which GPUs will share the run, as far as they are missing: without them it was held against
    what is here.
    """
    if patient.config.distributed.strategy != "shard":
        return ""
    flags = ["--gpus 8"] if patient.processes == 1 else []
    if patient.device_gb is None and not torch.cuda.is_available():
        flags.append("--gpu-gb 80")
    if not flags:
        return ""
    return f"say which GPUs will share this run (distributed.strategy is shard), such as {' '.join(flags)}"


def _device(patient: Patient) -> tuple[float, str]:
    """GiB, and of what."""
    if patient.device_gb is not None:
        return patient.device_gb, "(--gpu-gb)"
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GIB, "of this GPU"
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, "free in this machine"
