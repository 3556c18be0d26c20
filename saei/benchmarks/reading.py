"""Finding an answer in prose. Every rule is narrow: where two readings are possible it says nothing, and the item is
left to the judge or counted as undecided. Outputs are hostile text: linear time, nothing evaluated.
"""

import re

from saei.graders.exact import plain
from saei.graders.latex import split_unit, tidy

_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?![\w])", re.ASCII)
_IS = re.compile(r"\b(?:answer|option|choice)\b[^.\n(]{0,80}?(?:\bis|:)[\s:*_\"'`]{0,8}", re.IGNORECASE)
_LETTER = re.compile(r"\(([A-Za-z])\)|([A-Z])(?=[\s.,:;)*_\"'`]|$)")
_BEHIND = re.compile(r"[^\n]{1,200}")
_IN_WORDS = re.compile(
    r"\b(?:no|none|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|half)\b",
    re.IGNORECASE,
)
SHORT = 200  # characters of a sentence or two
_WORD = re.compile(r"[^\W_]+")


def letter_behind_answer(text: str) -> str | None:
    """The option letter behind "answer is", "option:" and the like ("**(C)**", "C."); None for none, or for several."""
    found = set()
    for match in _IS.finditer(text):
        letter = _LETTER.match(text, match.end())
        if letter:
            found.add((letter[1] or letter[2]).upper())
    return found.pop() if len(found) == 1 else None


def number_behind_answer(text: str) -> str | None:
    """The number behind "answer is" ("**3**", "$4.50"); None where there is none, or there are different ones."""
    found = set()
    for match in _IS.finditer(text):
        behind = _BEHIND.match(text, match.end())
        number = _first_number(behind.group().lstrip(" $*_") if behind else "")
        if number:
            found.add(number)
    return found.pop() if len(found) == 1 else None


def only_number(text: str) -> str | None:
    """The number of a short text that holds one only, written in digits; None else ("two are higher than 90")."""
    if len(text) > SHORT or _IN_WORDS.search(text):
        return None
    found = [match.group() for match in _NUMBER.finditer(text) if any(sign.isdigit() for sign in match.group())]
    return found[0].replace(",", "").replace("−", "-") if len(found) == 1 else None


def _first_number(text: str) -> str | None:
    match = _NUMBER.match(text)
    number = match.group().replace(",", "").replace("−", "-") if match else ""
    return number if any(sign.isdigit() for sign in number) else None


def bare_number(text: str) -> str:
    """A boxed quantity without dress, unit and thousands commas: "$1,200\\text{ cm}$" -> "1200"."""
    quantity, _ = split_unit(tidy(plain(text)))
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", quantity.removesuffix("°").removesuffix("\\%").strip())


def yes_or_no(text: str) -> str | None:
    """`yes` or `no` where that word occurs and the other does not (VLMEvalKit's rule); else None."""
    words = {word.lower() for word in _WORD.findall(text)}
    found = words & {"yes", "no"}
    return found.pop() if len(found) == 1 else None


def option_lines(question: str) -> tuple[str, ...]:
    """The options that stand in a question as lines `A:40°`, `B. 50°`; empty where they are not in order from A."""
    found = re.findall(r"^\s*\(?([A-H])\)?\s*[:.)]\s*(\S.*?)\s*$", question, re.MULTILINE)
    letters = "".join(letter for letter, _ in found)
    return tuple(text for _, text in found) if len(found) > 1 and "ABCDEFGH".startswith(letters) else ()
