"""Does the attack do what it says: nothing with step 0, more entropy with a step, and leave the weights alone?"""

from dataclasses import replace

import torch

from saei.config import Config
from saei.doctor.finding import Finding, NotHere, failed, passed
from saei.doctor.patient import CLEAN, Patient
from saei.make_view import make_view
from saei.rollout import GroupsInProgress

BUG = "this is a bug of the view: report it with these settings"


def check_attack(patient: Patient) -> Finding:
    config, policy = patient.config, patient.policy
    if "egas" not in {entry.view for entry in config.group_plan()}:
        raise NotHere("no planned view follows the entropy of the policy (group plan without egas)")
    progress = patient.progress()
    flags = [parameter.requires_grad for parameter in policy.model.parameters()]
    weights = policy.checksum()
    still = _moved(patient, progress, replace(config, view=replace(config.view, step_size=0.0, epsilon=None)))
    if any(not _equal(patient, progress, position) for position in range(len(progress.prompts))):
        return failed("with step 0 the image moved", BUG)
    moved = _moved(patient, progress, config)
    if [parameter.requires_grad for parameter in policy.model.parameters()] != flags:
        return failed("the attack left requires_grad other than it was", BUG)
    if any(parameter.grad is not None for parameter in policy.model.parameters()) or policy.checksum() != weights:
        return failed("the attack left a gradient on the weights, or changed them", BUG)
    return _entropy(moved, len(still), config)


def _entropy(rows: list[tuple[float, float]], unmoved: int, config: Config) -> Finding:
    gains = torch.tensor([after - before for before, after in rows])
    sign = 1.0 if config.view.direction == "ascend" else -1.0
    figure = (
        f"step 0: {unmoved} images bit for bit the clean ones; a step of {config.view.step_size:g}/255: entropy of the "
        f"kept tokens {float(gains.mean()):+.1e} nats on average of {len(rows)} images, "
        f"{int((sign * gains > 0).sum())} the right way"
    )
    if not float(gains.mean()) * sign > 0:
        return failed(figure, "the gradient does not reach the pixels, or points the other way; try --problems 16")
    return passed(figure)


def _moved(patient: Patient, progress: GroupsInProgress, config: Config) -> list[tuple[float, float]]:
    """Entropy before and after, by image; the images are left in the progress."""
    progress.ledger.clear()
    count = next(entry.count for entry in config.group_plan() if entry.view == "egas")
    make_view(patient.policy, progress, "egas", count, config, 0)
    return [(row.entropy_before, row.entropy_after) for row in progress.ledger]


def _equal(patient: Patient, progress: GroupsInProgress, position: int) -> bool:
    """Are all images of the view, after step 0, those of the clean one?"""
    (clean,) = progress.images[CLEAN][position]
    return all(
        torch.equal(before, after.to(before.device))
        for images in progress.images["egas"][position]
        for before, after in zip(clean, images, strict=True)
    )
