"""The prose of notebooks as HTML: headings one level further down, ids of their own, no HTML of its own."""

import re
from collections.abc import Callable
from typing import Any

import mistune
from markupsafe import Markup


class _Renderer(mistune.HTMLRenderer):
    """`prefix` keeps apart headings of the same words in several notebooks; `found` collects (id, text, level)."""

    def __init__(self, prefix: str, seen: dict[str, int]) -> None:
        super().__init__(escape=True)
        self.prefix, self.seen = prefix, seen

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        words = re.sub(r"<[^>]*>|&\w+;", "", text)
        name = f"{self.prefix}-{re.sub(r'[^a-z0-9]+', '-', words.lower()).strip('-')}"
        count = self.seen[name] = self.seen.get(name, 0) + 1
        own = name if count == 1 else f"{name}-{count}"
        return f'<h{min(level + 1, 6)} id="{own}">{text}</h{min(level + 1, 6)}>\n'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text  # the page loads nothing


def renderer(prefix: str) -> Callable[[str], Markup]:
    """A function from Markdown to HTML for the cells of one notebook, in their order."""
    convert = mistune.create_markdown(renderer=_Renderer(prefix, {}), plugins=["table", "strikethrough"])
    return lambda text: Markup(convert(text))


def first_heading(text: str) -> str:
    """The words of the first Markdown heading, or ""."""
    match = re.search(r"^#+\s+(.+?)\s*#*$", text, re.MULTILINE)
    return re.sub(r"[*_`]", "", match[1]) if match else ""
