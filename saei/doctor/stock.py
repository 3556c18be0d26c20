"""The stock way, for comparison: the stock image processor, then the stock forward pass, one row at a time."""

import inspect
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from saei.policy import Policy
from saei.types import ByteImages, Prompt


def stock_images(policy: Policy, images: ByteImages) -> dict[str, Tensor]:
    """What the stock image processor makes of resized 8-bit images, on the model's device; empty without images."""
    if not images:
        return {}
    pictures = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
    made = policy.image_processor(images=pictures, return_tensors="pt")
    return {name: value.to(policy.device) for name, value in made.items() if isinstance(value, Tensor)}


def stock_inputs(policy: Policy, prompt: Prompt, completion: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Arguments of the stock forward pass, and of `generate`, for one row."""
    token_ids = torch.tensor([[*prompt.token_ids, *completion]], device=policy.device)
    given: dict[str, Tensor] = {"input_ids": token_ids, "attention_mask": torch.ones_like(token_ids)}
    taken = inspect.signature(policy.model.forward).parameters
    given |= {
        name: value.to(policy.model.dtype) if value.is_floating_point() else value
        for name, value in stock_images(policy, prompt.images).items()
        if name in taken  # some image processors also say how many tiles an image has
    }
    if "mm_token_type_ids" in taken:
        given["mm_token_type_ids"] = (token_ids == policy.image_token_id).int()
    forget_positions(policy.model)
    return given


def forget_positions(model: Any) -> None:
    """Some stock models keep what an earlier call found of positions."""
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None


@torch.no_grad()
def stock_scores(policy: Policy, prompt: Prompt, completion: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Log-probs of the completion's tokens and entropies there, at temperature 1, by the stock forward pass."""
    logits = policy.model(**stock_inputs(policy, prompt, completion), use_cache=False).logits
    wanted = logits[0, len(prompt.token_ids) - 1 : -1]
    log_p = torch.log_softmax(wanted if wanted.dtype == torch.float64 else wanted.float(), dim=-1)
    targets = torch.tensor(completion, device=log_p.device)[:, None]
    return log_p.gather(-1, targets)[:, 0], -(log_p.exp() * log_p).sum(-1)
