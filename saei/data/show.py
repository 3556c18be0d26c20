"""A data set looked at before it is trained on: its card as tables, or the catalogue of known sets.

python -m saei.data --catalogue
python -m saei.data --data.source hub --data.path hiyouga/geometry3k
python -m saei.data --data.source hub --data.dataset mathvista --data.path DIR --splits testmini --out card.json
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saei.atomic import write_json
from saei.cli import bad_input, checked_command_line
from saei.config import DataConfig, RewardConfig
from saei.data.card import data_card
from saei.data.catalog import catalog
from saei.reward import Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowConfig:
    """Print the data card of a data set: rows, problems, what is left out and why, pictures, golds, shared figures."""

    catalogue: bool = False
    """List the sets that `--data.source hub` knows, and nothing else."""
    splits: tuple[str, ...] = ()
    """Splits to look at; default: those that a run with these settings reads."""
    golds: int = 0
    """Golds of each split to grade against themselves; 0: all."""
    out: str = ""
    """Write the card to this JSON file, too."""
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 0. Raises BadInput for a set that cannot be loaded."""
    settings = checked_command_line(ShowConfig, arguments, prog="python -m saei.data")
    console = Console()
    if settings.catalogue:
        console.print(catalogue_table())
        return 0
    with bad_input(), Scorer(settings.reward) as scorer:
        card = data_card(settings.data, scorer, settings.splits or None, settings.golds or None)
        if settings.out:
            write_json(Path(settings.out), card)
    for table in card_tables(card):
        console.print(table)
    if settings.out:
        console.print(f"card: {settings.out}")
    return 0


def catalogue_table() -> Table:
    """One line for each set of the catalogue."""
    table = Table("name", "hub id", "splits (rows)", "licence", title="Data sets of --data.source hub", box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for column in table.columns:  # an id is there to be typed, so it is folded and never cut
        column.overflow = "fold"
    for name, entry in catalog().items():
        splits = ", ".join(f"{split} {rows or '?'}" for split, rows in entry.splits.items())
        table.add_row(name, entry.hub or "\n".join(entry.ids), splits, entry.licence)
    return table


def card_tables(card: dict[str, Any]) -> list[Table]:
    """The card in three tables: the set, its splits, the figures they share."""
    about = Table("", "", show_header=False, box=box.SIMPLE)
    prompt = card["prompt"]
    facts = {
        "source": f"{card['source']} {card['path']}".strip(),
        "data set": card.get("dataset", ""),
        "published as": card.get("published_as", ""),
        "commit": card.get("commit", ""),
        "licence": card.get("licence", ""),
        "fingerprint": card["fingerprint"],
        "note": card.get("note", ""),
        "system prompt": prompt["system"],
        "before the question": prompt["prefix"],
        "behind the question": prompt["suffix"],
        "published prompt": card.get("published_prompt", ""),
    }
    for name, value in facts.items():
        if value:
            about.add_row(name, shown(value))
    splits = Table("", *card["splits"], title="Splits", box=box.SIMPLE)
    lines = [_split_lines(split) for split in card["splits"].values()]
    for column in (*about.columns, *splits.columns):  # hashes and ids are there to be looked up
        column.overflow = "fold"
    for name in lines[0]:
        splits.add_row(name, *(shown(line[name]) for line in lines))
    shared = Table(
        "splits", "figures", "problems", "problems with alike figures", title="Shared figures", box=box.SIMPLE
    )
    for pair in card["shared_figures"]:
        both = (" / ".join(map(str, pair[name])) for name in ("problems", "alike"))
        shared.add_row(shown(" / ".join(pair["splits"])), str(pair["figures"]), *both)
    return [about, splits, *([shared] if card["shared_figures"] else [])]


def _split_lines(split: dict[str, Any]) -> dict[str, str]:
    images, golds = split["images"], split["golds"]
    published = split["published_rows"]
    off = f" (published: {published})" if published and published != split["rows"] else ""
    return {
        "rows": f"{split['rows']}{off}",
        "problems": str(split["problems"]),
        "looked at": str(split["looked_at"]),
        "left out": "\n".join(
            f"{reason}: {found['count']}, e.g. {found['examples'][0]}" for reason, found in split["skipped"].items()
        )
        or "none",
        "answers": _counts(split["answer_types"]),
        "pictures": f"{images['count']}, {images['different']} different",
        "modes": _counts(images["modes"]),
        "formats": _counts(images["formats"]),
        "width": _spread(images["width"]),
        "height": _spread(images["height"]),
        "side below 28": str(images["below_28_pixels"]),
        "golds right against themselves": f"{golds['right']} of {golds['checked']}",
        "golds the grader cannot read": "\n".join(
            [str(golds["unparsed"]), *(f"{name}: {gold[:60]}" for name, gold, _ in golds["unread"][:3])]
        ),
    }


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _spread(spread: dict[str, int | float] | None) -> str:
    return "" if spread is None else f"{spread['min']:g} .. {spread['median']:g} .. {spread['max']:g}"


def shown(text: str) -> str:
    """Text of a data set as it may go to a terminal: control codes out, markup escaped."""
    return escape("".join(sign if sign.isprintable() or sign == "\n" else "?" for sign in str(text)))
