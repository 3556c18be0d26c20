"""Image strips: clean | moved | amplified difference, for the eye. Differences are stretched to the full range.

The picture carries the completions that the attack read, token by token, and which of them it acted on.
"""

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from saei.config import RecordConfig
from saei.policy import Policy
from saei.recorder import Recorder
from saei.rollout import GroupsInProgress

MOST_TEXTS = 2
"""Completions that a strip carries."""
_GAP = 4  # white pixels between the three pictures


def save_strips(
    recorder: Recorder, policy: Policy, progress: GroupsInProgress, step: int, record: RecordConfig
) -> None:
    """Record `step-<step>-<view>-<problem>.png` for the step's first problems, if this step is recorded.

    The first image of the problem, and of its moved ones the first.
    """
    if step % record.strips_every:
        return
    for view in dict.fromkeys(row.view for row in progress.ledger):
        attacks = {row.problem_id: row for row in progress.ledger if (row.view, row.image) == (view, 0)}
        shown = list(zip(progress.prompts, progress.images[view], progress.rollouts, strict=True))
        for prompt, (moved, *_), rollouts in shown[: record.strips_per_step]:
            name = f"step-{step:06d}-{view}-{quote(prompt.problem_id, safe='')}.png"
            completions = [rollout.token_ids for rollout in rollouts]
            texts = attack_texts(policy.decode, attacks[prompt.problem_id].kept, completions)
            recorder.picture(name, strip(prompt.images[0], moved[0]), texts)


def attack_texts(
    decode: Callable[[Sequence[int]], str], kept: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """The first completions that an attack read: their token texts, and the positions that it `kept` of each."""
    return [
        {"tokens": [decode([token]) for token in token_ids], "kept": list(positions)}
        for token_ids, positions in zip(completions[:MOST_TEXTS], kept, strict=False)
    ]


def strip(
    clean: UInt8[Tensor, "3 height width"], moved: UInt8[Tensor, "3 height width"]
) -> UInt8[np.ndarray, "height wide 3"]:
    """The three pictures side by side; grey 128 in the third means unchanged."""
    before, after = (image.cpu().permute(1, 2, 0).numpy().astype(np.int16) for image in (clean, moved))
    difference = after - before
    scale = 127 / max(1, np.abs(difference).max())
    amplified = (128 + difference * scale).round().clip(0, 255)
    gap = np.full((before.shape[0], _GAP, 3), 255)
    return np.concatenate([before, gap, after, gap, amplified], axis=1).astype(np.uint8)
