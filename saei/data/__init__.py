"""Where problems come from: a source is one file with three functions, and only this table names them all.

A source gives `load(data, split) -> ProblemSet`, `fingerprint(data) -> str` (sha256 in hex of what determines its
problems) and `shifted(data) -> tuple of split names` (test sets that stand for other domains). One that reads files
also gives what its data card says: `split_facts(data, split)` and `origin(data)`; generated sources need neither.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from saei.config import DataConfig
from saei.data import digits, hub, local, shapes
from saei.data.problem_set import ProblemSet
from saei.data.split_facts import SplitFacts, of_generated

__all__ = [
    "SOURCES", "ProblemSet", "Source", "fingerprint", "load_problems", "origin", "shifted_splits", "split_facts",
]  # fmt: skip


class Source(NamedTuple):
    """The functions of a problem source."""

    load: Callable[[DataConfig, str], ProblemSet]
    fingerprint: Callable[[DataConfig], str]
    shifted: Callable[[DataConfig], tuple[str, ...]]
    split_facts: Callable[[DataConfig, str], SplitFacts] | None = None
    origin: Callable[[DataConfig], dict[str, str]] | None = None


SOURCES: dict[str, Source] = {
    "digits": Source(digits.load, digits.fingerprint, digits.shifted),
    "shapes": Source(shapes.load, shapes.fingerprint, shapes.shifted),
    "local": Source(local.load, local.fingerprint, local.shifted, local.split_facts),
    "hub": Source(hub.load, hub.fingerprint, hub.shifted, hub.split_facts, hub.origin),
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


def split_facts(data: DataConfig, split: str) -> SplitFacts:
    """What the data card says of `split`. Raises ValueError as `load_problems` does."""
    source = source_of(data)
    if source.split_facts is not None:
        return source.split_facts(data, split)
    stamp = hashlib.sha256(f"{split}\0{source.fingerprint(data)}".encode()).hexdigest()
    return of_generated(source.load(data, split), stamp)


def origin(data: DataConfig) -> dict[str, str]:
    """Where the set comes from: licence, address, commit, as far as the source knows."""
    found = source_of(data).origin
    return {} if found is None else found(data)
