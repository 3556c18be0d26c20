"""The shipped model with wider attention heads: the same function in numbers that vLLM's CPU attention takes.

vLLM on a CPU has kernels for head sizes that are multiples of 32; the shipped model has 40. Heads of 64 in a width of
256, the new places zero, compute the same when what depends on the sizes is undone: the scale 1/sqrt(head size) in the
queries, the rotary frequencies in theta and the section sizes, the mean square of the norms in their weights and
epsilon.
"""

from pathlib import Path

import torch
from torch import Tensor

from saei.config import DataConfig, ModelConfig
from saei.policy import Policy, load_policy

WIDTH, HEAD = 256, 64


def widened(folder: Path) -> Path:
    """Write the widened shipped model to `folder` (with the pixel limits of the default data) and return it."""
    policy = load_policy(ModelConfig(path="tiny", device="cpu"), DataConfig())
    old = policy.model.config
    text = old.text_config
    width, heads, groups = text.hidden_size, text.num_attention_heads, text.num_key_value_heads
    head, extra = width // heads, (HEAD - width // heads) // 2
    config = type(old).from_dict(old.to_dict())
    config.text_config.hidden_size = config.vision_config.out_hidden_size = WIDTH
    config.text_config.rms_norm_eps = text.rms_norm_eps * width / WIDTH
    rope = dict(text.rope_parameters)
    rope["rope_theta"] = rope["rope_theta"] ** (HEAD / head)
    rope["mrope_section"] = [*rope["mrope_section"][:-1], rope["mrope_section"][-1] + extra]
    config.text_config.rope_parameters = rope
    model = type(policy.model)(config).float()
    new = model.state_dict()
    for name, value in policy.model.state_dict().items():
        if name.endswith("q_proj.weight") or name.endswith("q_proj.bias"):
            value = _heads(value, heads, head) * (HEAD / head) ** 0.5
        elif ".k_proj." in name or ".v_proj." in name:
            value = _heads(value, groups, head)
        elif name.endswith("o_proj.weight"):
            value = _heads(value.T.contiguous(), heads, head).T
        elif "language_model" in name and "norm" in name:
            value = value * (width / WIDTH) ** 0.5
        grown = torch.zeros_like(new[name])
        grown[tuple(slice(0, size) for size in value.shape)] = value
        new[name] = grown
    model.load_state_dict(new)
    model.generation_config = policy.model.generation_config
    Policy(model.eval(), policy.tokenizer, policy.image_processor, DataConfig()).save(folder)
    return folder


def _heads(value: Tensor, count: int, head: int) -> Tensor:
    """Rows of `count` heads of `head` rows, each grown to HEAD: rotary pairs are (i, i + half a head)."""
    half = head // 2
    halves = value.reshape(count, 2, half, *value.shape[1:])
    grown = halves.new_zeros(count, 2, HEAD // 2, *value.shape[1:])
    grown[:, :, :half] = halves
    return grown.reshape(count * HEAD, *value.shape[1:])
