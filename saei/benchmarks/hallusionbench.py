"""HallusionBench (lmms-lab/HallusionBench): yes or no, scored per question, per pair of questions and per figure.

aAcc is the mean over questions; qAcc the share of questions that are right on every figure of their set; fAcc the share
of figures all of whose questions are right, where the questions without a picture (VS, figure 0) belong to no figure.
The official scorer asks GPT-4 whether the prediction fits the answer; here yes and no are read by rule (VLMEvalKit's),
and only what says both or neither is left to the judge.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from saei.benchmarks.item import Ask, Benchmark, Item, Reading, Settled
from saei.benchmarks.reading import yes_or_no
from saei.graders.extract import boxed_answer

NAMES = {"1": "yes", "0": "no"}
UNCLEAR = "unclear"
JUDGEMENT = """\
Compare a prediction with the reference answer of a question. Reply with one word: correct if the prediction does not \
conflict with the reference answer, incorrect if it does, unclear if the prediction does not tell.

Question: {question}
Reference answer: {reference}
Prediction: {prediction}

Your word:"""


def item(row: Mapping[str, Any], style: str) -> Item:
    """An item of a hub row (all columns are strings). `noisyrollout` asks for a boxed yes or no."""
    place = (str(row["category"]), str(row["subcategory"]), str(row["set_id"]))
    figure, question = str(row["figure_id"]), str(row["question"])
    prompt = question
    if style == "noisyrollout":  # "You", as published
        prompt = f"{question.partition('?')[0]}? You final answer can only be \\boxed{{yes}} or \\boxed{{no}}."
    return Item(
        benchmark="hallusionbench",
        item_id="_".join((*place, figure, str(row["question_id"]))),
        prompt=prompt,
        question=question,
        gold=str(row["gt_answer"]),
        cluster="_".join(place),
        facts={
            "category": place[0],
            "subcategory": f"{place[0]} {place[1]}",
            "visual_input": {"0": "no picture", "1": "easy", "2": "hard"}.get(str(row["visual_input"]), ""),
        },
        rule={
            "question": "_".join((*place, str(row["question_id"]))),
            "figure": "" if place[0] == "VS" and figure == "0" else "_".join((*place, figure)),
            "reference": str(row.get("gt_answer_details") or NAMES.get(str(row["gt_answer"]), "")),
            "blind": place[0] == "VS" and str(row["visual_input"]) == "0",
        },
    )


def read(output: str, item: Item) -> Reading:
    """`yes` or `no`: of the last box, else of the whole text."""
    box = boxed_answer(output)
    answer = yes_or_no(box) if box is not None else None
    if answer is not None:
        return Reading(answer, "boxed")
    return Reading(yes_or_no(output), "yes or no")


def settle(answer: str, item: Item) -> Settled:
    """Right where it is the gold."""
    return Settled(answer == NAMES.get(item.gold))


def judge(output: str, item: Item, ask: Ask) -> tuple[Reading, bool | None]:
    """correct, incorrect or unclear; without a picture, unclear is right for a VS question, as official."""
    reply = ask(JUDGEMENT.format(question=item.question, reference=item.rule["reference"], prediction=output)).lower()
    word = "incorrect" if "incorrect" in reply else "correct" if "correct" in reply else UNCLEAR
    return Reading(word, "judge"), word == "correct" or (word == UNCLEAR and item.rule["blind"])


def groups(items: Sequence[Item], right: Mapping[str, bool]) -> Mapping[str, Mapping[tuple[str, str], float]]:
    """qAcc and fAcc: {name: {(cluster, unit): 1 where all its questions are right}}.

    Where questions without a picture are asked, aAcc and qAcc also over those with one, as NoisyRollout and the split
    `image` have it (951 questions, 455 pairs).
    """
    scores: dict[str, dict[tuple[str, str], float]] = {"qAcc": {}, "fAcc": {}}
    pictured = [one for one in items if one.rule["figure"]]
    some = pictured if len(pictured) < len(items) else []
    for names, chosen in ((("qAcc", "fAcc", ""), items), (("qAcc, pictured", "", "aAcc, pictured"), some)):
        for one in chosen:
            for name, unit in zip(names, (one.rule["question"], one.rule["figure"], one.item_id), strict=True):
                if name and unit:
                    of_units, key = scores.setdefault(name, {}), (one.cluster, unit)
                    of_units[key] = min(of_units.get(key, 1.0), float(right[one.item_id]))
    return scores


HALLUSIONBENCH = Benchmark(
    title="HallusionBench",
    hub="lmms-lab/HallusionBench",
    config="default",
    splits=("image", "non_image"),
    rows=1129,
    folders=("hallusionbench", "HallusionBench", "hallubench"),
    files=("HallusionBench.json", "image*.parquet"),
    item=item,
    read=read,
    settle=settle,
    breakdown=("category", "subcategory", "visual_input"),
    groups=groups,
    judge=judge,
    overall_name="aAcc",
)
