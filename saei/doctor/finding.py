"""What a check says: passed, failed or not run, the figure it saw, and what to do."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "fail", "not run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """`figure`: what was seen, in numbers, or why nothing was. `cure`: of a failure, what to change."""

    check: str = ""
    status: Status
    figure: str
    cure: str = ""


class NotHere(Exception):
    """What a check needs is not there; its words say why. The check is then not run."""


def passed(figure: str) -> Finding:
    return Finding(status="pass", figure=figure)


def failed(figure: str, cure: str) -> Finding:
    return Finding(status="fail", figure=figure, cure=cure)


def not_run(reason: str) -> Finding:
    return Finding(status="not run", figure=reason)
