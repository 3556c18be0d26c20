"""We-Math (We-Math/We-Math): problems of several steps, each step asked alone, and what that tells of the model.

Per problem: insufficient knowledge (IK: a step wrong, the whole wrong), inadequate generalisation (IG: all steps right,
the whole wrong), complete mastery (CM) and rote memorisation (RM), both with the whole right: strict, RM where any step
is wrong; loose, RM where all are. The score is CM + IG / 2.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from saei.benchmarks.item import Ask, Benchmark, Item, Reading, Settled
from saei.benchmarks.reading import letter_behind_answer
from saei.graders.exact import plain
from saei.graders.extract import boxed_answer

_AFTER_ANSWER = re.compile(r"Answer[\s<>:.*]{0,8}([A-H])(?![A-Za-z])")
_ALONE = re.compile(r"\(?([A-H])\)?(?:\s*[.:)].*)?", re.DOTALL)
EXTRACTION = """\
Write down only the letter of the option that this response chooses, or N/A if it chooses none.

Question: {question}

Response: {response}

Letter:"""


def item(row: Mapping[str, Any], style: str) -> Item:
    """An item of a hub row: ID, key (2steps_1, 2steps_2, 2steps_multi, 3steps_1 ...), question, option, answer."""
    key = str(row["key"])
    steps, _, part = key.partition("_")
    question = f"{row['question']}\n\nOptions: {row['option']}"
    return Item(
        benchmark="wemath",
        item_id=f"{row['ID']}@{key}",
        prompt=question,
        question=question,
        gold=str(row["answer"]).strip(),
        cluster=f"{steps} {row['ID']}",
        facts={"key": key, "steps": steps},
        rule={"part": part},
    )


def read(output: str, item: Item) -> Reading:
    """The letter in the last box, behind "Answer", or of an output that is nothing else."""
    box = boxed_answer(output)
    whole = _ALONE.fullmatch(plain(output if box is None else box))
    if box is not None:
        return Reading(whole[1] if whole else box, "boxed")
    found = set(_AFTER_ANSWER.findall(output))
    if len(found) == 1:
        return Reading(found.pop(), "answer is")
    letter = letter_behind_answer(output)
    if letter is not None:
        return Reading(letter, "answer is")
    return Reading(whole[1], "whole text") if whole and "\n" not in output.strip() else Reading(None, "")


def settle(answer: str, item: Item) -> Settled:
    """Right where it is the gold letter."""
    return Settled(answer.strip() == item.gold)


def judge(output: str, item: Item, ask: Ask) -> tuple[Reading, bool | None]:
    """The judge finds the letter."""
    reply = ask(EXTRACTION.format(question=item.question, response=output)).strip()
    letter = _ALONE.fullmatch(reply)
    return Reading(letter[1] if letter else reply, "judge"), None


def groups(items: Sequence[Item], right: Mapping[str, bool]) -> Mapping[str, Mapping[tuple[str, str], float]]:
    """The four dimensions and the two scores of every problem whose steps and whole are all there."""
    problems: dict[str, dict[str, bool]] = {}
    for one in items:
        problems.setdefault(one.cluster, {})[one.rule["part"]] = right[one.item_id]
    found: dict[str, dict[tuple[str, str], float]] = {}
    for cluster, parts in problems.items():
        steps = [mark for part, mark in parts.items() if part != "multi"]
        if "multi" not in parts or len(steps) != int(cluster[0]):
            continue
        for name, value in _dimensions(steps, parts["multi"]).items():
            found.setdefault(name, {})[cluster, cluster] = value
    return found


def _dimensions(steps: Sequence[bool], whole: bool) -> dict[str, float]:
    generalises = float(all(steps) and not whole)
    strict, loose = float(all(steps) and whole), float(any(steps) and whole)
    return {
        "score (strict)": strict + generalises / 2,
        "score (loose)": loose + generalises / 2,
        "IK": float(not all(steps) and not whole),
        "IG": generalises,
        "CM (strict)": strict,
        "CM (loose)": loose,
        "RM (strict)": float(whole) - strict,
        "RM (loose)": float(whole) - loose,
    }


WEMATH = Benchmark(
    title="We-Math",
    hub="We-Math/We-Math",
    config="default",
    splits=("testmini",),
    rows=1740,
    folders=("wemath", "We-Math"),
    files=("testmini.jsonl", "testmini.json", "testmini*.parquet"),
    item=item,
    read=read,
    settle=settle,
    breakdown=("key", "steps"),
    groups=groups,
    judge=judge,
)
