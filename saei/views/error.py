"""The attack that robustness is measured with: move the image against the answers that were right (claims N3).

Same steps, ball and settings as EgAS, another objective: the mean negative log-prob of the earlier completions that
were graded right, or of all of them where none was. No token is left out.
"""

import torch
from torch import Tensor

from saei.types import ViewResult, to_unit
from saei.views.climb import climb, rounded
from saei.views.context import ViewContext, refuse_without_completions
from saei.views.ledger import Attacked, attack_result
from saei.views.objective import OBJECTIVES, mean_entropies
from saei.views.responses import each_response


@each_response
def error(context: ViewContext) -> ViewResult:
    """The error-maximising attack; the ledger's entropies are over all tokens of all earlier completions.

    Raises ValueError where a problem has no earlier completion, or the caller gives no log-probs.
    """
    refuse_without_completions(context)
    if context.token_logprobs is None:
        raise ValueError("view error climbs log-probs, and the caller of the view gives entropies only")
    logprobs, aims = context.token_logprobs, targets(context)

    def objective(_: int, images: list[list[Tensor]]) -> list[Tensor]:
        return [
            OBJECTIVES[context.view.objective]([-tokens for tokens in group], None)
            for group in logprobs(images, aims, None)
        ]

    clean = [[to_unit(image) for image in images] for images in context.images]
    with torch.no_grad():
        entropy = context.token_entropy(clean, context.completions, None)
    climbs = climb(context, clean, objective)
    images = [rounded(state, before, context.view) for state, before in zip(climbs, context.images, strict=True)]
    everything = [[torch.ones(len(tokens), dtype=torch.bool, device=tokens.device) for tokens in e] for e in entropy]
    attacked = Attacked(images, climbs, everything, mean_entropies(entropy))
    return attack_result(context, attacked, images, view="error")


def targets(context: ViewContext) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The earlier completions that were right, by problem; all of them where none was or nothing is known."""
    right = context.right or tuple((False,) * len(completions) for completions in context.completions)
    return tuple(
        tuple(text for text, correct in zip(completions, grades, strict=True) if correct) or completions
        for completions, grades in zip(context.completions, right, strict=True)
    )
