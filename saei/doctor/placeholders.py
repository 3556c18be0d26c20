"""Has every prompt as many image placeholders as the stock vision tower gives features for its images?"""

import inspect

import torch

from saei.doctor.finding import Finding, NotHere, failed, passed
from saei.doctor.patient import Patient
from saei.doctor.stock import stock_images
from saei.types import Prompt


def check_placeholders(patient: Patient) -> Finding:
    pairs = [(_placeholders(patient, prompt), _features(patient, prompt)) for prompt in patient.prompts]
    wrong = [f"{p.problem_id}: {a} for {b}" for p, (a, b) in zip(patient.prompts, pairs, strict=True) if a != b]
    if wrong:
        return failed(
            f"{len(wrong)} of {len(pairs)} prompts differ, first {wrong[0]} features",
            "tokenizer, image processor and weights are not of one model: take all files of one folder",
        )
    return passed(f"{len(pairs)} prompts, {min(a for a, _ in pairs)} to {max(a for a, _ in pairs)} placeholders each")


def _placeholders(patient: Patient, prompt: Prompt) -> int:
    return prompt.token_ids.count(patient.policy.image_token_id)


@torch.no_grad()
def _features(patient: Patient, prompt: Prompt) -> int:
    """Rows that the stock tower and projector give for the images of a prompt, by the stock processor."""
    policy = patient.policy
    if not prompt.images:
        return 0
    model = policy.model.model
    made = stock_images(policy, prompt.images)
    takes = inspect.signature(model.get_image_features).parameters
    given = {name: value for name, value in made.items() if name in takes}
    given["pixel_values"] = given["pixel_values"].to(policy.model.dtype)
    features = model.get_image_features(**given, return_dict=True).pooler_output
    if not isinstance(features, torch.Tensor):
        features = torch.cat(list(features))
    if features.shape[-1] != policy.model.config.get_text_config().hidden_size:
        raise NotHere(f"features of width {features.shape[-1]} are not what the decoder reads: not known how to count")
    return features[..., 0].numel()
