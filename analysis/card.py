"""The reproduction card: each claim of the papers beside what our sweeps say of it.

    python -m analysis.card [--results DIR ...]

One row per claim: what the paper reports, our estimate, what sampling error alone explains, the verdict (`card_words`),
and how our recipe differs. Which sweep may speak to which claim is fixed in `card_sources`. p values stand as they are,
beside the verdict of the sweep they come from: the card adjusts nothing over its rows, so of 17 true nulls about one
would be decided by chance. Prints the verdicts and writes all of it to `card.html` in the first folder.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro

from analysis import card_recipe, card_tolerance, card_words
from analysis.card_evidence import evidence
from analysis.card_words import LACKING, LINE, SILENT, amount, stands
from analysis.claims import CLAIMS, Claim
from analysis.load import SweepData, load_sweep, sweeps_in
from analysis.style import Sentence
from analysis.tables import EMPTY, Table, p_text

VERDICTS = ["id", "claim", "the paper reports", "ours", "verdict", "from"]
TOLERANCES = ["id", "the paper reports", "sampling error at the paper's scale", "at ours"]
RECIPES = ["id", "from", "differences in recipe", "what ours leaves open"]
COLUMNS = [*VERDICTS, *TOLERANCES[2:], *RECIPES[2:]]
EVIDENCE_STEPS = 100
"""Shorter runs show the machinery, not evidence; the report's first screen says the same of them."""


def card(sweeps: Sequence[SweepData], found: pd.DataFrame | None = None) -> pd.DataFrame:
    """COLUMNS of text, one row per claim in order; a line per contrast within a cell.

    `found` is `evidence(sweeps)` where it is known already; claims that are not in it have no row. Raises ValueError as
    `analysis.contrasts` does.
    """
    found = evidence(sweeps) if found is None else found
    rows = []
    for claim in (claim for claim in CLAIMS if claim.id in set(found["id"])):
        contrasts = list(found[found["id"] == claim.id].itertuples())
        config = _config(sweeps, contrasts)
        scale = card_recipe.scale(config)
        rows.append(
            {
                "id": claim.id,
                "claim": claim.text,
                "the paper reports": claim.reported,
                "ours": LINE.join(_estimate(row, alone=len(contrasts) == 1) for row in contrasts if row.pairs) or EMPTY,
                "verdict": _verdict(claim, contrasts, sweeps, scale),
                "from": _sources(contrasts, sweeps),
                "sampling error at the paper's scale": card_tolerance.at_the_papers_scale(claim),
                "at ours": card_tolerance.at_our_scale(contrasts),
                "differences in recipe": card_recipe.in_brief(config, claim.paper),
                "what ours leaves open": f"On {scale}: {claim.beyond}" if scale else EMPTY,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _estimate(row: Any, *, alone: bool) -> str:
    """A contrast in a line: difference, interval, unadjusted p, and what the sweep itself says of it."""
    interval = f" ({amount(row.low, row.unit)} to {amount(row.high, row.unit)})" if row.pairs > 1 else ""
    name = "" if alone and not row.stand_in else f"{row.contrast}: "
    levels = (
        f", from {row.reference:.3f} to {row.value:.3f}" if row.measure == "entropy_at_end" and not row.degree else ""
    )
    p = "" if math.isnan(row.p) else f", p {p_text(row.p)}"
    own = f", its sweep: {row.sweep_verdict}" if row.sweep_verdict else ""
    return f"{name}{amount(row.difference, row.unit)} {row.unit}{interval}{p}{levels}{own}"


def _verdict(claim: Claim, rows: Sequence[Any], sweeps: Sequence[SweepData], scale: str) -> str:
    """The word, the scale it is said of, and what a reader must know before believing it."""
    said = card_words.verdict(claim, rows)
    if said.startswith(SILENT):
        return said
    speaking = [row for row in rows if stands(row) != LACKING]
    steps = [int(sweeps[row.source].plan.get("steps") or 0) for row in speaking]
    notes = [f"said of {scale} only"] * bool(scale)
    notes += [f"{min(steps)} steps show the machinery, not evidence"] * (min(steps) < EVIDENCE_STEPS)
    notes += dict.fromkeys(
        f"{row.pairs} of {planned} planned seeds are in"
        for row in speaking
        if row.pairs < (planned := len(sweeps[row.source].plan["seeds"]))
    )
    notes += ["exploratory"] * any(row.exploratory for row in speaking)
    notes += dict.fromkeys(
        f"stands in for the claim's own contrast: {row.stand_in}" for row in speaking if row.stand_in
    )
    notes += dict.fromkeys(row.diverged for row in speaking if row.diverged)
    return f"{said} [{'; '.join(notes)}]" if notes else said


def _sources(rows: Sequence[Any], sweeps: Sequence[SweepData]) -> str:
    told = []
    for row in rows:
        if row.source >= 0 and row.pairs:
            steps = sweeps[row.source].plan.get("steps")
            told.append(
                f"{row.sweep}{f', {steps} steps' if steps else ''}, {row.pairs} {'seed' if row.pairs == 1 else 'seeds'}"
            )
    return LINE.join(dict.fromkeys(told)) or EMPTY


def _config(sweeps: Sequence[SweepData], rows: Sequence[Any]) -> card_recipe.Config:
    """Settings of the runs that speak to a claim: the first contrast's own arm."""
    speaking = [row for row in rows if row.source >= 0 and row.pairs]
    return card_recipe.config_of(sweeps[speaking[0].source], speaking[0].focus) if speaking else {}


def summary(frame: pd.DataFrame) -> str:
    """How many claims there are and how many of them nothing can be said of, in a sentence."""
    silent = frame.loc[frame["verdict"].str.startswith(SILENT), "id"].tolist()
    if not silent:
        return f"All {len(frame)} rows have something to go by."
    spoken = len(frame) - len(silent)
    return (
        f"{spoken} of {len(frame)} rows {'has' if spoken == 1 else 'have'} something to go by; on the others the runs "
        f"at hand {SILENT}: {', '.join(silent)}."
    )


def shown(frame: pd.DataFrame, columns: Sequence[str]) -> Table | Sentence:
    """Some columns of a card, of the rows that say something."""
    spoken = frame[~frame["verdict"].str.startswith(SILENT)]
    # a table shows no line breaks
    told = spoken[list(columns)].replace("\n", " ", regex=True)
    return Table(told) if len(spoken) else Sentence("No row of the card has anything to go by yet.")


def recipe_of(sweeps: Sequence[SweepData], found: pd.DataFrame, claim: str = "C3") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the runs that speak to `claim`: where they differ from its paper's recipe, and what SaEI leaves open.

    Both are empty where none speaks.
    """
    config = _config(sweeps, list(found[found["id"] == claim].itertuples()))
    if not config:
        return pd.DataFrame(), pd.DataFrame()
    paper = next(one.paper for one in CLAIMS if one.id == claim)
    return card_recipe.differences(config, paper).drop(columns="brief"), card_recipe.left_open(config)


def shown_recipe(frame: pd.DataFrame) -> Table | Sentence:
    """One of the frames of `recipe_of`."""
    return Table(frame) if len(frame) else Sentence("No run at hand speaks to C3, so there is no recipe to compare.")


def gather(folders: Sequence[Path], sweep: str = "") -> tuple[list[SweepData], list[str]]:
    """Every sweep of the folders, or only `sweep`, and a sentence on each that cannot be read.

    Raises ValueError where `sweep` is asked for and cannot be read. A file in place of a folder is as for `load_sweep`.
    """
    if sweep:
        holding = [folder for folder in folders if folder.is_file() or sweep in sweeps_in(folder)]
        return [load_sweep(folder, sweep) for folder in holding or folders[:1]], []
    sweeps, sentences = [], []
    for folder in folders:
        for name in sorted(sweeps_in(folder)):
            try:
                sweeps.append(load_sweep(folder, name))
            except ValueError as error:
                sentences.append(f"{name} is left out: {error}.")
    return sweeps, sentences


@dataclass(frozen=True, kw_only=True, slots=True)
class CardArguments:
    results: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="DIR")] = ()
    """Results folder [results and results/reference]; may be given several times. Every sweep in them may speak."""


def main(arguments: list[str] | None = None) -> int:
    # they import this file
    from rich.console import Console

    from analysis import card_page

    settings = tyro.cli(CardArguments, args=arguments, prog="python -m analysis.card", description=__doc__)
    folders = settings.results or (Path("results"), Path("results/reference"))
    sweeps, sentences = gather(folders)
    found = evidence(sweeps)
    frame = card(sweeps, found)
    Console().print(card_page.in_terminal(frame))
    print(summary(frame))
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    if not folders[0].is_dir():
        print("error: --results names no folder that is there, so card.html is not written", file=sys.stderr)
        return 2
    print(card_page.write(folders[0] / "card.html", sweeps, found, frame, sentences).resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
