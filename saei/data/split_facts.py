"""What a source tells about a split of its own, for the data card."""

from collections.abc import Sequence
from dataclasses import dataclass

from saei.data.problem_set import ProblemSet
from saei.data.survey import PictureFacts, hash_of_levels


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that is no problem: its name, and why in a few words (to be counted) and in full."""

    row_id: str
    reason: str
    details: str = ""


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """`rows` of the source, `published` where the catalogue knows how many there should be (else 0); the `problems`
    used, without pictures where that is cheaper; `pictures` of each problem. `sampled`: the problems are generated
    without end, and `problems` and `pictures` are of the first ones.
    """

    rows: int
    problems: Sequence
    skipped: Sequence[Skipped]
    pictures: Sequence[tuple[PictureFacts, ...]]
    fingerprint: str
    published: int = 0
    sampled: bool = False


GENERATED = 8
"""Problems of a generated split that its card looks at."""


def of_generated(problems: ProblemSet, fingerprint: str) -> SplitFacts:
    """The card's facts of a split that is drawn, from its first problems."""
    first = problems[:GENERATED]
    pictures = [
        tuple(
            PictureFacts(pixels=hash_of_levels(image), mode="RGB", width=image.shape[1], height=image.shape[0])
            for image in problem.images
        )
        for problem in first
    ]
    return SplitFacts(
        rows=len(problems), problems=first, skipped=(), pictures=pictures, fingerprint=fingerprint, sampled=True
    )  # fmt: skip
