"""MathVerse (AI4Math/MathVerse): one problem in five versions, from most text to all in the picture.

The official scorer asks a language model twice, for the answer and for its verdict. Rules decide what they can: a
letter by equality, mathematics by math-verify; prose, and mathematics that cannot be read, are left to the judge.
"""

import re
from collections.abc import Mapping
from typing import Any

from saei.benchmarks.item import Ask, Benchmark, Item, Reading, Settled
from saei.benchmarks.reading import letter_behind_answer, option_lines
from saei.graders.exact import plain, same_choice, same_text
from saei.graders.extract import boxed_answer
from saei.graders.latex import is_prose, settled

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")
"""The versions of the overall score; "Text Only", where present, is shown apart."""
SHORT = 60  # characters of an output that is nothing but its answer
_UNSURE = frozenset({"unparsed", "gold_unparsed"})
_FIRST_LETTER = re.compile(r"\(?([A-H])\)?(?:\s*[.:)].*)?", re.DOTALL)
_HINTS = {
    "official": ("Please directly answer the question and provide the {}.", "correct option letter, e.g., A, B, C, D"),
    "noisyrollout": (
        "Please first conduct reasoning, and then answer the question and provide the {} at the end.",
        "correct option letter, e.g., A, B, C, D,",
    ),
}
EXTRACTION = """\
Write down only the final answer that this response gives: an option letter, a value or an expression. Do not solve \
the question. If it gives none, write N/A.

Response: {response}

Final answer:"""
JUDGEMENT = """\
Does the answer of a model mean the same as the standard answer to this question? Reply 1 if it does and 0 if not.

Question: {question}
Standard answer: {gold}
Model's answer: {answer}

1 or 0:"""


def item(row: Mapping[str, Any], style: str) -> Item:
    """An item of a hub row, or of the project page's sample, whose choices are a list and metadata keys plural."""
    metadata = row.get("metadata") or {}
    multi = str(row["question_type"]).replace("_", "-") == "multi-choice"
    version = str(row.get("problem_version") or metadata.get("problem_version") or "")
    question = str(row.get("question") or "")
    listed = "\n".join(str(choice) for choice in row.get("choices") or ())
    asked = f"{question.strip()}\nChoices:\n{listed}" if listed else question.strip()
    query = row.get("query_wo" if style == "official" else "query_cot")
    if not query:
        form, letter = _HINTS[style]
        query = f"{form.format(letter if multi else 'final value, e.g., 1, 2.5, 300,')}\nQuestion: {asked}"
    return Item(
        benchmark="mathverse",
        item_id=str(row.get("sample_index") or row.get("pid") or row["id"]),
        prompt=str(query),
        question=str(row.get("question_for_eval") or asked),
        gold=str(row["answer"]),
        choices=option_lines(str(row.get("question_for_eval") or asked)) if multi else (),
        cluster=f"problem {row.get('problem_index') or row.get('group') or row.get('id')}",
        facts={
            "version": version,
            "subject": str(metadata.get("subject") or metadata.get("subjects") or ""),
            "subfield": str(metadata.get("subfield") or metadata.get("subfields") or ""),
            "question_type": "multi-choice" if multi else "free-form",
        },
        rule={"multi": multi},
    )


def read(output: str, item: Item) -> Reading:
    """The last box, else the letter behind "answer is", else an output that is nothing but an answer."""
    box = boxed_answer(output)
    if box is not None:
        return Reading(box, "boxed")
    text = output.strip()
    if item.rule["multi"]:
        letter = letter_behind_answer(text)
        if letter is not None:
            return Reading(letter, "answer is")
        whole = _FIRST_LETTER.fullmatch(plain(text))
        return Reading(whole[1], "whole text") if whole and "\n" not in text else Reading(None, "")
    short = 0 < len(text) <= SHORT and "\n" not in text
    return Reading(text, "whole text") if short else Reading(None, "")


def settle(answer: str, item: Item) -> Settled:
    """Letters are compared at once, mathematics in a grader process, which may not be able to tell."""
    if item.rule["multi"]:
        return Settled(same_choice(answer, item.gold, item.choices or None))
    if is_prose(answer) or is_prose(item.gold):
        return Settled(same_text(answer, item.gold) or None)
    known = settled(answer, item.gold)
    return Settled(known) if known is not None else Settled(None, "mathematics", ((answer, item.gold),), _UNSURE)


def judge(output: str, item: Item, ask: Ask) -> tuple[Reading, bool | None]:
    """The judge finds the answer, where no box holds it, and says whether it is right."""
    answer = boxed_answer(output) or ask(EXTRACTION.format(response=output)).strip()
    reply = ask(JUDGEMENT.format(question=item.question, gold=item.gold, answer=answer))
    digits = re.findall(r"[01]", reply[:20])
    return Reading(answer, "judge"), digits[0] == "1" if digits else None


MATHVERSE = Benchmark(
    title="MathVerse",
    hub="AI4Math/MathVerse",
    config="testmini",
    splits=("testmini",),
    rows=3940,
    folders=("mathverse", "MathVerse"),
    files=("testmini.jsonl", "testmini.json", "testmini*.parquet", "visualizer.jsonl"),
    item=item,
    read=read,
    settle=settle,
    breakdown=("version", "subject", "subfield", "question_type"),
    overall=lambda item: item.facts["version"] in VERSIONS,
    judge=judge,
)
