"""The plain way: every completion in a row of its own, padded by nothing, through the stock forward pass."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from saei.attention import implementation
from saei.pixels import ImageCodec
from saei.types import ScoreRequest
from tests.sampler_models import ToyCodec, ToyPolicy, stock_inputs

CODEC = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "resample": 3, "min_pixels": 64, "max_pixels": 4096}


def scored(toy: ToyPolicy) -> Any:
    """A toy policy with what scoring needs beyond sampling: the real codec, the counters and the cost model."""
    codec = toy.codec
    toy.model.set_attn_implementation(implementation("sdpa", "cpu"))
    if isinstance(codec, ToyCodec):
        codec = ImageCodec(patch=codec.patch, merge=2, temporal=2, **CODEC)
    return SimpleNamespace(
        **{**vars(toy), "codec": codec, "device": torch.device("cpu")},
        attention_cost=0.0,
        packed_forwards=0,
        tokens_backward=0,
    )


def plain_scores(policy: Any, request: ScoreRequest, temperature: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """(log-probs, entropies) of each completion of a request, by `model(...)` with nothing of ours but the codec."""
    results = []
    prefix = request.prompt.token_ids
    for completion in request.completions:
        token_ids = torch.tensor([[*prefix, *completion]])
        policy.model.model.rope_deltas = None
        inputs = stock_inputs(policy, token_ids, request.images)
        logits = policy.model(**inputs, use_cache=False).logits[0, len(prefix) - 1 : -1]
        log_p = torch.log_softmax(logits / temperature, dim=-1)
        targets = torch.tensor(completion)[:, None]
        results.append((log_p.gather(-1, targets)[:, 0], -(log_p.exp() * log_p).sum(-1)))
    return results


def plain(policy: Any, requests: Sequence[ScoreRequest]) -> list[list[tuple[Tensor, Tensor]]]:
    """`plain_scores` of every request, without gradient."""
    with torch.no_grad():
        return [plain_scores(policy, request) for request in requests]


def worst_difference(expected: Sequence[Sequence[tuple[Tensor, Tensor]]], scores: Sequence[Sequence[Any]]) -> float:
    """Largest absolute difference of a log-prob or an entropy from the plain way."""
    differences = [
        (ours - theirs).abs().max()
        for pairs, group in zip(expected, scores, strict=True)
        for (logprobs, entropy), score in zip(pairs, group, strict=True)
        for ours, theirs in ((score.logprobs, logprobs), (score.entropy, entropy))
    ]
    return float(torch.stack(differences).max())
