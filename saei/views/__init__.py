"""Views: what the completions of one entry of the group plan see. One function each, in one table.

A view turns the clean 8-bit images of a chunk of problems into 8-bit images of the same size, or leaves them and moves
the text. It may read what was sampled earlier in the plan; the first view of every plan is therefore `clean`.
"""

from collections.abc import Callable
from typing import NamedTuple

from saei.config import ViewConfig
from saei.types import ViewResult
from saei.views.clean import clean
from saei.views.climb import NORMS
from saei.views.context import TokenScore, ViewContext, check_budget
from saei.views.diffusion import noise
from saei.views.egas import egas
from saei.views.error import error
from saei.views.gaussian import gaussian
from saei.views.mask import mask
from saei.views.random_sign import random_sign
from saei.views.text_embedding import text_embedding


class View(NamedTuple):
    """`make` the inputs; `reach(settings, strength)`: grey levels that any pixel may move, None where a view is not
    bounded in L-infinity; `attacks`: it reads earlier completions.
    """

    make: Callable[[ViewContext], ViewResult]
    reach: Callable[[ViewConfig, float], float | None]
    attacks: bool


def signed_reach(view: ViewConfig, strength: float) -> float | None:
    """T steps, within the ball where there is one. None for steps along the gradient (view.norm l2)."""
    if not NORMS[view.norm].bounded:
        return None
    # no standard deviation of numbers in [0, 1] exceeds one half
    unit = 0.5 if view.pixel_space == "normalized" else 1.0
    steps = unit * view.step_size * strength * view.iterations
    return steps if view.epsilon is None else min(steps, view.epsilon)


def no_pixel(view: ViewConfig, strength: float) -> float | None:
    """The images stay as they are."""
    return 0.0


def unbounded(view: ViewConfig, strength: float) -> float | None:
    """No bound in L-infinity."""
    return None


VIEWS: dict[str, View] = {
    "clean": View(clean, no_pixel, attacks=False),
    "egas": View(egas, signed_reach, attacks=True),
    "random_sign": View(random_sign, signed_reach, attacks=True),
    "gaussian": View(gaussian, unbounded, attacks=True),
    "noise": View(noise, unbounded, attacks=False),
    "mask": View(mask, unbounded, attacks=False),
    "text_embedding": View(text_embedding, no_pixel, attacks=True),
    "error": View(error, signed_reach, attacks=True),
}

__all__ = ["VIEWS", "TokenScore", "View", "ViewContext", "check_budget"]
