"""Do our rules give the verdicts of the official scorers? Held against published outputs that carry them.

    python -m saei.benchmarks.agreement --data DIR

DIR holds `model_outputs/*.jsonl` and `mathvision/testmini.jsonl`. A row of the table is one comparison of one file;
every disagreement is listed with its reason, from `disagreements.toml`. Exit code 1 where one has no reason.
"""

import json
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saei.benchmarks import hallusionbench, mathvision, mathvista, tagged
from saei.benchmarks.decide import decide
from saei.benchmarks.item import UNDECIDED, Item, Verdict
from saei.cli import bad_input, checked_command_line, run_main
from saei.graders.pool import WorkerPool

REASONS = Path(__file__).with_name("disagreements.toml")
TAGGED = mathvista.MATHVISTA._replace(read=tagged.read, settle=tagged.settle, judge=None, title="R1-V")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementConfig:
    """Compare our verdicts with those of the official scorers on published model outputs."""

    data: str
    """Folder with model_outputs/ and mathvision/."""
    timeout_s: float = 5.0
    """Seconds for one comparison of mathematics."""


class Case(NamedTuple):
    """One output: what the official scorer says of it, and what we say. None: it says nothing."""

    case_id: str
    text: str
    gold: str
    official: str | None
    ours: str | None
    parse: str


class Comparison(NamedTuple):
    """The cases of one comparison; `name` is that of the file and of what is compared."""

    name: str
    what: str
    scorer: str
    cases: Sequence[Case]

    @property
    def disagreements(self) -> list[Case]:
        return [case for case in self.cases if None not in (case.official, case.ours) and case.official != case.ours]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Rows; rows with an official verdict that agree, disagree, and that our rules leave undecided."""
        compared = [case for case in self.cases if case.official is not None]
        undecided = sum(case.ours is None for case in compared)
        return len(self.cases), len(compared) - undecided - len(self.disagreements), len(self.disagreements), undecided


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    file = data / "model_outputs" / f"{name}.jsonl"
    if not file.is_file():
        raise ValueError(f"--data {data}: there is no {file}; take the folder that holds model_outputs/")
    return [json.loads(line) for line in file.open(encoding="utf-8")]


def _verdict_word(verdict: Verdict) -> str | None:
    return None if verdict.decided_by == UNDECIDED else _word(verdict.right)


def _word(right: bool) -> str:
    return "right" if right else "wrong"


def mathvision_cases(name: str, data: Path, pool: WorkerPool) -> list[Comparison]:
    """The answer that is read from every output, and the verdict where the gold is at hand."""
    rows = _rows(data, name)
    with (data / "mathvision" / "testmini.jsonl").open(encoding="utf-8") as lines:
        golds = {
            row["id"]: mathvision.item(row, "official") for row in (json.loads(line)["original"] for line in lines)
        }
    unknown = Item(benchmark="mathvision", item_id="", prompt="", gold="")
    answers = [mathvision.read(row["response"], unknown).answer or "" for row in rows]
    read = [
        Case(row["id"], row["response"], "", row["model_answer"], answer, answer)
        for row, answer in zip(rows, answers, strict=True)
    ]
    graded = [row for row in rows if row["id"] in golds]
    items = [golds[row["id"]] for row in graded]
    verdicts = decide(mathvision.MATHVISION, [row["response"] for row in graded], items, pool)
    judged = [
        Case(row["id"], row["response"], item.gold, _word(row["correct"]), _verdict_word(verdict), verdict.parse)
        for row, item, verdict in zip(graded, items, verdicts, strict=True)
    ]
    return [
        Comparison(name, "answer read", "rules", read),
        Comparison(name, "verdict", "rules", judged),
    ]


def mathvista_cases(name: str, data: Path, pool: WorkerPool) -> list[Comparison]:
    """The official rules on what GPT-4 extracted, and our rules on the response itself."""
    rows = _rows(data, name)
    items = [mathvista.item(row, "official") for row in rows]
    extracted = []
    for row, item in zip(rows, items, strict=True):
        found = mathvista.prediction(row["extraction"], item)
        extracted.append(Case(row["pid"], row["extraction"], item.gold, str(row["prediction"]), str(found), str(found)))
    verdicts = decide(mathvista.MATHVISTA, [row["response"] for row in rows], items, pool)
    answered = [
        Case(row["pid"], row["response"], item.gold, _word(row["true_false"]), _verdict_word(verdict), verdict.parse)
        for row, item, verdict in zip(rows, items, verdicts, strict=True)
    ]
    return [
        Comparison(name, "prediction from the extraction", "rules", extracted),
        Comparison(name, "verdict from the response", "GPT-4, then rules", answered),
    ]


def tagged_cases(name: str, data: Path, pool: WorkerPool) -> list[Comparison]:
    """R1-V's verdicts (an early math-verify on the whole output, or an integer), ours on what stands in the tags."""
    rows = _rows(data, name)
    items = [
        Item(benchmark="r1v", item_id=str(number), prompt="", gold=str(row["ground_truth"]))
        for number, row in enumerate(rows)
    ]
    verdicts = decide(TAGGED, [row["model_output"] for row in rows], items, pool)
    cases = []
    for row, item, verdict in zip(rows, items, verdicts, strict=True):
        right = row.get("is_correct", str(row["extracted_answer"]) == item.gold)
        cases.append(
            Case(item.item_id, row["model_output"], item.gold, _word(right), _verdict_word(verdict), verdict.parse)
        )
    return [Comparison(name, "verdict", "rules", cases)]


def hallusionbench_cases(name: str, data: Path, pool: WorkerPool) -> list[Comparison]:
    """The published sample has no verdicts: it tells how many answers the rule reads."""
    file = data / "model_outputs" / f"{name}.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    nothing = Item(benchmark="hallusionbench", item_id="", prompt="", gold="")
    cases = []
    for number, row in enumerate(rows):
        answer = hallusionbench.read(row["model_prediction"], nothing).answer
        cases.append(Case(str(number), row["model_prediction"], row["gt_answer_details"], None, answer, answer or ""))
    return [Comparison(name, "yes or no read", "none published", cases)]


SOURCES: dict[str, Callable[[str, Path, WorkerPool], list[Comparison]]] = {
    "mathvision_gemini_pro_cot": mathvision_cases,
    "mathvision_qwen_vl_max_cot": mathvision_cases,
    "mathvista_bard": mathvista_cases,
    "mathvista_llava": mathvista_cases,
    "geoqa_r1v_grpo_2epochs": tagged_cases,
    "geoqa_r1v_instruct": tagged_cases,
    "superclevr_count_r1v_grpo100": tagged_cases,
    "HallusionBench_result_sample": hallusionbench_cases,
}


def reasons() -> dict[str, dict[str, str]]:
    """File -> {case id: why we disagree}."""
    return tomllib.loads(REASONS.read_text(encoding="utf-8"))


def compared(data: Path, timeout_s: float = 5.0) -> list[Comparison]:
    """All comparisons on the outputs in `data`. Raises ValueError where a file is not there."""
    pool = WorkerPool(1, timeout_s)
    try:
        return [one for name, cases in SOURCES.items() for one in cases(name, data, pool)]
    finally:
        pool.close()


def unexplained(comparisons: Sequence[Comparison]) -> list[str]:
    """The disagreements without a reason, as `file: id`."""
    known = reasons()
    return [
        f"{comparison.name}: {case.case_id}"
        for comparison in comparisons
        for case in comparison.disagreements
        if case.case_id not in known.get(comparison.name, {})
    ]


def show(comparisons: Sequence[Comparison], console: Console) -> None:
    """The table of counts, then every disagreement with its reason."""
    table = Table("outputs", "compared", "official scorer", box=None)
    for heading in ("rows", "agree", "disagree", "undecided", "agreement, %"):
        table.add_column(heading, justify="right")
    for one in comparisons:
        rows, agree, disagree, undecided = one.counts
        if agree + disagree == 0:
            undecided = sum(case.ours is None for case in one.cases)
        share = f"{100 * agree / (agree + disagree):.1f}" if agree + disagree else "-"
        table.add_row(one.name, one.what, one.scorer, *map(str, (rows, agree, disagree, undecided)), share)
    console.print(table)
    known = reasons()
    for one in comparisons:
        for case in one.disagreements:
            reason = known.get(one.name, {}).get(case.case_id, "NOT EXPLAINED")
            console.print(f"\n{one.name} {case.case_id}: official {case.official}, ours {case.ours}", style="bold")
            shown = f"gold {case.gold!a}, we read {case.parse[:80]!a}, output ... {case.text[-160:]!a}"
            console.print(escape(shown), soft_wrap=True)
            console.print(escape(f"reason: {reason}"), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    settings = checked_command_line(AgreementConfig, arguments, prog="python -m saei.benchmarks.agreement")
    with bad_input():
        comparisons = compared(Path(settings.data).expanduser(), settings.timeout_s)
    show(comparisons, Console(width=None if sys.stdout.isatty() else 130))
    missing = unexplained(comparisons)
    if missing:
        print(f"{len(missing)} disagreements have no reason in {REASONS.name}, first {missing[0]}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
