"""The stock way, as a contender: plain right-padded rows through the transformers forward, and `generate`.

Nothing of ours but the image codec, whose time is within the clock on both sides while sampling. The model is the same
weights under transformers' own attention, not under ours. Every row carries its own copy of prompt and image, as
transformers and TRL have it.
"""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from saei.patch_matmul import PatchProduct
from saei.types import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainRows:
    """Rows as the stock forward takes them. `targets` and `wanted` are those of the last `kept` columns: the token that
    each of them predicts, and whether its score is asked for.
    """

    inputs: dict[str, Tensor]
    kept: int
    targets: Tensor
    wanted: Tensor

    @property
    def tokens(self) -> int:
        """Positions that go through the decoder, padding included."""
        return self.inputs["input_ids"].numel()


def with_attention(policy: Any, name: str) -> SimpleNamespace:
    """The same policy around a twin of its model that shares every weight; `name` as transformers knows the attention.

    Packed rows are never split for the sake of a dense mask.
    """
    twin = copy.deepcopy(policy.model, {id(weight): weight for weight in policy.model.parameters()})
    twin.set_attn_implementation(name)
    ours: list[Any] = [module for module in twin.modules() if isinstance(module, PatchProduct)]
    for product in ours:  # transformers convolves
        product.__class__ = nn.Conv3d
    taken = ("codec", "device", "image_token_id", "end_token_ids", "suppressed_token_ids")
    counts = dict.fromkeys(("packed_forwards", "tokens_forward", "tokens_backward", "tokens_generated"), 0)
    shared = {name: getattr(policy, name) for name in taken}
    return SimpleNamespace(model=twin, attention_cost=0.0, **shared, **counts)


def stock_policy(policy: Any) -> SimpleNamespace:
    """The same policy with a stock model, under transformers' own `sdpa`."""
    return with_attention(policy, "sdpa")


def plain_rows(policy: Any, prompt: Prompt, completions: Sequence[Sequence[int]]) -> PlainRows:
    """One right-padded row for each completion, prompt and image in each."""
    prefix, longest = len(prompt.token_ids), max(len(completion) for completion in completions)
    token_ids = torch.full((len(completions), prefix + longest), policy.end_token_ids[0], dtype=torch.long)
    attended = torch.zeros_like(token_ids)
    for row, completion in enumerate(completions):
        used = prefix + len(completion)
        token_ids[row, :used] = torch.tensor([*prompt.token_ids, *completion])
        attended[row, :used] = 1
    inputs = row_inputs(policy, token_ids, attended, [prompt] * len(completions))
    wanted = attended[:, prefix:].bool().to(policy.device)
    return PlainRows(inputs=inputs, kept=longest + 1, targets=token_ids[:, prefix:].to(policy.device), wanted=wanted)


def rows_of_as_many_tokens(
    policy: Any, prompt: Prompt, completions: Sequence[Sequence[int]], text: Tensor
) -> PlainRows:
    """Full rows at least as long as a plain row of the group, as many as make the tokens of the packed group.

    The image is there once, as in the packed group; the rest is `text`, one long row of it. As many scores are asked
    for as the group has.
    """
    prefix, lengths = len(prompt.token_ids), [len(completion) for completion in completions]
    total = prefix + sum(lengths)
    rows = max(1, total // (prefix + max(lengths)))  # rounded down: the prefix fits into the first
    length, kept = -(-total // rows), -(-sum(lengths) // rows)
    token_ids = text[: rows * length].clone().reshape(rows, length)
    token_ids[0, :prefix] = torch.tensor(prompt.token_ids)
    inputs = row_inputs(policy, token_ids, torch.ones_like(token_ids), [prompt])
    targets = token_ids[:, -kept:].to(policy.device)
    return PlainRows(inputs=inputs, kept=kept + 1, targets=targets, wanted=torch.ones_like(targets, dtype=torch.bool))


def row_inputs(policy: Any, token_ids: Tensor, attended: Tensor, shown: Sequence[Prompt]) -> dict[str, Tensor]:
    """Arguments of the stock forward and of `generate`; the rows show the images of `shown`, in this order."""
    images = [image for prompt in shown for image in prompt.images]
    patches = {id(image): policy.codec.patchify(image).to(policy.model.dtype) for image in images}
    given = {
        "input_ids": token_ids,
        "attention_mask": attended,
        "mm_token_type_ids": (token_ids == policy.image_token_id).int(),
        "pixel_values": torch.cat([patches[id(image)] for image in images]),
        "image_grid_thw": torch.stack([policy.codec.grid_thw(image) for image in images]),
    }
    return {name: value.to(policy.device) for name, value in given.items()}


def plain_scores(policy: Any, rows: PlainRows) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (without gradient, as the trainers log them) of the wanted tokens, row by row."""
    policy.model.model.rope_deltas = None  # of an earlier call
    logits = policy.model(**rows.inputs, use_cache=False, logits_to_keep=rows.kept).logits[:, :-1]
    log_p = torch.log_softmax(logits.float(), dim=-1)
    logprobs = log_p.gather(-1, rows.targets[..., None])[..., 0]
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(-1)
    return logprobs[rows.wanted], entropy[rows.wanted]


def padded_prompts(policy: Any, prompts: Sequence[Prompt], after: Sequence[int] = ()) -> dict[str, Tensor]:
    """Left-padded prompts, `after` appended to each, as `generate` reads them."""
    longest = max(len(prompt.token_ids) for prompt in prompts) + len(after)
    token_ids = torch.full((len(prompts), longest), policy.end_token_ids[0], dtype=torch.long)
    attended = torch.zeros_like(token_ids)
    for row, prompt in enumerate(prompts):
        first = longest - len(prompt.token_ids) - len(after)
        token_ids[row, first:] = torch.tensor([*prompt.token_ids, *after])
        attended[row, first:] = 1
    return row_inputs(policy, token_ids, attended, prompts)


def generate(policy: Any, prompts: Sequence[Prompt], completions: int, length: int, *, sampled: bool) -> Tensor:
    """`completions` of exactly `length` tokens for each prompt, by the stock `generate`.

    Never ends early: the end tokens are suppressed with those that no completion may hold.
    """
    inputs = padded_prompts(policy, prompts)
    policy.model.model.rope_deltas = None
    made = policy.model.generate(
        **inputs,
        do_sample=sampled,
        num_return_sequences=completions,
        temperature=1.0 if sampled else None,
        top_p=1.0 if sampled else None,
        top_k=0 if sampled else None,
        repetition_penalty=1.0,
        max_new_tokens=length,
        suppress_tokens=sorted({*policy.suppressed_token_ids, *policy.end_token_ids}),
        eos_token_id=list(policy.end_token_ids),
        pad_token_id=policy.end_token_ids[0],
    )
    policy.model.model.rope_deltas = None
    return made[:, inputs["input_ids"].shape[1] :]


@contextlib.contextmanager
def never_ending(policy: Any) -> Any:
    """Inside, our sampler draws no end token either, so that every completion has the full length."""
    before = policy.suppressed_token_ids
    policy.suppressed_token_ids = tuple(sorted({*before, *policy.end_token_ids}))
    try:
        yield
    finally:
        policy.suppressed_token_ids = before
