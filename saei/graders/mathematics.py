"""Equality of mathematical answers by math-verify. For worker processes: it may take forever, or all memory."""

import re
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Expr, UnevaluatedExpr

from saei.graders.exact import same_text
from saei.graders.latex import is_prose, parts, settled, split_at_commas, split_unit

# LaTeX only: the other extraction of math-verify goes through sympy's parse_expr, which evaluates Python.
# Its unit stripping is off: it would read "3ab" as 3, "2t" as 2. `split_unit` is ours.
_LATEX = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
        )
    )
]
DEEPEST = 30  # the golds of the data sets stay below 6
_TWO_NUMBERS = re.compile(r"\d\s+\d")
Outcome = tuple[bool, str]


def compare(answer: str, gold: str) -> Outcome:
    """(equal, status) of two answers; status as in `saei.reward`. All parts must be equal, in the order of the gold."""
    golds, answers = parts(gold), parts(answer)
    if len(golds) > 1 and len(answers) == 1:
        answers = split_at_commas(answers[0])
    if not golds:
        return False, "gold_unparsed"
    if len(golds) != len(answers):
        return False, "ok"
    outcomes = [_compare_parts(a, g) for a, g in zip(answers, golds, strict=True)]
    statuses = {status for _, status in outcomes}
    worst = next((name for name in ("crash", "gold_unparsed", "unparsed") if name in statuses), "ok")
    return all(equal for equal, _ in outcomes), worst


def _compare_parts(answer: str, gold: str) -> Outcome:
    known = settled(answer, gold)
    if known is not None:
        return known, "ok"
    gold_quantity, gold_unit = split_unit(gold)
    quantity, unit = split_unit(answer)
    gold_quantity, gold_unit = _attached_unit(gold_quantity, gold_unit, unit)
    quantity, unit = _attached_unit(quantity, unit, gold_unit)
    if gold_unit and unit and gold_unit != unit:
        return False, "ok"
    if is_prose(gold_quantity):
        return same_text(answer, gold), "ok"
    if is_prose(quantity):
        return False, "unparsed"
    known = settled(quantity, gold_quantity)
    if known is not None:
        return known, "ok"
    return _verify(quantity, gold_quantity)


def _attached_unit(quantity: str, unit: str, other_unit: str) -> tuple[str, str]:
    """Read "5m" as 5 m where the other side says "5 meters"; by itself it may be five times m."""
    if not unit and other_unit and quantity.endswith(other_unit):
        return quantity.removesuffix(other_unit).rstrip(), other_unit
    return quantity, unit


def _verify(answer: str, gold: str) -> Outcome:
    try:
        parsed_gold = _parse(gold)
        if not parsed_gold:
            return False, "gold_unparsed"
        parsed = _parse(answer)
        if not parsed:
            return False, "unparsed"
        if _clearly_different(parsed_gold[0], parsed[0]):
            return False, "ok"
        return bool(verify(parsed_gold, parsed, timeout_seconds=None)), "ok"
    except (MemoryError, RecursionError):
        return False, "crash"


def _clearly_different(gold: Any, answer: Any) -> bool:
    """Whether two numbers are further apart than any rounding of math-verify; spares `simplify`, 30 ms a wrong answer.

    Percentages are left to math-verify, to which 9 % is both 9 and 0.09.
    """
    values = []
    for side in (gold, answer):
        if not isinstance(side, Expr) or side.free_symbols or side.has(UnevaluatedExpr):
            return False
        value = side.evalf(15)
        if not (value.is_Number and value.is_finite):
            return False
        values.append(value)
    return bool(abs(values[0] - values[1]) > 1e-4 * max(1, abs(values[0])))


def depth(text: str) -> int:
    """How deep brackets are nested; the parser's time grows exponentially with it."""
    depth = deepest = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _parse(text: str) -> list[Any]:
    """math-verify's reading of one LaTeX expression; empty where it cannot. Our watchdog replaces its alarm."""
    if depth(text) > DEEPEST:
        return []
    if _TWO_NUMBERS.search(text):  # latex2sympy would take "1 2" for 1 + 2, as in 1 1/2
        return []
    timeout: Any = None  # annotated int in math-verify, where None means no alarm
    return parse(f"${text}$", _LATEX, fallback_mode="no_fallback", parsing_timeout=timeout)
