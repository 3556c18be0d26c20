"""The words of the reproduction card, by one rule.

A contrast is decided where its judged p value (`card_evidence`) is below 0.05; under three paired seeds, or where half
of an arm's seeds diverged, it says nothing. A claim with a direction is

- `contradicted` where one of its contrasts is decided against it;
- `supported` where all of them are decided for it, `supported in part` where some are and the rest is open or lacking;
- `not distinguishable` where none is decided: then the smallest true difference that would probably have been found
  (80 % power) is told, and whether the paper's own would have been;
- `cannot speak` where no contrast has three paired seeds, with what is lacking.

That all contrasts must hold needs no adjustment for their number; that one suffices against it does, and has it. A
question without direction is answered `better`, `worse` or `not distinguishable`, contrast by contrast.
"""

# pandas carries no types that a checker can follow through itertuples
# pyright: reportAttributeAccessIssue=false

import math
from collections.abc import Sequence
from typing import Any

from analysis.claims import QUESTION, Claim
from analysis.stats import ALPHA
from analysis.tables import EMPTY

SUPPORTED, IN_PART, CONTRADICTED = "supported", "supported in part", "contradicted"
OPEN, SILENT = "not distinguishable", "cannot speak"
BETTER, WORSE = "better", "worse"
FOR, AGAINST, UNDECIDED, LACKING = "for", "against", "undecided", "lacking"

LINE = ";\n"
"""Between the contrasts of a cell."""

Row = Any
"""A row of `card_evidence.evidence`, as itertuples gives it."""


def amount(value: float, unit: str, *, signed: bool = True) -> str:
    """A difference in its unit: points with one digit, nats with three, and a true minus sign."""
    if math.isnan(value):
        return EMPTY
    text = f"{100 * value:{'+' if signed else ''}.1f}" if unit == "points" else f"{value:{'+' if signed else ''}.3f}"
    return text.replace("-", "−")


def stands(row: Row) -> str:
    """FOR or AGAINST the claimed direction (of a question: above or below zero), UNDECIDED, or LACKING."""
    if row.why:
        return LACKING
    if not row.p_judged < ALPHA:
        return UNDECIDED
    return FOR if row.difference * (row.sign or 1) > 0 else AGAINST


def verdict(claim: Claim, rows: Sequence[Row]) -> str:
    """The word on a claim and what belongs to it, by the rule of this file's head."""
    found = {way: [row for row in rows if stands(row) == way] for way in (FOR, AGAINST, UNDECIDED, LACKING)}
    if len(found[LACKING]) == len(rows):
        return f"{SILENT}: {reasons(rows)}"
    if not found[FOR] and not found[AGAINST]:
        return f"{OPEN}: {detectable(claim, found[UNDECIDED])}{_rest(found[LACKING])}"
    return _answer(found) if claim.kind == QUESTION else _judgement(found)


def _judgement(found: dict[str, list[Row]]) -> str:
    against = [row for row in found[AGAINST] if not row.degree]
    full = not (found[AGAINST] or found[UNDECIDED] or found[LACKING])
    if against:
        return _listed(CONTRADICTED, against, alone=_count(found) == 1) + _rest(found[LACKING])
    if full:
        return SUPPORTED
    parts = [("holds", found[FOR]), ("does not", found[AGAINST]), ("open", found[UNDECIDED])]
    if not found[FOR]:
        # only the degree is decided, and against: nothing is left that would support
        return _listed(OPEN, found[UNDECIDED], alone=False) + _rest(found[LACKING])
    told = "; ".join(f"{word}: {_names(rows)}" for word, rows in parts if rows)
    return f"{IN_PART} ({told}){_rest(found[LACKING])}"


def _answer(found: dict[str, list[Row]]) -> str:
    parts = [(BETTER, found[FOR]), (WORSE, found[AGAINST]), (OPEN, found[UNDECIDED])]
    alone = _count(found) == 1
    return "; ".join(_listed(word, rows, alone=alone) for word, rows in parts if rows) + _rest(found[LACKING])


def _count(found: dict[str, list[Row]]) -> int:
    return sum(len(rows) for rows in found.values())


def _listed(word: str, rows: Sequence[Row], *, alone: bool) -> str:
    return word if alone else f"{word}: {_names(rows)}"


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(row.contrast for row in rows)


def _rest(rows: Sequence[Row]) -> str:
    return f"; {SILENT} on {_names(rows)}: {reasons(rows)}" if rows else ""


def reasons(rows: Sequence[Row]) -> str:
    """What is lacking, each reason once."""
    told = []
    for row in rows:
        why = f"{row.sweep}: {row.why}" if row.source >= 0 else row.why
        told += [why] if why not in told else []
    return "; ".join(told)


def detectable(claim: Claim, rows: Sequence[Row]) -> str:
    """How small a difference would have been found, and whether the paper's would."""
    same, rows = [row for row in rows if row.sd == 0], [row for row in rows if row.sd != 0]
    if not rows:
        return (
            "the same difference on every seed" if any(row.difference for row in same) else "no difference on any seed"
        )
    texts = []
    for unit in dict.fromkeys(row.unit for row in rows):
        sizes = sorted(row.mde for row in rows if row.unit == unit)
        span = dict.fromkeys(amount(size, unit, signed=False) for size in (sizes[0], sizes[-1]))
        texts.append(f"smallest difference detectable {' to '.join(span)} {unit}")
    return f"{', '.join(texts)}; {_of_the_papers(claim, rows)}"


def _of_the_papers(claim: Claim, rows: Sequence[Row]) -> str:
    if claim.kind == QUESTION or not claim.gains:
        return "no figure is known to hold it against"
    sizes = sorted(abs(gain) for gain in claim.gains)
    largest = max(row.mde for row in rows)
    seen = [size for size in sizes if largest <= size]
    them = "it" if len(sizes) == 1 else "them"
    budget = (
        f"could have seen {them}"
        if len(seen) == len(sizes)
        else "could have seen only the larger"
        if seen
        else f"could not have seen {them}"
    )
    told = " and ".join(f"{100 * size:.1f}" for size in sizes)
    return f"the paper's {'is' if len(sizes) == 1 else 'are'} {told}: this budget {budget}"
