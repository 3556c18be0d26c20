"""One moved image for each completion: `view.adv_per response`, for every attack alike."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import torch

from saei.types import ViewResult
from saei.views.context import ViewContext

Make = Callable[[ViewContext], ViewResult]


def each_response(make: Make) -> Make:
    """`make`, aimed at one earlier completion at a time where `view.adv_per` is response.

    Of n earlier completions, number j % n aims the image that completion j of the view sees; the ledger has a row for
    each image. `select.scope group` then ranks within the one completion that the attack reads. Streams of random
    numbers go on from one image of a problem to the next.
    """

    @wraps(make)
    def made(context: ViewContext) -> ViewResult:
        if context.view.adv_per == "prompt":
            return make(context)
        streams: dict[tuple[str, str], torch.Generator] = {}

        def generator(purpose: str, problem_id: str) -> torch.Generator:
            if (purpose, problem_id) not in streams:
                streams[purpose, problem_id] = context.generator(purpose, problem_id)
            return streams[purpose, problem_id]

        images = min(context.count, max(1, *map(len, context.completions)))
        results = [make(replace(_aimed(context, j), generator=generator)) for j in range(images)]
        return ViewResult(
            images=[
                [results[j % images].images[i][0] for j in range(context.count)] for i in range(len(context.images))
            ],
            ledger=[replace(row, image=j) for j, result in enumerate(results) for row in result.ledger],
        )

    return made


def _aimed(context: ViewContext, j: int) -> ViewContext:
    """The context in which every problem has its earlier completion j (modulo their number) only."""

    def only(rows: tuple[tuple, ...]) -> tuple[tuple, ...]:
        return tuple(row[j % len(row) : j % len(row) + 1] if row else row for row in rows)

    return replace(context, completions=only(context.completions), right=only(context.right))
