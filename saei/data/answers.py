r"""Gold answers of data sets, made one spelling, and how each is graded.

What golds look like (real ones): `$$4$$`, `$$\number{24} $$`, `3\r\n`, `11 ` with a space, `$\boxed{\frac{16}{7}}$`, a
form feed where `\f` was read as an escape, `118掳` (a degree sign read as GBK), `<answer> 3 </answer>`. The row's own
spelling stays in `Problem.facts`, for scoring as the benchmarks have it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

AnswerType = Literal["number", "math", "choice", "text"]
Gold = tuple[str, AnswerType]

_TAGGED = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_MOJIBAKE = {"掳": "°", "\u00a0": " ", "\ufeff": ""}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_NUMBER = re.compile(r"\\number\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{(.*)\}", re.DOTALL)
_LETTER = re.compile(r"\(?([A-H])\)?\.?")


def tidy_gold(text: str) -> str:
    r"""The gold without what only dresses it: line ends of one kind, no outer space, `$`, `\boxed{}` or `\number{}`.

    Dollar signs inside ("Area $=3$", "$$4$$,$$6$$") stay: they divide.
    """
    for wrong, right in _MOJIBAKE.items():
        text = text.replace(wrong, right)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0crac", "\\frac").replace("\x0c", "\n")
    text = _NUMBER.sub(r"\1", _CONTROL.sub("", text)).strip()
    for fence in ("$$", "$"):
        inner = text[len(fence) : -len(fence)]
        if len(text) > 2 * len(fence) and text.startswith(fence) and text.endswith(fence) and "$" not in inner:
            text = inner.strip()
    boxed = _BOXED.fullmatch(text)
    return boxed[1].strip() if boxed and _balanced(boxed[1]) else text


def _balanced(text: str) -> bool:
    depth = 0
    for sign in text:
        depth += (sign == "{") - (sign == "}")
        if depth < 0:
            return False
    return depth == 0


def letter_of(text: str) -> str:
    """The option letter that the whole of `text` is, or ""."""
    match = _LETTER.fullmatch(text)
    return match[1] if match else ""


def _value(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    return tidy_gold(gold), "math"


def _letter(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    return tidy_gold(gold), "choice"


def _value_or_letter(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    text = tidy_gold(gold)
    return (letter_of(text), "choice") if letter_of(text) else (text, "math")


def _choice_or_value(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    return _letter(gold, choices, row) if choices else _value_or_letter(gold, choices, row)


def _tagged(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    tagged = _TAGGED.search(gold)
    return _value_or_letter(tagged[1] if tagged else gold, choices, row)


def _mathvista(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    if row.get("question_type") == "multi_choice":
        return tidy_gold(gold), "choice"
    return tidy_gold(gold), "number" if row.get("answer_type") in ("integer", "float") else "math"


def _mathverse(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    chosen = str(row.get("question_type", "")).replace("_", "-") == "multi-choice"  # both spellings are about
    return tidy_gold(gold), "choice" if chosen else "math"


def _yes_no(gold: str, choices: Sequence[str] | None, row: Mapping[str, Any]) -> Gold:
    return {"1": "yes", "0": "no"}.get(gold.strip(), gold.strip().casefold()), "text"


GOLDS: dict[str, Callable[[str, Sequence[str] | None, Mapping[str, Any]], Gold]] = {
    "value": _value,
    "letter": _letter,
    "value_or_letter": _value_or_letter,
    "choice_or_value": _choice_or_value,
    "tagged": _tagged,
    "mathvista": _mathvista,
    "mathverse": _mathverse,
    "yes_no": _yes_no,
}
"""`answers` of a catalogue entry -> (gold, choices, row) -> (the gold in one spelling, how it is graded)."""
