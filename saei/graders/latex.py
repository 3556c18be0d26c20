r"""Spelling of mathematical answers: one for each of the many ways data sets and models write the same thing.

Golds of geometry3k write `2*{21^0.5}`, those of MM-Eureka K12 `$$\dfrac{3}{2}$$`, `30${}^\circ $`, `12 meters.` or
several parts (`254.4\n267.12`), MathVision has a form feed where `\f` was read as an escape. Nothing is evaluated here.
"""

import re

from saei.graders.exact import canonical_number

_REPLACED = (
    (re.compile(r"\x0crac"), r"\\frac"),
    (re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]"), ""),
    (re.compile(r"\r\n?|\\n(?![a-z])|\\\\(?=\s)"), "\n"),
    (re.compile(r"(?<=\d)(?:\\,|\{,\})(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\(\s*not unique\s*\)"), ""),
    (re.compile(r"\\\$|\$+|\\[()\[\]]|\\displaystyle|\\left(?![a-z])|\\right(?![a-z])|\\[,;!:]"), " "),
    (re.compile(r"\\boxed\s*\{([^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*)\}"), r" \1 "),
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\number\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"√\s*\{"), r"\\sqrt{"),
    (re.compile(r"√\s*(\d+(?:\.\d+)?|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"[{(](\d+(?:\.\d+)?|[a-z])\^\{?0\.5\}?[)}]|(\d+(?:\.\d+)?|[a-z])\^\{?0\.5\}?"), r"\\sqrt{\1\2}"),
    (re.compile(r"(?:\{\s*\})?\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))|\*?\\degrees?(?![a-z])|°"), "°"),
    (re.compile(r"\{\s*\{([^{}]*)\}\s*\}"), r"{\1}"),
)
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "²": "^2", "³": "^3", "π": r"\pi ", "×": r"\times ", "÷": "/", "，": ",", "（": "(", "）": ")",
     "；": ";", "：": ":", "≤": r"\le ", "≥": r"\ge ", "∞": r"\infty ", "\u00a0": " ", "∠": r"\angle "}
)  # fmt: skip

# Spellings of a unit -> the unit. A unit may be left out of an answer, but not be another one.
_SPELLINGS = {
    "°": "° degree degrees",
    "m": "meter meters metre metres 米",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters",
    "km": "km kilometer kilometers",
    "kg": "kg kilogram kilograms",
    "g": "gram grams",
    "s": "second seconds",
    "ft": "ft foot feet",
    "in": "inch inches",
    "mi": "mi mile miles",
    "nmi": "海里",
    "unit": "unit units",
}
_UNITS = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings.split()}
# A single letter is a unit only behind a space or upright: "5m" may be five times m.
_UNIT = re.compile(
    r"(?:(?<=[\d})\]\sπiI])\s*(NAMES)|(?<=\s)([mgs])|\\(?:text|mathrm|mbox|rm)\s*\{\s*(NAMES|[mgs])\s*\})"
    r"\s*(?:\^?\s*\{?\s*([23])\s*\}?)?\s*$".replace("NAMES", "|".join(sorted(_UNITS, key=len, reverse=True)))
)
# White space that divides: parts on lines of their own, numbers ("8 4" is not "84").
_APART = re.compile(r"\s*\n\s*|(?<=\d)\s+(?=\d)")
_ENUMERATED, _DIVIDED = re.compile(r"\(\d\)"), re.compile(r"[\n;]")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_KNOWN_WORDS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "and",
    "exp",
    "max",
    "min",
    "gcd",
    "lcm",
    "mod",
    "percent",
}


def tidy(text: str) -> str:
    r"""One spelling of fractions, roots, signs and marks; no `$`; no full stop at the end. Line breaks are kept."""
    text = text.translate(_SIGNS)
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = text.strip()
    return text[:-1].rstrip() if text.endswith((".", ";")) else text


def squeezed(text: str) -> str:
    """`tidy` without white space, braces around single signs and case: the string by which equal answers are found."""
    text = _APART.sub(lambda match: ";" if "\n" in match.group() else "_", tidy(text))
    return re.sub(r"\{(\w)\}", r"\1", "".join(text.split())).casefold()


def parts(text: str) -> list[str]:
    """The parts of an answer of several: one a line, or divided by `;`, or numbered `(1) ... (2) ...`."""
    text = tidy(text)
    enumerated = text.startswith("(1)") and "(2)" in text
    found = (_ENUMERATED if enumerated else _DIVIDED).split(text)
    return [part.strip(" ,.") if len(found) > 1 else part for part in found if part.strip(" ,.")]


def split_at_commas(text: str) -> list[str]:
    """Split at the commas that no bracket encloses."""
    found, depth, start = [], 0, 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            found.append(text[start:position])
            start = position + 1
    found.append(text[start:])
    return [part.strip() for part in found if part.strip()]


def split_unit(part: str) -> tuple[str, str]:
    """(quantity, unit): "12 meters" -> ("12", "m"), "4 cm^2" -> ("4", "cm^2"), "x" -> ("x", "")."""
    match = _UNIT.search(part)
    if match is None or not any(sign.isdigit() for sign in part[: match.start()]):
        return part, ""
    spelling = match.group(1) or match.group(2) or match.group(3)
    power = f"^{match.group(4)}" if match.group(4) else ""
    return part[: match.start()].rstrip(" ~\\*"), _UNITS.get(spelling, spelling) + power


def is_prose(part: str) -> bool:
    """Whether a part has words in it. A parser would read "rhombus" as a product of letters, equal to "subrhom"."""
    found = re.findall(r"[^\W\d_]{3,}", _COMMAND.sub(" ", part.replace(r"\text", " ")))
    return any(word.casefold() not in _KNOWN_WORDS for word in found)


def settled(answer: str, gold: str) -> bool | None:
    """What spelling alone decides: True for equal strings, True or False for two plain numbers, None for all else."""
    answer_key = squeezed(answer)
    if answer_key and answer_key == squeezed(gold):
        return True
    gold_number = canonical_number(tidy(gold))
    answer_number = canonical_number(tidy(answer))
    if gold_number is not None and answer_number is not None:
        return gold_number == answer_number
    return None
