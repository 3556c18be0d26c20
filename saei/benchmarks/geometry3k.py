"""Geometry3K test (hiyouga/geometry3k): the last box, graded by mathruler, as EasyR1 and NoisyRollout do."""

from collections.abc import Mapping
from typing import Any

from saei.benchmarks.item import Benchmark, Item, Reading, Settled
from saei.graders.extract import boxed_answer

INSTRUCTION = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
    "The reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}."
)
"""EasyR1 writes it behind the problem, NoisyRollout in the system message."""


def item(row: Mapping[str, Any], style: str) -> Item:
    """An item of a hub row (images, problem, answer) or of a local one with question, answer and answer_latex."""
    problem = str(row.get("problem") or row.get("question") or "").replace("<image>", "").strip()
    return Item(
        benchmark="geometry3k",
        item_id=str(row.get("id") if row.get("id") is not None else row["row"]),
        prompt=f"{problem} {INSTRUCTION}" if style == "official" else problem,
        question=problem,
        gold=str(row.get("answer_latex") or row["answer"]),
    )


def read(output: str, item: Item) -> Reading:
    """The last box. An output without one is wrong, which is the rule's own decision."""
    return Reading(boxed_answer(output) or "", "boxed")


def settle(answer: str, item: Item) -> Settled:
    """mathruler, in a grader process."""
    if not answer:
        return Settled(False)
    return Settled(True) if answer == item.gold else Settled(None, "ruler", ((answer, item.gold),))


GEOMETRY3K = Benchmark(
    title="Geometry3K",
    hub="hiyouga/geometry3k",
    config="default",
    splits=("test",),
    rows=601,
    folders=("geometry3k",),
    files=("test.jsonl", "test*.parquet", "data/test*.parquet"),
    item=item,
    read=read,
    settle=settle,
    breakdown=(),
)
