"""Positions against the published layout: text counts on, an image's tokens share its start, rows and columns count.

This is what goes wrong where `mm_token_type_ids` mark the wrong tokens: the model then reads pictures as text.
"""

import torch
from torch import Tensor

from saei.doctor.finding import Finding, NotHere, failed, passed
from saei.doctor.patient import Patient
from saei.types import Prompt


def check_token_types(patient: Patient) -> Finding:
    policy = patient.policy
    if policy.family.axes > 1 and not hasattr(policy.codec, "cell"):
        raise NotHere("this family's layout of image positions is not written down here")
    wrong = []
    for prompt in patient.prompts:
        token_ids = torch.tensor([prompt.token_ids], device=policy.device)
        found, _ = policy.family.positions(
            policy.model, policy.codec, token_ids, torch.ones_like(token_ids, dtype=torch.bool), prompt.images
        )
        expected = _layout(patient, prompt)
        if not torch.equal(found[:, 0].cpu(), expected):
            first = int((found[:, 0].cpu() != expected).any(0).nonzero()[0])
            wrong.append(f"{prompt.problem_id}, token {first}: {found[:, 0, first].tolist()}")
    if wrong:
        return failed(
            f"positions of {len(wrong)} of {len(patient.prompts)} prompts are not the published ones, first {wrong[0]}",
            "the id of the image placeholder in config.json is not the tokenizer's, or mm_token_type_ids mark other "
            "tokens: take config.json and tokenizer of one model",
        )
    axes = policy.family.axes
    return passed(
        f"{len(patient.prompts)} prompts, {axes} {'axis' if axes == 1 else 'axes'}, every position as published"
    )


def _layout(patient: Patient, prompt: Prompt) -> Tensor:
    """(axes, tokens): by hand, from the sizes of the images."""
    policy, columns, next_one = patient.policy, [], 0
    images = iter(prompt.images)
    tokens = iter(prompt.token_ids)
    axes = policy.family.axes
    for token in tokens:
        if axes == 1 or token != policy.image_token_id:
            columns.append([next_one] * axes)
            next_one += 1
            continue
        image = next(images)
        rows, wide = (side // policy.codec.cell for side in image.shape[-2:])
        columns += [[next_one, next_one + row, next_one + column] for row in range(rows) for column in range(wide)]
        for _ in range(rows * wide - 1):
            next(tokens)
        next_one += max(rows, wide)
    return torch.tensor(columns).T
