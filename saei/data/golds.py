r"""Gold answers graded against themselves: what no completion could get right must be known before a run, not after.

A gold that the grader cannot read as mathematics is right only when it is repeated word for word. (MM-Eureka's reward
gives 1.0 to any answer there; ours gives 0.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saei.data.problem_set import ProblemSet
from saei.graders.exact import canonical_number
from saei.graders.latex import is_prose, parts, tidy
from saei.reward import GOLD_UNPARSED, Scorer
from saei.types import Problem

SHOWN = 20
_SOMETHING_ELSE = r"q_{7}"
"""An answer that equals no gold by spelling, so that the gold has to be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldReport:
    """Of `checked` golds `right` are equal to themselves; `unparsed` mathematics cannot be read by the grader, `prose`
    is compared as words. `wrong` and `unread` name the first ones: (problem_id, gold, status).
    """

    checked: int
    right: int
    unparsed: int
    prose: int
    wrong: tuple[tuple[str, str, str], ...]
    unread: tuple[tuple[str, str, str], ...]

    @property
    def share(self) -> float:
        """Share of the golds that are right against themselves; 1 for none."""
        return self.right / self.checked if self.checked else 1.0


def gold_against_itself(problems: Sequence[Problem], scorer: Scorer) -> GoldReport:
    """Grade every gold as if a completion had boxed it, and let the grader read every gold that is mathematics.

    Each different gold is read once. Pictures are not asked for. Raises GraderBug as `Scorer.grade` does.
    """
    asked = list(problems.bare() if isinstance(problems, ProblemSet) else problems)
    grades = scorer.grade([f"\\boxed{{{problem.answer}}}" for problem in asked], asked)
    wrong = [
        (problem.problem_id, problem.answer, grade.status)
        for problem, grade in zip(asked, grades, strict=True)
        if not grade.accuracy
    ]
    pieces = [
        (problem, part)
        for problem in asked
        if problem.answer_type == "math"
        for part in parts(problem.answer) or [problem.answer]
        if canonical_number(tidy(part)) is None
    ]
    prose = {problem.problem_id for problem, part in pieces if is_prose(part)}
    to_read = [(problem, part) for problem, part in pieces if not is_prose(part)]
    readings = scorer.grade(
        [f"\\boxed{{{_SOMETHING_ELSE}}}"] * len(to_read), [replace(problem, answer=part) for problem, part in to_read]
    )
    unread = {
        problem.problem_id: (problem.problem_id, problem.answer, grade.status)
        for (problem, _), grade in zip(to_read, readings, strict=True)
        if grade.status == GOLD_UNPARSED
    }
    return GoldReport(
        checked=len(asked),
        right=len(asked) - len(wrong),
        unparsed=len(unread),
        prose=len(prose),
        wrong=tuple(wrong[:SHOWN]),
        unread=tuple(unread.values())[:SHOWN],
    )
