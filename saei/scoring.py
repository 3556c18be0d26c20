"""Teacher-forced log-probs and entropies of given completions, by packed forward passes.

The vision tower runs once per distinct image of a pass, the decoder once per packed row, and the LM head only where a
wanted token is predicted (`saei.head`, which never holds the logits of all of them).

`score_pairs` compares the distributions under two images; `score_chosen` scores tokens that are chosen by the entropies
which the same pass finds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saei.attention import packed_mask
from saei.families import family_of
from saei.head import CHUNK_VALUES, Scores, entropy_of, head_scores, wide
from saei.moved_text import moved_text
from saei.packing import PackedBatch, Piece, pack, prefix_rows, request_part, restart_positions, split_requests
from saei.recomputing import recomputing
from saei.token_scores import jensen_shannon, kullback_leibler
from saei.types import ByteImages, PairScores, ScoreRequest, TokenScores

Choice = Callable[[list[list[Float[Tensor, " _"]]]], Sequence[Sequence[Bool[Tensor, " _"]]]]
"""Entropies of all tokens, by request and completion -> which of them are kept."""


def score_requests(
    policy: Any, requests: Sequence[ScoreRequest], *, temperature: float, pack_tokens: int, entropy_grad: bool
) -> list[list[TokenScores]]:
    """Scores of every completion of every request, in their order; with gradient where gradients are enabled.

    `entropy_grad` False computes entropies without gradient, which is cheaper. Raises ValueError where dropout is
    active, because scores of the same tokens would then differ from pass to pass.
    """
    refuse_dropout(policy.model)
    scored: list[list[Any]] = [[None] * len(request.completions) for request in requests]
    for pieces in split_requests(requests, pack_tokens, policy.attention_cost):
        _deal(scored, pieces, _score_rows(policy, pieces, temperature, entropy_grad))
    return scored


def score_chosen(
    policy: Any, requests: Sequence[ScoreRequest], choose: Choice, *, temperature: float, pack_tokens: int
) -> list[list[TokenScores]]:
    """Scores of some tokens of every completion, with gradients where these are enabled, by one pass.

    `choose` is given the entropies of all tokens, without gradient; what it keeps goes through the head again, alone.
    What backward needs of every pass is held until then: `pack_tokens` bounds a pass, not the memory. Raises
    ValueError where dropout is active.
    """
    refuse_dropout(policy.model)
    passes = split_requests(requests, pack_tokens, policy.attention_cost)
    found = [_wanted_states(policy, pieces) for pieces in passes]
    head = policy.model.get_output_embeddings()
    entropies: list[list[Any]] = [[None] * len(request.completions) for request in requests]
    for pieces, (states, targets, counts) in zip(passes, found, strict=True):
        with torch.no_grad():
            _, entropy, _ = head_scores(head, states.detach(), targets, temperature=temperature, entropy_grad=False)
        _deal(entropies, pieces, entropy.split(list(counts)))
    kept = choose(entropies)
    scored: list[list[Any]] = [[None] * len(request.completions) for request in requests]
    for pieces, (states, targets, _) in zip(passes, found, strict=True):
        masks = [kept[piece.request_index][member] for piece in pieces for member in piece.members]
        places = torch.cat([torch.zeros(0, dtype=torch.bool), *masks]).nonzero()[:, 0].to(states.device)
        counts = [int(mask.sum()) for mask in masks]
        scores = head_scores(
            head, states.index_select(0, places), targets[places], temperature=temperature, entropy_grad=True
        )
        _deal(scored, pieces, _per_completion(scores, counts))
    return scored


def _deal(table: list[list[Any]], pieces: Sequence[Piece], values: Iterable[Any]) -> None:
    """One value to each completion of these pieces, in their order."""
    rows = iter(values)
    for piece in pieces:
        for member in piece.members:
            table[piece.request_index][member] = next(rows)


def score_pass(policy: Any, pieces: Sequence[Piece], *, temperature: float, entropy_grad: bool) -> list[TokenScores]:
    """Scores of every completion of some packed rows, in their order, by exactly one forward pass.

    Otherwise as `score_requests`.
    """
    refuse_dropout(policy.model)
    return _score_rows(policy, pieces, temperature, entropy_grad)


@torch.no_grad()
def score_pairs(
    policy: Any,
    requests: Sequence[ScoreRequest],
    others: Sequence[Sequence[ByteImages]],
    *,
    temperature: float,
    pack_tokens: int,
) -> list[list[tuple[TokenScores, PairScores]]]:
    """Every completion under its request's images and under other ones: scores, and the two distributions compared.

    `others[r]` holds the images for all completions of request r, or one entry for each of them. Without gradient.
    Raises ValueError for any other number of entries, and where dropout is active.
    """
    refuse_dropout(policy.model)
    for request, images in zip(requests, others, strict=True):
        if len(images) not in (1, len(request.completions)):
            raise ValueError(f"{len(images)} other images for {len(request.completions)} completions: give 1, or each")
    scored: list[list[Any]] = [[None] * len(request.completions) for request in requests]
    for pieces in split_requests(requests, pack_tokens, policy.attention_cost):
        states, targets, counts = _wanted_states(policy, pieces)
        # piece by piece and completion by completion, so that the wanted tokens come in the same order
        swapped = [other for piece in pieces for other in _under_others(piece, others[piece.request_index])]
        batches = split_requests(swapped, pack_tokens, policy.attention_cost)
        other_states = torch.cat([_wanted_states(policy, batch)[0] for batch in batches])
        _deal(scored, pieces, _compare(policy, states, other_states, targets, counts, temperature))
    return scored


def _under_others(piece: Piece, images: Sequence[ByteImages]) -> list[ScoreRequest]:
    if len(images) == 1:
        return [replace(piece.request, images=images[0])]
    return [
        replace(request_part(piece.request, [position]), images=images[member])
        for position, member in enumerate(piece.members)
    ]


def _compare(
    policy: Any,
    states: Float[Tensor, "tokens width"],
    other_states: Float[Tensor, "tokens width"],
    targets: Int[Tensor, " tokens"],
    counts: Sequence[int],
    temperature: float,
) -> list[tuple[TokenScores, PairScores]]:
    """One entry a completion, from the hidden states that predict its tokens under the two images."""
    head = policy.model.get_output_embeddings()
    size = max(1, CHUNK_VALUES // (2 * head.weight.shape[0]))  # two sets of logits at a time
    chunks = []
    for own, other, ids in zip(states.split(size), other_states.split(size), targets.split(size), strict=True):
        logits, columns = wide(head(own)), ids[:, None]
        log_p = torch.log_softmax(logits / temperature, dim=-1)
        log_q = torch.log_softmax(wide(head(other)) / temperature, dim=-1)
        entropies = entropy_of(log_p), entropy_of(torch.log_softmax(logits, dim=-1)), entropy_of(log_q)
        picked = log_p.gather(-1, columns)[:, 0], log_q.gather(-1, columns)[:, 0]
        chunks.append((*picked, *entropies, jensen_shannon(log_p, log_q), kullback_leibler(log_p, log_q)))
    per_value = [torch.cat(values).split(list(counts)) for values in zip(*chunks, strict=True)]
    return [
        (
            TokenScores(logprobs=log_p, entropy=entropy, entropy_t1=entropy_t1),
            PairScores(logprobs=log_q, entropy=other_entropy, jsd=jsd, kl=kl),
        )
        for log_p, log_q, entropy, entropy_t1, other_entropy, jsd, kl in zip(*per_value, strict=True)
    ]


def refuse_dropout(model: nn.Module) -> None:
    """Raise ValueError when the model is in training mode and has dropout."""
    if not model.training:
        return
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    rates += [float(getattr(module, "attention_dropout", 0.0) or 0.0) for module in model.modules()]
    if any(rate > 0 for rate in rates):
        raise ValueError(
            f"dropout of {max(rates):g} is active, so what was sampled and what is scored would differ by chance: set "
            "it to 0 in the model's config, or call model.eval()"
        )


def _wanted_states(
    policy: Any, pieces: Sequence[Piece]
) -> tuple[Float[Tensor, "wanted width"], Int[Tensor, " wanted"], tuple[int, ...]]:
    """The hidden states that predict the wanted tokens, these tokens, and how many each completion has."""
    batch = pack(pieces)
    hidden = _hidden_states(policy, pieces, batch)[0]
    return hidden.index_select(0, batch.predicts.to(hidden.device)), batch.targets.to(hidden.device), batch.counts


def _score_rows(policy: Any, pieces: Sequence[Piece], temperature: float, entropy_grad: bool) -> list[TokenScores]:
    states, targets, counts = _wanted_states(policy, pieces)
    head = policy.model.get_output_embeddings()
    scores = head_scores(head, states, targets, temperature=temperature, entropy_grad=entropy_grad)
    return _per_completion(scores, counts)


def _per_completion(scores: Scores, counts: Sequence[int]) -> list[TokenScores]:
    of_each = zip(*(values.split(list(counts)) for values in scores), strict=True)
    return [TokenScores(logprobs=lp, entropy=h, entropy_t1=h1) for lp, h, h1 in of_each]


def _hidden_states(policy: Any, pieces: Sequence[Piece], batch: PackedBatch) -> Float[Tensor, "1 tokens width"]:
    """Last hidden states of the packed row: one forward pass of the stock model, mask and positions given."""
    device, model, family = policy.device, policy.model, family_of(policy.model)
    images, order = _distinct_images(pieces)
    shown = [images[i] for i in order]
    prefix_ids, held = prefix_rows(batch, policy.end_token_ids[0])
    prefix_positions, _ = family.positions(model, policy.codec, prefix_ids.to(device), held.to(device), shown)
    policy.packed_forwards += 1
    if torch.is_grad_enabled():
        policy.tokens_backward += len(batch.token_ids)
    else:
        policy.tokens_forward += len(batch.token_ids)
    moved = moved_text(
        model.get_input_embeddings(),
        [piece.request.text_shift for piece in pieces],
        [(0, range(span.start, span.start + span.length)) for span in batch.prefixes],
    )
    with moved, recomputing(model):
        return model.model(
            input_ids=batch.token_ids[None].to(device),
            attention_mask=packed_mask(model, batch, device),
            position_ids=family.position_ids(restart_positions(prefix_positions, batch)),
            mm_encoder_outputs=family.reuse(family.encode(model, policy.codec, images), order) if images else {},
            use_cache=False,
        ).last_hidden_state


def _distinct_images(pieces: Sequence[Piece]) -> tuple[list[Tensor], list[int]]:
    """The images to encode, and for each placeholder run of the batch, in row order, which of them it shows.

    Rows of one group hold the same tuple of images, so the object's identity tells.
    """
    images: list[Tensor] = []
    first_of: dict[int, int] = {}
    order: list[int] = []
    for piece in pieces:
        own = piece.request.images
        if id(own) not in first_of:
            first_of[id(own)] = len(images)
            images.extend(own)
        order += range(first_of[id(own)], first_of[id(own)] + len(own))
    return images, order
