"""MATH-Vision (MathLLMs/MathVision): official prompt and official scoring, which is rules alone and always decides.

Facts of the rules: mathllm/MATH-V, evaluation/evaluate.py and utils.py. An output is right when what is read from it
equals the gold letter or the text of that option.
"""

import re
from collections.abc import Mapping
from typing import Any

from saei.benchmarks.item import Benchmark, Item, Reading, Settled

INSTRUCTION = (
    'Please solve the problem and put your answer in one "\\boxed{}". If it is a multiple choice question, only one '
    'letter is allowed in the "\\boxed{}".'
)
LETTERS = "ABCDE"
BOX = "oxed{"  # so that \boxed, \fbox-like misspellings and a lost backslash all count
_FLAGS = ("the final answer is", "the answer is", "the correct answer is", "the answer should be")
# What is taken out of an answer, in this order.
_REMOVED = (
    (" ", ""), ("\\,", ""), ("∞", "\\infty"), ("+\\infty", "\\infty"), ("\\\\", "\\"), ("\n", ""), ("\\text", ""),
    ("\\mbox", ""), ("bmatrix", "pmatrix"), ("\\left", ""), ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""),
    ("{m}^3", ""), ("m^3", ""), ("{units}", ""), ("units", ""), ("{km}", ""), ("km", ""),
)  # fmt: skip
_SPELLED = (
    ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""), ("$", ""), ("\\%", ""), ("{.", "{0."),
)  # fmt: skip
_FRACTION = re.compile(r"(-?\d{1,1000})/(-?\d{1,1000})", re.ASCII)  # Python reads no integer of 4,300 digits


def item(row: Mapping[str, Any], style: str) -> Item:
    """An item of a hub row: id, question (`<image1>` placeholders), options, answer (a letter or a value), level."""
    options = tuple(str(option) for option in row.get("options") or ())
    shown = "" if "".join(options) == LETTERS else "\n".join(_lines(options))  # options that are drawn have no text
    question = str(row["question"])
    return Item(
        benchmark="mathvision",
        item_id=str(row["id"]),
        prompt="\n".join(part for part in (INSTRUCTION if style == "official" else "", question, shown) if part),
        question=question,
        gold=str(row["answer"]),
        choices=options,
        facts={
            "subject": str(row.get("subject", "")),
            "level": str(row.get("level", "")),
            "kind": "choice" if options else "free form",
            "subject x level": f"{row.get('subject', '')} / {row.get('level', '')}",
        },
    )


def _lines(options: tuple[str, ...]) -> list[str]:
    return [f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options)]


def read(output: str, item: Item) -> Reading:
    """The answer as the official scorer reads it, in lower case; it reads something from every output."""
    text, by = output.strip(), "whole text"
    for letter in LETTERS:
        ends = text.endswith((f" {letter}.", f" ({letter})."))
        if ends or text == f"{letter})" or text.startswith((f"{letter}\n", f"({letter})\n", f"({letter}) {letter}\n")):
            text, by = letter, "letter at an end"
    number = text.rpartition("is ")[2].rstrip(".")
    if _is_number(number):
        text, by = number, "number at the end"
    if BOX not in text:
        for flag in _FLAGS:
            for spelled in (flag, flag.replace("the", "The")):
                text, found = _behind(text, spelled)
                by = "answer is" if found else by
    else:
        by = "boxed"
        if text.count(BOX) > 1:
            text = "\\b" + BOX + text.rpartition(BOX)[2]
    return Reading(_unwrapped(_cleaned(text)), by)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _behind(text: str, flag: str) -> tuple[str, bool]:
    """The sentence behind the last `flag`, and whether there is one; else the text without outer white space."""
    _, found, rest = text.rpartition(flag)
    return (rest.strip().split("\n")[0].split(". ")[0] if found else text.strip()), bool(found)


def _cleaned(text: str) -> str:
    """In lower case, out of its box, only the right side of an equation, without units and marks."""
    text = text.lower().replace("{}", "")
    start, end = text.find(BOX), text.rfind("}")
    if start >= 0 and start + len(BOX) <= end:
        text = text[start + len(BOX) : end]
    closing, opening = text.find("}"), text.find("{")
    if closing != -1 and (opening == -1 or closing < opening):
        text = text[:closing]
    text = text.rpartition("=")[2].rpartition("\\approx")[2]
    for old, new in _REMOVED:
        text = text.replace(old, new)
    return _spelled(text)


def _spelled(text: str) -> str:
    """One spelling of fractions and roots."""
    for old, new in _SPELLED:
        text = text.replace(old, new)
    text = f"0{text}" if text.startswith(".") else text
    for sign in ("=", "\\approx"):
        if text.count(sign) == 1:
            text = text.partition(sign)[2]
    if "sqrt" in text:
        text = _braced(_braced(text, "\\sqrt", 1), "\\frac", 2)
    if text == "0.5":
        return "\\frac{1}{2}"
    fraction = _FRACTION.fullmatch(text)
    if fraction and text == f"{int(fraction[1])}/{int(fraction[2])}":
        return f"\\frac{{{fraction[1]}}}{{{fraction[2]}}}"
    return text


def _braced(text: str, command: str, arguments: int) -> str:
    r"""`\sqrt2` -> `\sqrt{2}`, `\frac12` -> `\frac{1}{2}`, wherever the first argument has no brace."""
    first, *rest = text.split(command)
    pieces = [first]
    for piece in rest:
        if piece.startswith("{") or not piece:
            pieces.append(piece)
        elif arguments == 1:
            pieces.append(f"{{{piece[0]}}}{piece[1:]}")
        elif len(piece) < 2:
            return text
        else:
            second = piece[1:] if piece[1] == "{" else f"{{{piece[1]}}}{piece[2:]}"
            pieces.append(f"{{{piece[0]}}}{second}")
    return command.join(pieces)


def _unwrapped(text: str) -> str:
    """A letter out of its brackets; no full stop behind, no colon in front."""
    for letter in LETTERS.lower():
        text = text.replace(f"({letter})", letter).replace(f"{{{letter}}}", letter)
    return text.rstrip(".").lstrip(":").strip()


def settle(answer: str, item: Item) -> Settled:
    """Equal to the gold letter, or to the text of that option; strings at once, values in a grader process."""
    golds = [item.gold, *_option_text(item)]
    if any(answer.lower().strip() == gold.lower().strip() != "" for gold in golds):
        return Settled(True)
    values = [gold for gold in golds if len(gold.strip()) > 1 or gold.strip().isdigit()]  # a letter alone has none
    tasks = tuple((answer, gold) for gold in values if answer.strip())
    return Settled(None, "rounded", tasks) if tasks else Settled(False)


def _option_text(item: Item) -> list[str]:
    number = LETTERS.find(item.gold) if item.gold else -1
    return [item.choices[number]] if 0 <= number < len(item.choices) else []


MATHVISION = Benchmark(
    title="MathVision",
    hub="MathLLMs/MathVision",
    config="default",
    splits=("test",),
    rows=3040,
    folders=("mathvision", "MathVision"),
    files=("test.jsonl", "test*.parquet", "testmini.jsonl", "testmini*.parquet"),
    item=item,
    read=read,
    settle=settle,
    breakdown=("subject", "level", "kind", "subject x level"),
)
