"""MathVista (AI4Math/MathVista): official query, normalisation, equality; the answer is found by rules or the judge.

The official scorer asks a language model for the answer in nearly every output. The rules here read what says its
answer plainly, and leave the rest. Then as the official code has it (evaluation/calculate_score.py): a letter is its
option, any other text the nearest option by Levenshtein distance, a number rounded, and equality of strings.
"""

import re
from collections.abc import Mapping
from typing import Any

from rapidfuzz.distance import Levenshtein

from saei.benchmarks.item import Ask, Benchmark, Fact, Item, Reading, Settled
from saei.benchmarks.reading import bare_number, letter_behind_answer, number_behind_answer, only_number
from saei.graders.exact import plain
from saei.graders.extract import boxed_answer

LONGEST = 500  # characters of an answer; the longest option has 170
FACTS = ("question_type", "answer_type", "language", "source", "category", "task", "context", "grade", "skills")
_QUOTED = re.compile(r'The answer is "([^"\n]*)"\.')
_BRACKETED = re.compile(r"\(([a-zA-Z])\)")
EXTRACTION = """\
You are given a question, the hint it came with, and somebody's response. Write down only the final answer that the \
response gives, in the form that the hint asks for: a single option letter, an integer, a decimal number, or a list. \
Do not solve the question yourself. If the response gives no answer, write N/A.

{query}

Response: {response}

Final answer:"""


def item(row: Mapping[str, Any], style: str) -> Item:
    """An item of a hub row; `query` is the published prompt. `image` is a path, `decoded_image` the picture."""
    metadata = row.get("metadata") or {}
    known = {**metadata, "question_type": row["question_type"], "answer_type": row["answer_type"]}
    facts: dict[str, Fact] = {}
    for name in FACTS:
        value = known.get(name)
        facts[name] = tuple(map(str, value)) if isinstance(value, list | tuple) else str(value or "")
    return Item(
        benchmark="mathvista",
        item_id=str(row["pid"]),
        prompt=str(row.get("query") or row.get("question") or ""),
        question=str(row.get("question") or ""),
        gold=str(row["answer"]),
        choices=tuple(str(choice) for choice in row.get("choices") or ()),
        facts=facts,
        rule={
            "multi": row["question_type"] == "multi_choice",
            "kind": row["answer_type"],
            "precision": int(row.get("precision") or 0),
        },
    )


def read(output: str, item: Item) -> Reading:
    """The answer where the output states it: as a whole, in a box, in quotes, behind "answer is", as its one number."""
    text = output.strip()
    if item.rule["multi"]:
        return _read_choice(text, item)
    if _rounded(text, item) is not None:
        return Reading(text, "whole text")
    box = boxed_answer(text)
    if box is not None:
        return Reading(bare_number(box[:LONGEST]) if item.rule["kind"] != "list" else plain(box[:LONGEST]), "boxed")
    quoted = _QUOTED.search(text)
    if quoted:
        return Reading(bare_number(quoted[1][:LONGEST]), "quoted")
    if item.rule["kind"] == "list":
        return Reading(None, "")
    for find, by in ((number_behind_answer, "answer is"), (only_number, "only number")):
        number = find(text)
        if number is not None:
            return Reading(number, by)
    return Reading(None, "")


def _read_choice(text: str, item: Item) -> Reading:
    if text in item.choices:
        return Reading(text, "whole text")
    box = boxed_answer(text)
    if box is not None:
        return Reading(plain(box[:LONGEST]), "boxed")
    quoted = _QUOTED.search(text)
    if quoted:
        return Reading(quoted[1], "quoted")
    letter = plain(text).strip("()")
    if len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(item.choices):
        return Reading(letter, "whole text")
    letter = letter_behind_answer(text)
    if letter is not None and ord(letter) - ord("A") < len(item.choices):
        return Reading(letter, "answer is")
    first = re.match(r"\w+", text)
    options = {choice.strip().casefold(): choice for choice in item.choices}
    if first and set(options) == {"yes", "no"} and first.group().casefold() in options:
        return Reading(options[first.group().casefold()], "first word")
    return Reading(None, "")


def prediction(extraction: str, item: Item) -> str | None:
    """What the official scorer compares with the gold; None where an answer is no number and one is asked for."""
    extraction = extraction[:LONGEST]
    if not item.rule["multi"]:
        return _rounded(extraction, item)
    extraction = extraction.strip()
    letter = _BRACKETED.search(extraction)
    if letter:
        extraction = letter[1].upper()
    number = ord(extraction) - ord("A") if len(extraction) == 1 else -1
    if 0 <= number < len(item.choices):
        return item.choices[number]
    return min(item.choices, key=lambda choice: Levenshtein.distance(extraction, choice), default=None)


def _rounded(text: str, item: Item) -> str | None:
    if item.rule["kind"] == "list":
        return text if text.startswith("[") else None
    try:
        value = float(text)
        return str(int(value)) if item.rule["kind"] == "integer" else str(round(value, item.rule["precision"]))
    except (ValueError, OverflowError):
        return None


def settle(answer: str, item: Item) -> Settled:
    """Official: the prediction is the gold, as strings."""
    return Settled(prediction(answer, item) == item.gold)


def judge(output: str, item: Item, ask: Ask) -> tuple[Reading, bool | None]:
    """The judge finds the answer; whether it is right is for the official rules."""
    return Reading(ask(EXTRACTION.format(query=item.prompt, response=output)).strip(), "judge"), None


MATHVISTA = Benchmark(
    title="MathVista",
    hub="AI4Math/MathVista",
    config="default",
    splits=("testmini",),
    rows=1000,
    folders=("mathvista", "MathVista"),
    files=("testmini_with_images.jsonl", "testmini.jsonl", "testmini.json", "testmini*.parquet"),
    item=item,
    read=read,
    settle=settle,
    breakdown=FACTS,
    judge=judge,
)
