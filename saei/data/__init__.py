"""Where problems come from: a source is one file with three functions, and only this table names them all.

A source gives `load(data, split) -> ProblemSet`, `fingerprint(data) -> str` (sha256 in hex of what determines its
problems) and `shifted(data) -> tuple of split names` (test sets that stand for other domains).
"""

from collections.abc import Callable
from typing import NamedTuple

from saei.config import DataConfig
from saei.data import digits, hub, local, shapes
from saei.data.problem_set import ProblemSet

__all__ = ["SOURCES", "ProblemSet", "Source", "fingerprint", "load_problems", "shifted_splits"]


class Source(NamedTuple):
    """The three functions of a problem source."""

    load: Callable[[DataConfig, str], ProblemSet]
    fingerprint: Callable[[DataConfig], str]
    shifted: Callable[[DataConfig], tuple[str, ...]]


SOURCES: dict[str, Source] = {
    "digits": Source(digits.load, digits.fingerprint, digits.shifted),
    "shapes": Source(shapes.load, shapes.fingerprint, shapes.shifted),
    "local": Source(local.load, local.fingerprint, local.shifted),
    "hub": Source(hub.load, hub.fingerprint, hub.shifted),
}


def source_of(data: DataConfig) -> Source:
    """The source that `data.source` names; raises ValueError on an unknown one."""
    if data.source not in SOURCES:
        raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, got {data.source!r}")
    return SOURCES[data.source]


def load_problems(data: DataConfig, split: str) -> ProblemSet:
    """The problems of `split`, lazily. Raises ValueError on an unknown split or a folder that cannot be read."""
    return source_of(data).load(data, split)


def fingerprint(data: DataConfig) -> str:
    """sha256 (hex) over what determines the problems of `data`; equal fingerprints mean equal problems."""
    return source_of(data).fingerprint(data)


def shifted_splits(data: DataConfig) -> tuple[str, ...]:
    """`data.shifted_splits` where given, else every shifted test set of the source."""
    return source_of(data).shifted(data) if data.shifted_splits is None else tuple(data.shifted_splits)
