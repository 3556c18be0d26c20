"""The scores of an evaluation as a table in the terminal."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

GRADED = ("ok", "unparsed", "gold_unparsed")
"""Statuses that only say why an answer is not the gold."""
MOST_VALUES = 16
"""Facts of more values are in summary.json alone."""


def show_scores(results: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """One line a score, and what decided each benchmark's items."""
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    table = Table("benchmark", "score", "measure", box=None)
    for heading in ("%", "95 % interval", "n", "clusters"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results.values():
        scores = result["scores"]
        for score in scores:
            fact = score["name"].partition(":")[0]
            alike = [one for one in scores if one["measure"] == score["measure"] and one["name"].startswith(f"{fact}:")]
            if len(alike) <= MOST_VALUES:
                table.add_row(
                    result["title"],
                    escape(score["name"]),
                    score["measure"],
                    f"{100 * score['value']:.1f}",
                    _interval(score),
                    str(score["n"]),
                    str(score["clusters"]),
                )
        table.add_section()
    console.print(table)
    for result in results.values():
        console.print(escape(_decided(result)), soft_wrap=True)


def _interval(score: Mapping[str, Any]) -> str:
    return "-" if score["low"] is None else f"{100 * score['low']:.1f} to {100 * score['high']:.1f}"


def _decided(result: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in result["decided_by"].items())
    asked = f"{result['items']} of {result['items_published']} published items, from {result['from']}"
    text = f"{result['title']}: {asked}; completions decided by: {parts}"
    undecided = result["decided_by"].get("undecided", 0)
    if undecided:
        text += f" ({undecided} undecided, counted wrong; a judge may decide them: --judge.mode ask)"
    if result["cut"]:
        total = sum(result["decided_by"].values())
        text += f"; {result['cut']} of {total} completions were cut at rollout.max_new_tokens"
    failed = {name: count for name, count in result["status"].items() if name not in GRADED}
    if failed:
        text += "; status " + ", ".join(f"{name} {count}" for name, count in failed.items())
    if result["skipped"]:
        text += "; left out: " + ", ".join(f"{reason} {count}" for reason, count in result["skipped"].items())
    return text
