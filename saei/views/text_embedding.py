"""Ours, no paper: EgAS on the question's token embeddings instead of the pixels (an answer to the paper's question
whether the principle carries over to text inputs, claims Q2).

The image stays clean; the input embeddings of the question's own tokens move up the entropy of the kept tokens, and
the completions of the view are sampled from the moved embeddings. Embeddings have no grey levels, so the budget is
relative: one step, and the whole move, of a token is at most `view.text_radius` (times the strength) of the mean
length of the question's embeddings, in L2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saei.types import AttackRow, TextShift, ViewResult, to_unit
from saei.views.climb import DIRECTIONS
from saei.views.context import ViewContext, refuse_without_completions
from saei.views.ledger import positions
from saei.views.objective import Kept, choose, kept_entropies, mean_entropies, problem_objectives

# A step counts as cut by the ball when it exceeds it by more than rounding of float32 can.
_CUT = 1e-5


@dataclass(slots=True)
class TextClimb:
    """One question under attack: its shift, the radius of the ball, and counts of tokens times iterations."""

    shift: Float[Tensor, "_ _"]
    question: Bool[Tensor, " _"]
    radius: float
    seen: int = 0
    zero: int = 0
    cut: int = 0
    broken: bool = False


def text_embedding(context: ViewContext) -> ViewResult:
    """Moved embeddings for the completions of this view, and the ledger (pixel norms 0, `text_l2` set).

    Raises ValueError where a problem has no earlier completion, where the caller cannot move text, or for one
    embedding per completion, which no sampler here can take.
    """
    refuse_without_completions(context)
    if context.text_entropy is None or context.embeddings is None or not context.questions:
        raise ValueError(
            "view text_embedding moves token embeddings, and the caller of the view gives none: pass text_entropy, "
            "embeddings and questions"
        )
    if context.view.adv_per != "prompt":
        raise ValueError(
            f"view.adv_per is {context.view.adv_per}, but view text_embedding has one move per problem: set "
            "--view.adv-per prompt"
        )
    generators = [context.generator("selection", problem_id) for problem_id in context.problem_ids]
    with torch.no_grad():
        images = [[to_unit(image) for image in group] for group in context.images]
        entropy = context.token_entropy(images, context.completions, None)
    kept = choose(context, entropy, generators)
    climbs = climb_text(context, kept, generators)
    shifts = [None if state.broken or not state.shift.any() else state.shift for state in climbs]
    before = mean_entropies(kept_entropies(entropy, kept))
    after = before
    if any(shift is not None for shift in shifts):
        with torch.no_grad():
            after = mean_entropies(context.text_entropy(shifts, context.completions, kept))
    rows = [_row(context, i, climbs[i], shifts[i], kept, before[i], after[i]) for i in range(len(shifts))]
    return ViewResult(images=[[group] for group in context.images], ledger=rows, text_shifts=shifts)


def climb_text(context: ViewContext, kept: Kept, generators: Sequence[torch.Generator]) -> list[TextClimb]:
    """`view.iterations` steps of every question; none, and no backward pass, at radius or strength 0."""
    view, text_entropy = context.view, context.text_entropy
    assert text_entropy is not None, "the caller checks that text can be moved"
    climbs = [_begin(context, i) for i in range(len(context.problem_ids))]
    moving = any(state.radius > 0 for state in climbs)
    for iteration in range(view.iterations if moving else 0):
        leaves = [state.shift.clone().requires_grad_() for state in climbs]
        if iteration and context.select.refresh == "each_iteration":
            with torch.no_grad():
                kept = choose(context, text_entropy(leaves, context.completions, None), generators)
        with torch.enable_grad():
            total = torch.stack(
                problem_objectives(context, text_entropy(leaves, context.completions, kept), kept)
            ).sum()
            if not total.requires_grad:
                break
            gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        for state, gradient in zip(climbs, gradients, strict=True):
            _advance(state, gradient, DIRECTIONS[view.direction])
    return climbs


def _begin(context: ViewContext, number: int) -> TextClimb:
    assert context.embeddings is not None, "the caller checks that text can be moved"
    embeddings = context.embeddings(number)
    embeddings = embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32))
    question = context.questions[number].to(embeddings.device)
    length = float(embeddings[question].norm(dim=-1).mean()) if question.any() else 0.0
    return TextClimb(torch.zeros_like(embeddings), question, context.view.text_radius * context.strength * length)


def _advance(state: TextClimb, gradient: Float[Tensor, "prompt width"], direction: float) -> None:
    """Per token: a step of the radius along the gradient, then back into the ball. No gradient, no move."""
    if state.broken or not bool(gradient.isfinite().all()):
        state.broken, state.shift = True, torch.zeros_like(state.shift)
        return
    slope = gradient * state.question[:, None]
    length = torch.linalg.vector_norm(slope, dim=-1, keepdim=True)
    unit = torch.where(length > 0, slope / length.clamp_min(torch.finfo(length.dtype).tiny), 0.0)
    proposal = state.shift + direction * state.radius * unit
    reached = torch.linalg.vector_norm(proposal, dim=-1, keepdim=True)
    outside = reached > state.radius
    state.shift = torch.where(outside, proposal * (state.radius / reached.clamp_min(state.radius)), proposal)
    state.seen += int(state.question.sum())
    state.zero += int((length[state.question] == 0).sum())
    state.cut += int((reached[state.question] > state.radius * (1 + _CUT)).sum())


def _row(
    context: ViewContext,
    number: int,
    state: TextClimb,
    shift: TextShift | None,
    kept: Kept,
    before: float,
    after: float,
) -> AttackRow:
    return AttackRow(
        problem_id=context.problem_ids[number],
        view="text_embedding",
        linf=0.0,
        l2=0.0,
        touched_share=0.0,
        zero_gradient_share=math.nan if state.broken else state.zero / max(state.seen, 1),
        clipped_share=state.cut / max(state.seen, 1),
        entropy_before=before,
        entropy_after=before if shift is None else after,
        tokens_kept=sum(int(mask.sum()) for mask in kept[number]),
        tokens_total=sum(len(mask) for mask in kept[number]),
        moved=shift is not None,
        kept=positions(kept[number]),
        text_l2=0.0 if shift is None else float(torch.linalg.vector_norm(shift)),
    )
