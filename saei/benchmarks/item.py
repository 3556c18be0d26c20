"""What the benchmarks share: one question with its answer and facts, what was read from an output, and the verdict.

No torch: outputs of other models can be graded without a policy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Fact = str | tuple[str, ...]
"""A fact of an item by which scores are broken down; several where it has several (MathVista's skills)."""
Picture = Path | bytes
"""Where the bytes of a picture are: a file, or themselves."""
Task = tuple[str, str]
"""(answer, gold) for a rule of the grader processes."""

UNDECIDED = "undecided"
JUDGE = "judge"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question of a benchmark.

    `prompt` is the whole text of the user turn. `cluster` names items whose results are not independent (a problem in
    several versions); empty: the picture. `rule` holds what only the official scoring needs (precision, kinds).
    """

    benchmark: str
    item_id: str
    prompt: str
    gold: str
    question: str = ""
    choices: tuple[str, ...] = ()
    cluster: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)


class Reading(NamedTuple):
    """What a rule, or the judge, read from an output; `answer` None: it cannot tell what the answer is."""

    answer: str | None
    by: str


class Settled(NamedTuple):
    """Whether an answer is right: known at once, or `tasks` of which one must be equal by `rule` in a grader process.

    `right` None without tasks: these rules cannot tell; nor can they where no task is equal and one has a status of
    `unsure`.
    """

    right: bool | None
    rule: str = ""
    tasks: tuple[Task, ...] = ()
    unsure: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`parse` is the answer that was graded; `decided_by` a rule's name, `judge`, or `undecided` (counted wrong)."""

    right: bool
    parse: str
    decided_by: str
    status: str = "ok"
    judge_reply: str = ""


Ask = Callable[[str], str]
"""The judge: a prompt -> its reply."""


class Benchmark(NamedTuple):
    """A benchmark is one file with these functions, and a row of `saei.benchmarks.BENCHMARKS`.

    `item(row, style)` makes an Item of a row with the columns of the hub; `style` names the prompt. `read` finds the
    answer in an output; `settle` says whether it is right. `judge`, where the official scoring asks a language model,
    gives what that read and, where it says so itself, whether it is right. `breakdown` names facts to score by.
    `overall` says which items are in the overall score; `groups` gives further scores of items and what is right of
    them, name -> {(cluster, unit): value}. `files` are patterns of the data file in a local folder, the first that is
    there counts.
    """

    title: str
    hub: str
    config: str
    splits: tuple[str, ...]
    rows: int
    folders: tuple[str, ...]
    files: tuple[str, ...]
    item: Callable[[Mapping[str, Any], str], Item]
    read: Callable[[str, Item], Reading]
    settle: Callable[[str, Item], Settled]
    breakdown: tuple[str, ...]
    overall: Callable[[Item], bool] = lambda item: True
    overall_name: str = "overall"
    groups: Callable[[Sequence[Item], Mapping[str, bool]], Mapping[str, Mapping[tuple[str, str], float]]] = (
        lambda items, right: {}
    )
    judge: Callable[[str, Item, Ask], tuple[Reading, bool | None]] | None = None
