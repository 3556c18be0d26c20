"""Equality as MATH-Vision's official scorer has it: equal strings, or values equal after rounding to two decimals.

The official code evaluates the text of the answer as Python. Here a LaTeX parser reads it and sympy gives its value;
what has no single real value is unequal, as there. For worker processes: either may take forever.
"""

from typing import Any

from latex2sympy2_extended import latex2sympy
from sympy import Expr

from saei.graders.mathematics import DEEPEST, depth

Outcome = tuple[bool, str]
_KEPT = ("a", "-a")  # the official code leaves these names in a tuple as they are


def compare(answer: str, gold: str) -> Outcome:
    """(equal, status): status is `unparsed` or `gold_unparsed` for what has no value and is no equal string."""
    answer, gold = answer.lower(), gold.lower()
    if not answer.strip() or not gold.strip():
        return False, "ok"
    if answer.strip() == gold.strip():
        return True, "ok"
    answer, gold = _tuple_of_values(answer), _tuple_of_values(gold)
    if answer == gold:
        return True, "ok"
    try:
        wanted = _value(gold)
        if wanted is None:
            return False, "gold_unparsed"
        given = _value(answer)
        return (False, "unparsed") if given is None else (given == wanted, "ok")
    except (MemoryError, RecursionError):
        return False, "crash"


def _tuple_of_values(text: str) -> str:
    """`(2*3, 5+2)` -> `(6,7)`, of what stands in round or square brackets; any other text as it is."""
    members = text[1:-1].split(",")
    if len(members) < 2 or (text[0], text[-1]) not in (("(", ")"), ("[", "]")):
        return text
    shown: list[str] = []
    for member in members:
        value = member if "infty" in member or member in _KEPT else _value(member)
        if value is None:
            return text
        shown.append(str(value))
    return f"{text[0]}{','.join(shown)}{text[-1]}"


def _value(text: str) -> float | int | None:
    """The real value of LaTeX, rounded to two decimals; None where it has none, as `$60$` in the official parser."""
    if "$" in text or depth(text) > DEEPEST:
        return None
    try:
        expression: Any = latex2sympy(text)
        if not isinstance(expression, Expr) or expression.free_symbols:
            return None
        if expression.is_Integer:
            return int(expression)
        value = expression.evalf(17)
        return round(float(value), 2) if value.is_Number and value.is_finite else None
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the libraries have no error type of their own for texts that they cannot read
        return None
