"""Equality by mathruler, the rule of EasyR1, NoisyRollout and SaEI for Geometry3K. For worker processes.

mathruler hands what is left of two answers to sympy's `parse_expr`, which evaluates Python. Here it is asked only about
texts in which nothing but arithmetic can be written; for all others its own comparisons of strings decide.
"""

import re

from mathruler import grader
from mathruler.math_normalize import normalize_answer

from saei.graders.mathematics import DEEPEST, depth

# No quote, underscore or attribute can be spelled with these; a letter after a dot would be an attribute.
_ARITHMETIC = re.compile(r"(?:[0-9a-z+\-*/^()\[\],=<>!|]|\.(?![a-z.]))*", re.ASCII)
_TOWER = re.compile(r"\*\*|!{2}")  # 9**9**9; mathruler itself stops such towers only where they are written with ^
Outcome = tuple[bool, str]


def compare(answer: str, gold: str) -> Outcome:
    """(equal, status): status is `unparsed` where the answer is not handed to sympy, else `ok`."""
    try:
        if normalize_answer(answer) == normalize_answer(gold):
            return True, "ok"
        spelled, wanted = grader._normalize(answer), grader._normalize(gold)
        if spelled == wanted:
            return True, "ok"
        if not (_is_arithmetic(spelled) and _is_arithmetic(wanted)):
            return False, "unparsed"
        return bool(grader.grade_answer(answer, gold)), "ok"
    except (MemoryError, RecursionError):
        return False, "crash"
    except Exception:  # the library's own, about a text that it cannot read
        return False, "unparsed"


def _is_arithmetic(text: str) -> bool:
    plain = bool(_ARITHMETIC.fullmatch(text)) and not _TOWER.search(text)
    return plain and depth(text) <= DEEPEST
