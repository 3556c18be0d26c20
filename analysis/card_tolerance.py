"""What sampling error alone explains: at the papers' scale from the number of items, at ours from items and seeds.

One run that answers N items with accuracy p has a 95 % interval of ±1.96 √(p (1 − p) / N); the difference of two runs
±1.96 √((p₁ (1 − p₁) + p₂ (1 − p₂)) / N), taken as independent. Two runs on the same items agree on many, so this is an
upper bound for their difference; how many, no paper prints. Training seeds come on top of it.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from scipy import stats as scipy_stats

from analysis import stats
from analysis.card_words import LINE, amount
from analysis.claims import CLAIMS, GEOMETRY3K, GRPO_READINGS, QUESTION, UNKNOWN, Claim, Printed
from analysis.tables import EMPTY

Z = float(scipy_stats.norm.ppf(0.5 + stats.CONFIDENCE / 2))


def of_run(accuracy: float, items: int) -> float:
    """Half width of the 95 % interval of one run's accuracy over `items` answers."""
    return Z * math.sqrt(accuracy * (1 - accuracy) / items)


def of_difference(first: float, second: float, items: int) -> float:
    """Half width for the difference of two independent runs over `items` answers each."""
    return Z * math.sqrt((first * (1 - first) + second * (1 - second)) / items)


def of_average(printed: Sequence[Printed]) -> float:
    """Half width for the difference of two runs' plain averages over benchmarks; NaN where a count is unknown."""
    if any(one.items is None for one in printed):
        return math.nan
    squares = sum(of_difference(one.score, one.reference, one.items) ** 2 for one in printed if one.items)
    return math.sqrt(squares) / len(printed)


def at_the_papers_scale(claim: Claim) -> str:
    """The tolerance beside the paper's figure, in words."""
    if claim.scored_on:
        # a share of one half has the largest error
        told = [
            f"{name}, {items:,} items: ±{100 * of_difference(0.5, 0.5, items):.1f}" for name, items in claim.scored_on
        ]
        return f"figures not known; a difference of two runs at most: {LINE.join(told)}"
    if not claim.printed:
        return EMPTY if claim.kind == QUESTION else "a curve: no share of items"
    if len(claim.printed) > 2:
        gain = sum(one.score - one.reference for one in claim.printed) / len(claim.printed)
        return (
            f"average of {len(claim.printed)} benchmarks: {amount(gain, 'points')}, "
            f"sampling error ±{100 * of_average(claim.printed):.1f}"
        )
    return LINE.join(_told(one) for one in claim.printed)


def _told(one: Printed) -> str:
    if one.items is None:
        return f"{one.benchmark}: number of items not known"
    count = f"{one.items:,} items{f' ({one.of_items})' if one.of_items else ''}"
    difference = of_difference(one.score, one.reference, one.items)
    return (
        f"{one.benchmark}, {count}: {100 * one.score:.2f} ±{100 * of_run(one.score, one.items):.1f}, "
        f"difference {amount(one.score - one.reference, 'points')} ±{100 * difference:.1f}"
    )


def at_our_scale(rows: Sequence[Any]) -> str:
    """Rows of `card_evidence` of one claim: what one of our runs, and their paired difference, could be off by.

    A line per unit, measure and number of seeds; from the smallest to the largest where contrasts differ.
    """
    found: dict[tuple[str, int, int], tuple[list[float], list[float]]] = {}
    for row in rows:
        if row.pairs >= 2:
            single, paired = found.setdefault((row.unit, row.items, row.pairs), ([], []))
            paired.append((row.high - row.low) / 2)
            # a change of accuracy is no share of items, whatever its sign
            if row.unit == "points" and row.measure != "change_under_attack":
                single.append(of_run(row.reference, row.items))
    lines = []
    for (unit, items, pairs), (single, paired) in found.items():
        run = f"{items} items: one run {_span(single, unit)}, " if single else ""
        lines.append(f"{run}{pairs} paired seeds {_span(paired, unit)}")
    return LINE.join(lines) or EMPTY


def _span(sizes: Sequence[float], unit: str) -> str:
    ends = dict.fromkeys(f"±{amount(size, unit, signed=False)}" for size in (min(sizes), max(sizes)))
    return f"{' to '.join(ends)} {unit}"


def table() -> pd.DataFrame:
    """Every printed figure: how far sampling error alone could move it, and whether the gain is larger than that."""
    rows = []
    for claim in CLAIMS:
        for one in claim.printed:
            known = one.items is not None
            half = of_difference(one.score, one.reference, one.items) if known else math.nan
            gain = one.score - one.reference
            rows.append(
                {
                    "claim": claim.id,
                    "benchmark": one.benchmark,
                    "items": f"{one.items:,}" if known else UNKNOWN,
                    "number of items": one.of_items or "printed",
                    "accuracy (%)": f"{100 * one.score:.2f}",
                    "one run ± (points)": f"{100 * of_run(one.score, one.items):.1f}" if known else UNKNOWN,
                    "gain (points)": amount(gain, "points"),
                    "difference ± (points)": f"{100 * half:.1f}" if known else UNKNOWN,
                    "sampling error alone": "explains it" if abs(gain) <= half else "does not explain it",
                }
            )
    return pd.DataFrame(rows)


def readings(evidence: pd.DataFrame) -> pd.DataFrame:
    """GRPO on Geometry3K as five sources read it, each with its sampling error, and ours on our own test problems.

    `evidence` is that of `card_evidence`; ours is the GRPO of the sweep that speaks to C3.
    """
    rows = [
        {
            "source": one.source,
            "accuracy (%)": f"{100 * one.score:.2f}".removesuffix("0"),
            "sampling error (points)": f"±{100 * of_run(one.score, GEOMETRY3K):.1f}",
            "items": f"{GEOMETRY3K}",
            "settings": one.settings,
        }
        for one in GRPO_READINGS
    ]
    ours = evidence[(evidence["id"] == "C3") & (evidence["pairs"] > 0)]
    for row in ours.itertuples():
        rows.append(
            {
                "source": f"ours: {row.sweep}, mean of {row.pairs} seeds",
                "accuracy (%)": f"{100 * row.reference:.1f}",
                "sampling error (points)": f"±{100 * of_run(row.reference, row.items):.1f}",
                "items": f"{row.items}",
                "settings": "our model and problems: a measure of noise, not another reading",
            }
        )
    return pd.DataFrame(rows)


def spread_of_readings() -> str:
    """How far the readings lie apart against what sampling error would do, in a sentence."""
    scores = pd.Series([one.score for one in GRPO_READINGS])
    mean = float(scores.mean())
    alone = of_run(mean, GEOMETRY3K) / Z
    span, sd = 100 * (scores.max() - scores.min()), 100 * scores.std()
    return (
        f"The {len(scores)} readings span {span:.1f} points (sd {sd:.1f}); sampling {GEOMETRY3K} items afresh for each "
        f"would alone give an sd of {100 * alone:.1f}. They all use the same items, so part of that error is common to "
        "them, and recipes explain more of the spread than this comparison shows."
    )


def printed_effects() -> dict[str, list[tuple[str, float, float]]]:
    """Claim -> (benchmark, gain, half width of its sampling error or NaN) of each effect that its paper prints."""
    effects = {}
    for claim in CLAIMS:
        if len(claim.printed) > 2:
            # the average is printed beside one of other models, of which the parts are not known
            first, *others = claim.gains
            effects[claim.id] = [
                ("average", first, of_average(claim.printed)),
                *(("", gain, math.nan) for gain in others),
            ]
        elif claim.printed:
            effects[claim.id] = [
                (
                    one.benchmark,
                    one.score - one.reference,
                    of_difference(one.score, one.reference, one.items) if one.items else math.nan,
                )
                for one in claim.printed
            ]
    return effects
