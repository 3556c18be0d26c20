"""EgAS: move the image along the sign of the gradient of the policy's own token entropy (arXiv 2512.10414).

The completions and the kept tokens are held fixed (teacher forcing), so the gradient goes through the entropies only.
The paper prints a negative step on -H; here the step is a size and `view.direction` says where it goes. Pixels are raw
[0, 1] values after the resize unless `view.pixel_space` says otherwise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from saei.types import ViewResult, to_unit
from saei.views.climb import Climb, climb, rounded
from saei.views.context import ViewContext, refuse_without_completions
from saei.views.ledger import Attacked, attack_result
from saei.views.objective import Kept, choose, kept_entropies, mean_entropies, problem_objectives
from saei.views.responses import each_response


@each_response
def egas(context: ViewContext) -> ViewResult:
    """The entropy-guided attack and its ledger. Raises ValueError where a problem has no earlier completion."""
    attacked = attack(context)
    return attack_result(context, attacked, attacked.images, view="egas")


def attack(context: ViewContext) -> Attacked:
    """Select tokens on the clean images, iterate, round. With step 0 or no iteration there is no backward pass."""
    refuse_without_completions(context)
    climbs, kept, before = climb_entropy(context, [[to_unit(image) for image in images] for images in context.images])
    images = [rounded(state, clean, context.view) for state, clean in zip(climbs, context.images, strict=True)]
    return Attacked(images, climbs, kept, before)


def climb_entropy(context: ViewContext, start: Sequence[Sequence[Tensor]]) -> tuple[list[Climb], Kept, list[float]]:
    """The iterates from float images `start`, the tokens kept there, and the mean entropy of those (nats).

    With `select.refresh each_iteration` later iterates choose their tokens anew; what is returned, and what the ledger
    compares, is the first choice.
    """
    generators = [context.generator("selection", problem_id) for problem_id in context.problem_ids]
    first: list[tuple[Kept, list[float]]] = []  # what was chosen, and how high it was, before any step

    def pick(entropy: list[list[Tensor]]) -> Kept:
        kept = choose(context, entropy, generators)
        if not first:
            first.append((kept, mean_entropies(kept_entropies(entropy, kept))))
        return kept

    def objective(iteration: int, images: list[list[Tensor]]) -> list[Tensor]:
        anew = iteration == 0 or context.select.refresh == "each_iteration"
        chosen: list[Kept] = [] if anew else [first[0][0]]

        def note(entropy: list[list[Tensor]]) -> Kept:
            chosen.append(pick(entropy))
            return chosen[0]

        entropy = context.token_entropy(images, context.completions, note if anew else chosen[0])
        return problem_objectives(context, entropy, chosen[0])

    climbs = climb(context, start, objective)
    if not first:  # no step was taken
        with torch.no_grad():
            pick(context.token_entropy(start, context.completions, None))
    return climbs, *first[0]
