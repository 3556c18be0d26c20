"""MMK12 test (FanqingM/MMK12): 500 questions of each of four subjects; the last box, graded by mathruler.

The options stand inside the question and the gold is a letter. A local copy of MM-Eureka's free-form K12 set is read,
too; it has no subjects.
"""

from collections.abc import Mapping
from typing import Any

from saei.benchmarks.geometry3k import read, settle
from saei.benchmarks.item import Benchmark, Item

__all__ = ["MMK12", "item"]


def item(row: Mapping[str, Any], style: str) -> Item:
    """An item of a hub row: id, question, answer, subject. `official` is MM-Eureka's prompt."""
    question = str(row["question"]).replace("<image>", "").strip()
    prompt = question
    if style == "official":
        prompt = (
            f"Answer the following question: {question}\n"
            "Please reason step by step, and put your final answer within \\boxed{}."
        )
    return Item(
        benchmark="mmk12",
        item_id=str(row["id"]),
        prompt=prompt,
        question=question,
        gold=str(row["answer"]),
        facts={"subject": str(row.get("subject") or "")},
    )


MMK12 = Benchmark(
    title="MMK12",
    hub="FanqingM/MMK12",
    config="default",
    splits=("test",),
    rows=2000,
    folders=("mmk12", "mm_eureka_k12", "k12"),
    files=("test.jsonl", "test*.parquet", "data/test*.parquet", "k12.json"),
    item=item,
    read=read,
    settle=settle,
    breakdown=("subject",),
)
