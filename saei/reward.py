r"""Rewards: accuracy and format of a completion, 0.9 and 0.1 by default (EasyR1's math reward).

The answer is the content of the last `\boxed{}`. How it is compared is the problem's `answer_type`: numbers, words and
choices exactly and in place, mathematics by math-verify in worker processes. Completions are hostile input: an answer
that cannot be graded gets accuracy 0 and a status that is counted, an error in our own code stops the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from saei.config import RewardConfig
from saei.graders.exact import same_choice, same_number, same_text
from saei.graders.extract import boxed_answer, has_format
from saei.graders.latex import settled
from saei.graders.pool import GraderBug, Outcome, Task, WorkerPool
from saei.types import Problem

GRADE_OK = "ok"
NO_ANSWER = "no_answer"  # no closed, filled \boxed{}
UNPARSED = "unparsed"  # the answer is no mathematics
GOLD_UNPARSED = "gold_unparsed"  # the gold answer is no mathematics: only an equal string would have been right
TOO_LONG = "too_long"
TIMEOUT = "timeout"
CRASH = "crash"  # memory, recursion, or the death of the grader process
GRADE_FAILURES = frozenset({TOO_LONG, TIMEOUT, CRASH})
"""Statuses that say nothing about the answer: a run with too many of them stops."""

LONGEST_ANSWER = 2000  # characters; the longest gold of the data sets has 941
_CACHED = 100_000

__all__ = ["GRADE_FAILURES", "GRADE_OK", "Grade", "GraderBug", "GraderFailure", "Scorer", "check_failures"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """`accuracy` and `format` are 0 or 1; `answer` is what was graded, empty where there was none."""

    accuracy: float
    format: float
    status: str
    answer: str


class GraderFailure(RuntimeError):
    """Too many completions of a step could not be graded."""


def check_failures(grades: Sequence[Grade], texts: Sequence[str], max_share: float) -> None:
    """Raise GraderFailure when the share of grader failures is over `max_share`, showing the first such completion."""
    failed = [(grade, text) for grade, text in zip(grades, texts, strict=True) if grade.status in GRADE_FAILURES]
    if len(failed) <= max_share * len(grades):
        return
    grade, text = failed[0]
    raise GraderFailure(
        f"{len(failed)} of {len(grades)} completions could not be graded (reward.max_failure_share is {max_share:g}). "
        f"The first, with grade_status {grade.status}: answer {_shown(grade.answer)}, completion {_shown(text)}. "
        "Raise reward.timeout_s if the answers are sound, reward.max_failure_share if this is expected."
    )


def _shown(text: str, limit: int = 200) -> str:
    """`text` in escapes (it may hold terminal codes), both ends of it when it is long."""
    kept = text if len(text) <= 2 * limit else f"{text[:limit]} ... {text[-limit:]}"
    return ascii(kept) + ("" if kept is text else f" ({len(text)} characters)")


def _grade_number(answer: str, problem: Problem) -> bool | None:
    return same_number(answer, problem.answer)


def _grade_text(answer: str, problem: Problem) -> bool | None:
    return same_text(answer, problem.answer)


def _grade_choice(answer: str, problem: Problem) -> bool | None:
    return same_choice(answer, problem.answer, problem.choices)


def _grade_math(answer: str, problem: Problem) -> bool | None:
    return settled(answer, problem.answer)


GRADERS: dict[str, Callable[[str, Problem], bool | None]] = {
    "number": _grade_number,
    "text": _grade_text,
    "choice": _grade_choice,
    "math": _grade_math,
}
"""`answer_type` -> whether an answer is right; None: only mathematics can tell."""


def _in_place(answer: str | None, problem: Problem) -> Outcome | None:
    """What can be said without a worker; None: nothing."""
    if answer is None:
        return False, NO_ANSWER
    if len(answer) > LONGEST_ANSWER:
        return False, TOO_LONG
    right = GRADERS[problem.answer_type](answer, problem)
    return None if right is None else (right, GRADE_OK)


class Scorer:
    """Grades completions; a context manager that owns the grader processes (none until the first mathematics)."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.pool = WorkerPool(config.workers, config.timeout_s)
        self._known: dict[Task, Outcome] = {}

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.close()

    def grade(self, texts: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        """The grade of each completion for its problem. Raises GraderBug for an error of the grader itself."""
        answers = [boxed_answer(text) for text in texts]
        found = [_in_place(answer, problem) for answer, problem in zip(answers, problems, strict=True)]
        tasks = [(answer or "", problem.answer) for answer, problem in zip(answers, problems, strict=True)]
        by_workers = self._compare([task for task, outcome in zip(tasks, found, strict=True) if outcome is None])
        grades: list[Grade] = []
        for text, task, outcome in zip(texts, tasks, found, strict=True):
            right, status = by_workers[task] if outcome is None else outcome
            grades.append(Grade(accuracy=float(right), format=float(has_format(text)), status=status, answer=task[0]))
        return grades

    def _compare(self, tasks: Sequence[Task]) -> dict[Task, Outcome]:
        """Each different task once; sound outcomes are remembered, failures are not (the machine may be busy)."""
        outcomes = {task: self._known[task] for task in tasks if task in self._known}
        new = [task for task in dict.fromkeys(tasks) if task not in outcomes]
        if new:
            outcomes |= zip(new, self.pool.compare(new), strict=True)
        if len(self._known) > _CACHED:
            self._known.clear()
        self._known |= {task: outcomes[task] for task in new if outcomes[task][1] not in GRADE_FAILURES}
        return outcomes

    def reward(self, grade: Grade) -> float:
        """The weighted sum of accuracy and format."""
        return self.config.accuracy_weight * grade.accuracy + self.config.format_weight * grade.format
