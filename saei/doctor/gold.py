"""Does every gold answer count as right when it is given as the answer?"""

from saei.data import load_problems
from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
from saei.evaluate import first_problems
from saei.reward import Scorer

LOOKED_AT = 200
"""Problems of each split."""
ENOUGH = 0.98
"""Share of right golds below which a reward cannot be trusted."""


def check_gold(patient: Patient) -> Finding:
    data = patient.config.data
    parts, worst, named = [], 1.0, ""
    with Scorer(patient.config.reward) as scorer:
        for split in (data.train_split, data.validation_split, data.test_split):
            problems = first_problems(load_problems(data, split), LOOKED_AT)
            grades = scorer.grade([f"\\boxed{{{problem.answer}}}" for problem in problems], problems)
            wrong = [
                f"{problem.problem_id}: {problem.answer[:60]!r} ({grade.status})"
                for problem, grade in zip(problems, grades, strict=True)
                if not grade.accuracy
            ]
            parts.append(f"{split} {len(problems) - len(wrong)}/{len(problems)}")
            if problems and 1 - len(wrong) / len(problems) < worst:
                worst, named = 1 - len(wrong) / len(problems), f"; first {wrong[0]}"
    figure = f"right against themselves: {', '.join(parts)}{named}"
    if worst < ENOUGH:
        return failed(
            figure,
            "no completion can be right on these: mend the answers, or their type (--data.columns, answer_type); "
            "python -m saei.data lists them",
        )
    return passed(figure)
