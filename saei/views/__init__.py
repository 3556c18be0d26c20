"""Views: which image the completions of one entry of the group plan see. One function each, in one table.

A view turns the clean 8-bit images of a chunk of problems into 8-bit images of the same size. It may read what was
sampled earlier in the plan; the first view of every plan is therefore `clean`.
"""

from collections.abc import Callable

from saei.types import ViewResult
from saei.views.clean import clean
from saei.views.context import TokenEntropy, ViewContext, check_budget
from saei.views.egas import egas
from saei.views.random_sign import random_sign

View = Callable[[ViewContext], ViewResult]

VIEWS: dict[str, View] = {"clean": clean, "egas": egas, "random_sign": random_sign}

__all__ = ["VIEWS", "TokenEntropy", "View", "ViewContext", "check_budget"]
