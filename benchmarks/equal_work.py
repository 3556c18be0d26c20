"""Do TRL's trainer and ours do the same work? Asserted before anything is timed: a difference is told, not measured."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from trl.data_utils import prepare_multimodal_messages

from saei.cli import Told
from saei.config import Config
from saei.policy import Policy
from saei.rollout import noise_source
from saei.sampler import sample
from saei.types import Problem, Prompt, SampleRequest, ScoreRequest

PIXEL_TOLERANCE = 1e-5
LOGPROB_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class SameRows:
    """Completions sampled once, as TRL's forward pass takes them, and their log-probs as ours says them."""

    inputs: dict[str, Any]
    logprobs: Tensor
    length: int

    def first(self, rows: int) -> dict[str, Any]:
        """The inputs of the first rows: every problem has one image."""
        patches = int(self.inputs["image_grid_thw"][:rows].prod(dim=1).sum())
        cut = {name: values[: patches if name == "pixel_values" else rows] for name, values in self.inputs.items()}
        return cut | {"logits_to_keep": self.length, "compute_entropy": True}


def refuse_other_weights(policy: Policy, model: Any) -> None:
    """Raise Told unless both contenders start from the same weights, bit for bit."""
    theirs = dict(model.named_parameters())
    ours = dict(policy.model.named_parameters())
    unlike = [name for name, weight in ours.items() if name not in theirs or not torch.equal(weight, theirs[name])]
    if unlike or len(ours) != len(theirs):
        raise Told(f"not the same weights on both sides, first {(unlike or sorted(theirs.keys() - ours.keys()))[0]}")


def refuse_other_optimizers(made: Any, optimizer: Any) -> None:
    """Raise Told unless both contenders update with the same rates: call when TRL's trainer has trained."""
    mine = optimizer.param_groups[0]
    for group in made.optimizer.param_groups:
        for name in ("lr", "betas", "eps", "weight_decay"):
            if tuple(np.atleast_1d(group[name])) != tuple(np.atleast_1d(mine[name])):
                raise Told(f"the optimizers differ: {name} is {group[name]} in TRL's and {mine[name]} in ours")


def same_prompts(policy: Policy, made: Any, problems: Sequence[Problem]) -> list[Prompt]:
    """Our prompts. Raises Told unless TRL's processor makes the same ids and pixels of the problems."""
    messages = [
        prepare_multimodal_messages(
            [{"role": "user", "content": problem.question}],
            images=[Image.fromarray(np.asarray(image)) for image in problem.images],
        )
        for problem in problems
    ]
    token_ids, _, fields = made._tokenize_prompts(messages)
    prompts = [policy.encode(problem) for problem in problems]
    for prompt, ids in zip(prompts, token_ids, strict=True):
        if list(prompt.token_ids) != [int(token) for token in ids]:
            raise Told(f"{prompt.problem_id}: TRL's {len(ids)} prompt tokens are not our {len(prompt.token_ids)}")
    ours = torch.cat([policy.codec.patchify(image) for prompt in prompts for image in prompt.images])
    theirs = torch.as_tensor(fields["pixel_values"])
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > PIXEL_TOLERANCE:
        raise Told(f"pixel_values of shape {tuple(theirs.shape)} in TRL are not ours, {tuple(ours.shape)}")
    return prompts


def same_rows(policy: Policy, made: Any, problems: Sequence[Problem], config: Config) -> SameRows:
    """Sample a group for each problem and score it on our side. Raises Told unless prompts and pixels agree."""
    prompts = same_prompts(policy, made, problems)
    count, length = config.group_size, config.rollout.max_new_tokens
    requests = [SampleRequest(prompt=p, images=p.images, indices=tuple(range(count))) for p in prompts]
    sampled = sample(
        policy,
        requests,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        max_new_tokens=length,
        batch_rows=config.rollout.batch_rows,
        noise=noise_source(config.seed, "sampling", 0),
    )
    completions = [tuple(completion.token_ids for completion in group) for group in sampled]
    refuse_other_lengths([len(ids) for group in completions for ids in group], len(problems) * count, length, "ours")
    with torch.no_grad():
        scores = policy.score(
            [ScoreRequest(prompt=p, images=p.images, completions=c) for p, c in zip(prompts, completions, strict=True)],
            temperature=config.rollout.temperature,
            pack_tokens=config.optim.pack_tokens,
        )
    logprobs = torch.stack([score.logprobs for group in scores for score in group])
    rows = [(prompt, ids) for prompt, group in zip(prompts, completions, strict=True) for ids in group]
    return SameRows(inputs=_inputs(policy, rows), logprobs=logprobs, length=length)


def _inputs(policy: Policy, rows: Sequence[tuple[Prompt, tuple[int, ...]]]) -> dict[str, Any]:
    """Prompts padded on the left, as TRL has them."""
    longest = max(len(prompt.token_ids) for prompt, _ in rows)
    padding = [longest - len(prompt.token_ids) for prompt, _ in rows]
    end = policy.end_token_ids[0]
    padded = [[end] * gap + [*prompt.token_ids, *own] for gap, (prompt, own) in zip(padding, rows, strict=True)]
    ids = torch.tensor(padded)
    columns = torch.arange(ids.shape[1])
    images = [image for prompt, _ in rows for image in prompt.images]
    return {
        "input_ids": ids,
        "attention_mask": (columns >= torch.tensor(padding)[:, None]).long(),
        "mm_token_type_ids": (ids == policy.image_token_id).long(),
        "pixel_values": torch.cat([policy.codec.patchify(image) for image in images]),
        "image_grid_thw": torch.stack([policy.codec.grid_thw(image) for image in images]),
        "num_images": [len(prompt.images) for prompt, _ in rows],
    }


def logprob_difference(made: Any, rows: SameRows) -> float:
    """Largest difference between TRL's log-probs and ours on the same tokens. Raises Told where it is no rounding."""
    with torch.no_grad():
        theirs, _, _ = made._get_per_token_logps_and_entropies(made.model, **rows.first(len(rows.logprobs)))
    difference = (theirs - rows.logprobs).abs().max().item()
    if not difference < LOGPROB_TOLERANCE:
        raise Told(f"on the same completions TRL's log-probs differ from ours by {difference:.2g}")
    return difference


def seconds_per_row(made: Any, rows: SameRows, batches: Sequence[int]) -> Mapping[int, float]:
    """Forward and backward of TRL's loss at several `per_device_train_batch_size`: seconds of a completion."""

    def once(batch: int) -> float:
        start = time.perf_counter()
        logprobs, _, _ = made._get_per_token_logps_and_entropies(made.model, **rows.first(batch))
        logprobs.sum().backward()
        made.model.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    once(min(batches))
    return {batch: once(batch) / batch for batch in batches}


def refuse_other_lengths(lengths: Sequence[int], completions: int, length: int, whose: str) -> None:
    """Raise Told unless there are so many completions, each of the same length."""
    if len(lengths) != completions or set(lengths) != {length}:
        raise Told(
            f"{whose}: {len(lengths)} completions of {min(lengths, default=0)} to {max(lengths, default=0)} tokens, "
            f"where both sides have {completions} of {length}"
        )
