"""Does a run that was saved and loaded go on with the same numbers? One update, a checkpoint, one more, twice."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from saei.checkpoint import Cursor, load_checkpoint, save_checkpoint
from saei.config import (
    AdvantageConfig,
    Config,
    ControlConfig,
    LossConfig,
    PolicySelectConfig,
    ScoreConfig,
    SelectConfig,
)
from saei.doctor.finding import Finding, NotHere, failed, passed
from saei.doctor.patient import Patient
from saei.evidence import Evidence, score_rollouts
from saei.exhausted import MEGABYTE
from saei.master_weights import MasterAdamW, masters_in_place, optimizer_for
from saei.policy import Policy
from saei.update import UpdateResult, update_policy

LR = 1e-3
"""Large enough that every update moves weights of any type."""
GPU_CLOSE = 1e-2
"""Relative difference of two gradient norms that sums in another order explain on a GPU."""


def check_resume(patient: Patient) -> Finding:
    policy = patient.policy
    before = {name: p.detach().to("cpu", copy=True) for name, p in policy.model.named_parameters() if p.requires_grad}
    try:
        return _saved_and_loaded(patient)
    except torch.cuda.OutOfMemoryError:
        raise NotHere(
            "this GPU alone cannot hold what an update needs (weights, gradients and the optimizer's states, which a "
            "run on several GPUs shares): try it with a smaller model of the family"
        ) from None
    finally:
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                if name in before:
                    parameter.copy_(before[name])


def _saved_and_loaded(patient: Patient) -> Finding:
    optimizer = optimizer_for(patient.policy.model, replace(patient.config.optim, lr=LR))
    try:
        return _with(optimizer, patient)
    finally:
        if isinstance(optimizer, MasterAdamW):
            optimizer.let_go()


def _with(optimizer: Optimizer, patient: Patient) -> Finding:
    policy, update = patient.policy, _updates(patient)
    update(optimizer)
    saved = _checksum(policy, optimizer)
    cursor = Cursor(trial_id="doctor", step=1, updates=1, checksum=saved, state={})
    with tempfile.TemporaryDirectory(prefix="saei-doctor-") as place:
        with masters_in_place(optimizer):  # as the trainer saves and loads
            folder = save_checkpoint(Path(place), policy.model, optimizer, cursor, keep=1)
        size = sum(path.stat().st_size for path in folder.iterdir()) / MEGABYTE
        straight = update(optimizer)
        straight_sum = _checksum(policy, optimizer)
        with masters_in_place(optimizer):
            load_checkpoint(folder, policy.model, optimizer, trial_id="doctor")
    loaded = _checksum(policy, optimizer)
    resumed = update(optimizer)
    figure = f"checkpoint of {size:,.1f} MB; checksum {saved} saved, {loaded} loaded"
    if loaded != saved:
        return failed(figure, "the weights that come back are others: do not start a run that may be interrupted")
    if straight_sum == saved:
        return failed(f"{figure}; an update moved no weight", "every weight is frozen, or gradients are 0")
    return _compared(patient, figure, straight, resumed, straight_sum == _checksum(policy, optimizer))


def _checksum(policy: Policy, optimizer: Optimizer) -> str:
    """Of the weights as a checkpoint keeps them: their master copies, where there are any."""
    with masters_in_place(optimizer):
        return policy.checksum()


def _compared(patient: Patient, figure: str, straight: UpdateResult, resumed: UpdateResult, equal: bool) -> Finding:
    if equal:
        return passed(f"{figure}; the next update is the same, bit for bit")
    close = abs(straight.grad_norm - resumed.grad_norm) <= GPU_CLOSE * straight.grad_norm
    if patient.policy.device.type == "cuda" and close:
        return passed(
            f"{figure}; gradient norms of the next update {straight.grad_norm:.6g} and {resumed.grad_norm:.6g}"
        )
    return failed(
        f"{figure}; the next update is another (gradient norms {straight.grad_norm:.6g} and {resumed.grad_norm:.6g})",
        "the optimizer's states did not come back: do not start a run that may be interrupted",
    )


def _updates(patient: Patient) -> Any:
    """optimizer -> one plain GRPO update on the same completions, every second one of which was good."""
    config = _plain(patient.config)
    evidence = {
        key: Evidence(advantage=1.0 if number % 2 else -1.0, old=old)
        for number, (key, old) in enumerate(score_rollouts(patient.policy, patient.groups, config).items())
    }

    def update(optimizer: Any) -> UpdateResult:
        generator = torch.Generator(device=patient.policy.device).manual_seed(0)
        return update_policy(patient.policy, optimizer, patient.groups, evidence, config, generator, first=True)

    return update


def _plain(config: Config) -> Config:
    """The run's settings with nothing in them that the check would have to gather first."""
    return replace(
        config,
        loss=LossConfig(),
        control=ControlConfig(),
        policy_select=PolicySelectConfig(),
        advantage=AdvantageConfig(),
        score=ScoreConfig(),
        select=SelectConfig(),
    )
