"""Does every gold answer count as right when it is given as the answer?"""

from saei.data.golds import gold_against_itself
from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
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
            report = gold_against_itself(patient.first(split, LOOKED_AT), scorer)
            parts.append(f"{split} {report.right}/{report.checked}")
            if report.share < worst:
                worst, (problem_id, gold, status) = report.share, report.wrong[0]
                named = f"; first {problem_id}: {gold[:60]!r} ({status})"
    figure = f"right against themselves: {', '.join(parts)}{named}"
    if worst < ENOUGH:
        return failed(
            figure,
            "no completion can be right on these: mend the answers, or their type (--data.columns, answer_type); "
            "python -m saei.data lists them",
        )
    return passed(figure)
