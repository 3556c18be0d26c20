"""Sampling completions: inverse CDF of counter-based uniforms, so that a completion depends on its own key and prompt.

The uniform of (problem, completion index, position) decides the token, whatever else is in the batch and whatever image
the row sees: arms of a sweep are paired, and batching changes nothing beyond rounding (DESIGN 4.2, 5).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saei.decoder import Prefix, RowDecoder, prefill
from saei.draw import DrawRule, draw_tokens, wide
from saei.scoring import refuse_dropout
from saei.types import SampledCompletion, SampleRequest

Noise = Callable[[str, int, int], np.ndarray]
"""(problem_id, completion index, length) -> that many uniforms in [0, 1), float64."""

Step = Callable[[Tensor, Tensor | None], Tensor]
"""(newest token of every row that goes on, `keep`) -> logits of their next tokens; see RowDecoder.step."""


@dataclass(frozen=True, slots=True)
class DecodedRows:
    """Completions of all rows, cut by `lengths`; columns beyond a row's length are meaningless."""

    tokens: Int[Tensor, "rows tokens"]
    logprobs: Float[Tensor, "rows tokens"]
    entropy: Float[Tensor, "rows tokens"]
    removed_mass: Float[Tensor, "rows tokens"]
    lengths: Int[Tensor, " rows"]
    finished: Bool[Tensor, " rows"]


@torch.no_grad()
def sample(
    policy: Any,
    requests: Sequence[SampleRequest],
    *,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    batch_rows: int,
    noise: Noise | None,
) -> list[list[SampledCompletion]]:
    """Sample every completion of every request (outer list: request, inner: its `indices`), tensors on the CPU.

    `noise` None decodes greedily: the largest logit that is not suppressed, top-p without effect. At most `batch_rows`
    completions are decoded at a time; each distinct (prompt, images, moved text) is prefilled once, however many
    requests share it. Raises ValueError where dropout or gradient checkpointing is active.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
    _refuse_training_behaviour(policy.model)
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    rule = DrawRule(
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        suppressed=_mark(policy.suppressed_token_ids, vocabulary, policy.device),
        end=_mark(policy.end_token_ids, vocabulary, policy.device),
    )
    prefixes, rows_of_prefix = _share_prefixes(requests)
    completions: dict[tuple[int, int], SampledCompletion] = {}
    for wave in _waves([len(rows) for rows in rows_of_prefix], batch_rows):
        start = prefill(policy, [prefixes[i] for i in wave])
        if not bool(start.logits.isfinite().all()):
            raise FloatingPointError(
                "the policy's next-token logits are not finite, so nothing can be sampled: its weights overflowed. "
                "Lower optim.lr, or use model.dtype float32, and begin from an earlier checkpoint"
            )
        rows = [(slot, row) for slot, i in enumerate(wave) for row in rows_of_prefix[i]]
        for first in range(0, len(rows), batch_rows):
            slots, batch = zip(*rows[first : first + batch_rows], strict=True)
            decoder = RowDecoder(policy, start, torch.tensor(slots, device=policy.device))
            keys = [(requests[i].prompt.problem_id, requests[i].indices[member]) for i, member in batch]
            uniforms = None if noise is None else _uniforms(noise, keys, max_new_tokens).to(policy.device)
            decoded = decode_rows(decoder.logits, decoder.step, uniforms, rule)
            policy.tokens_generated += int(decoded.lengths.sum())
            indices = [index for _, index in keys]
            completions.update(zip(batch, _completions(decoded, indices), strict=True))
    return [[completions[i, member] for member in range(len(request.indices))] for i, request in enumerate(requests)]


def decode_rows(
    logits: Float[Tensor, "rows vocabulary"],
    step: Step,
    uniforms: Float[Tensor, "rows tokens"] | None,
    rule: DrawRule,
) -> DecodedRows:
    """Draw tokens for all rows until each has drawn an end token or has `rule.max_new_tokens`.

    `logits` are those of the first token. Rows that have finished leave: their slots are filled from the tail, so the
    step function copies the state of as few rows as possible.
    """
    rows, device = logits.shape[0], logits.device
    alive = torch.arange(rows, device=device)  # slot -> row
    tokens = torch.zeros((rows, rule.max_new_tokens), dtype=torch.long, device=device)
    scores = torch.zeros((rows, rule.max_new_tokens, 3), dtype=wide(logits), device=device)
    lengths = torch.full((rows,), rule.max_new_tokens, dtype=torch.long, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    for position in range(rule.max_new_tokens):
        draw = draw_tokens(logits, None if uniforms is None else uniforms[alive, position], rule)
        tokens[alive, position] = draw.tokens
        scores[alive, position] = torch.stack([draw.logprobs, draw.entropy, draw.removed_mass], dim=-1)
        done, newest, keep = rule.end[draw.tokens], draw.tokens, None
        if done.any():
            finished[alive[done]] = True
            lengths[alive[done]] = position + 1
            keep = _fill_from_tail(done)
            alive, newest = alive[keep], newest[keep]
        if len(alive) == 0 or position + 1 == rule.max_new_tokens:
            break
        logits = step(newest, keep)
    logprobs, entropy, removed_mass = scores.unbind(-1)
    return DecodedRows(tokens, logprobs, entropy, removed_mass, lengths, finished)


def _fill_from_tail(done: Bool[Tensor, " slots"]) -> Int[Tensor, " alive"]:
    """`keep` for RowDecoder.step: living rows stay in their slots, those of the tail move into freed slots."""
    left = int((~done).sum())
    keep = torch.arange(left, device=done.device)
    keep[done[:left]] = left + torch.nonzero(~done[left:]).flatten()
    return keep


def _uniforms(noise: Noise, keys: Sequence[tuple[str, int]], length: int) -> Float[Tensor, "rows tokens"]:
    table = np.stack([np.asarray(noise(problem_id, index, length), dtype=np.float64) for problem_id, index in keys])
    if table.shape[1] != length or not ((table >= 0) & (table < 1)).all():
        raise ValueError(
            f"noise must give {length} uniforms in [0, 1), got {table.shape[1]} from {table.min():g} to {table.max():g}"
        )
    return torch.from_numpy(table)


def _share_prefixes(requests: Sequence[SampleRequest]) -> tuple[list[Prefix], list[list[tuple[int, int]]]]:
    """Distinct (prompt, images, moved text), and for each its rows as (request, member).

    Short prompts come first, to pad less.
    """
    shared: dict[tuple[tuple[int, ...], bytes], tuple[Prefix, list[tuple[int, int]]]] = {}
    for i, request in enumerate(requests):
        prefix = Prefix(request.prompt.token_ids, request.images, request.text_shift)
        key = (prefix.token_ids, _digest(prefix))
        shared.setdefault(key, (prefix, []))[1].extend((i, member) for member in range(len(request.indices)))
    entries = sorted((entry for entry in shared.values() if entry[1]), key=lambda entry: len(entry[0].token_ids))
    return [prefix for prefix, _ in entries], [rows for _, rows in entries]


def _digest(prefix: Prefix) -> bytes:
    digest = hashlib.sha256()
    shift = [] if prefix.text_shift is None else [prefix.text_shift.detach().double()]
    for tensor in [*prefix.images, *shift]:
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _waves(rows_of_prefix: Sequence[int], batch_rows: int) -> Iterator[list[int]]:
    """Prefixes prefilled together: as many as fill one batch of rows; one with more rows than that goes alone."""
    wave: list[int] = []
    for i, rows in enumerate(rows_of_prefix):
        if wave and sum(rows_of_prefix[j] for j in wave) + rows > batch_rows:
            yield wave
            wave = []
        wave.append(i)
    if wave:
        yield wave


def _completions(decoded: DecodedRows, indices: Sequence[int]) -> list[SampledCompletion]:
    tokens, lengths, finished = decoded.tokens.tolist(), decoded.lengths.tolist(), decoded.finished.tolist()
    logprobs, entropy, removed_mass = decoded.logprobs.cpu(), decoded.entropy.cpu(), decoded.removed_mass.cpu()
    return [
        SampledCompletion(
            index=index,
            token_ids=tuple(tokens[row][:length]),
            sampler_logprobs=logprobs[row, :length].clone(),
            sampler_entropy=entropy[row, :length].clone(),
            removed_mass=removed_mass[row, :length].clone(),
            finished=finished[row],
        )
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True))
    ]


def _mark(token_ids: Sequence[int], vocabulary: int, device: torch.device | str) -> Bool[Tensor, " vocabulary"]:
    marked = torch.zeros(vocabulary, dtype=torch.bool)
    marked[list(token_ids)] = True
    return marked.to(device)


def _refuse_training_behaviour(model: nn.Module) -> None:
    """What a model in training mode would do differently from the one that is scored."""
    refuse_dropout(model)
    if any(module.training and getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        raise ValueError(
            "gradient checkpointing is active while sampling and would discard the cache: call model.eval()"
        )
