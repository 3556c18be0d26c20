"""Exact comparison of numbers, words and choices, in place: no evaluation, only text made canonical."""

import re
from collections.abc import Sequence

_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\s*\{([^{}]*)\}")
_NUMBER = re.compile(r"([+-]?)(\d[\d,]*|)(?:\.(\d*))?")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
_LETTER = re.compile(r"\(?([a-zA-Z])(?:\s*[).:]+(.*))?", re.DOTALL)
_LETTER_SET = re.compile(r"[A-H](?:(?:\s*[,;]\s*|\s+and\s+|\s*)[A-H])+")
_SIGNS = str.maketrans({"−": "-", "–": "-", "，": ",", "（": "(", "）": ")", "：": ":", "；": ";", "\u00a0": " "})


def plain(text: str) -> str:
    r"""Without what only dresses an answer: `$`, `\( \)`, `\[ \]`, `\text{}`, outer space, a full stop at the end."""
    text = _WRAPPERS.sub(r"\1", text.translate(_SIGNS))
    text = re.sub(r"\\[()\[\]]", "", text).replace("$", "").strip()
    return text[:-1].rstrip() if text.endswith(".") else text


def words(text: str) -> str:
    """`plain`, case folded, every run of white space one space."""
    return " ".join(plain(text).casefold().split())


def canonical_number(text: str) -> str | None:
    """The one spelling of a decimal number's value ("07", "7.0", "+7" -> "7"; "1,000" -> "1000"), None if it is none.

    Works on digits, not on values, so a number of any length costs no more than its text. "-0" is "0".
    """
    match = _NUMBER.fullmatch(plain(text))
    if match is None:
        return None
    sign, whole, fraction = match.group(1), match.group(2), match.group(3) or ""
    if not whole and not fraction:
        return None
    if "," in whole:
        if not _THOUSANDS.fullmatch(whole):
            return None
        whole = whole.replace(",", "")
    if not (whole + fraction).isascii():
        return None
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    return f"-{value}" if sign == "-" and value != "0" else value


def same_number(answer: str, gold: str) -> bool:
    """Equal values, exactly; a gold that is no number is compared as words."""
    value = canonical_number(gold)
    return same_text(answer, gold) if value is None else canonical_number(answer) == value


def same_text(answer: str, gold: str) -> bool:
    """Equal words, whatever the case and the spacing. An empty gold equals nothing."""
    return words(answer) == words(gold) != ""


def same_choice(answer: str, gold: str, choices: Sequence[str] | None) -> bool:
    """Equal options, each named by its letter, its text or both ("C", "(C)", "C: 40 cm"); or equal sets of letters.

    Where options are letters themselves ("A", "B", "C", "E", "none"), an answer is read as the gold is: by letter when
    the gold is the text of no option. Without `choices` letters are compared, and the text behind a letter is ignored.
    """
    if choices:
        letter_first = not _named_by_text(gold, choices)
        golds, answers = _named(gold, choices, letter_first), _named(answer, choices, letter_first)
        if golds:
            return bool(answers) and answers <= golds
    if _squeezed(answer) == _squeezed(gold) != "":
        return True
    letters = _letters(gold)
    return bool(letters) and _letters(answer) == letters


def _squeezed(text: str) -> str:
    return "".join(words(text).split())


def _named(text: str, choices: Sequence[str], letter_first: bool) -> set[int]:
    """Numbers of the options that `text` names, by letter or text, in the order that the golds suggest."""
    by_text, by_letter = _named_by_text(text, choices), _named_by_letter(text, choices)
    return by_letter or by_text if letter_first else by_text or by_letter


def _named_by_text(text: str, choices: Sequence[str]) -> set[int]:
    key = _squeezed(text)
    return {i for i, choice in enumerate(choices) if key and _squeezed(choice) == key}


def _named_by_letter(text: str, choices: Sequence[str]) -> set[int]:
    letter, rest = _letter(text)
    number = ord(letter) - ord("a") if letter else -1
    if not 0 <= number < len(choices) or (rest and _squeezed(rest) != _squeezed(choices[number])):
        return set()
    return {number} | _named_by_text(choices[number], choices)


def _letter(text: str) -> tuple[str, str]:
    """The option letter that `text` starts with, in lower case, and what follows it; ("", "") when there is none."""
    match = _LETTER.fullmatch(plain(text))
    return (match.group(1).casefold(), (match.group(2) or "").strip()) if match else ("", "")


def _letters(text: str) -> frozenset[str]:
    """The set of option letters that `text` consists of."""
    text = plain(text)
    if _LETTER_SET.fullmatch(text):
        return frozenset(re.sub(r"and|[^A-H]", "", text).casefold())
    letter, _ = _letter(text)
    return frozenset(letter)
