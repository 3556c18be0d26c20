"""The view that changes nothing: GRPO's only one, and the first of every plan."""

from saei.types import ViewResult
from saei.views.context import ViewContext


def clean(context: ViewContext) -> ViewResult:
    """The images as they are; no ledger."""
    return ViewResult(images=[[images] for images in context.images])
