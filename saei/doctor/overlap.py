"""Does a problem of the test or validation split stand in the training split, and how many figures do they share?"""

import hashlib

from saei.doctor.finding import Finding, failed, passed
from saei.doctor.patient import Patient
from saei.types import Problem

LOOKED_AT = 300
"""Problems of each split."""


def check_overlap(patient: Patient) -> Finding:
    data = patient.config.data
    names = (data.train_split, data.validation_split, data.test_split)
    splits = {name: [_marks(p) for p in patient.first(name, LOOKED_AT)] for name in names}
    train_figures = {figure for figure, _ in splits[data.train_split] if figure}
    train_problems = set(splits[data.train_split])
    parts, same = [], 0
    for name in names[1:]:
        shared = sum(figure in train_figures for figure, _ in splits[name])
        twice = sum(marks in train_problems for marks in splits[name])
        parts.append(f"{name}: {shared} of {len(splits[name])} with a figure of {names[0]}, {twice} the same problem")
        same += twice
    figure = f"first {LOOKED_AT} of each split; {'; '.join(parts)}"
    if same:
        return failed(
            figure,
            "what is reported may not be trained on: split by figure, or with --data.source hub "
            "--data.drop-shared-figures",
        )
    return passed(figure)


def _marks(problem: Problem) -> tuple[str, str]:
    """(figure, figure and question); no figure: ""."""
    digest = hashlib.sha256()
    for image in problem.images:
        digest.update(repr(image.shape).encode() + image.tobytes())
    figure = digest.hexdigest() if problem.images else ""
    return figure, f"{figure} {problem.question}"
