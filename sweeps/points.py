"""The ledger of a search, `results/<search>/points.json`: what was decided to be tried, and why something was given up.

A point is written here, at once and whole, before its first trial starts; the Optuna study is made from the ledger and
the run directories, never the other way round. Launches with other settings, and definitions with another space, are
other searches in the same file. No Optuna, no torch.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from saei.atomic import write_json
from saei.cli import BadInput
from saei.config import typed_value
from sweeps.definition import Sweep
from sweeps.locks import hold

LEDGER_FILE = "points.json"
OPEN, PRUNED, FAILED = "open", "pruned", "failed"


@dataclass(kw_only=True, slots=True)
class Point:
    """A point of a search, which is an arm of its sweep.

    `choice`: as Optuna names it; `overrides`: the settings it stands for, as JSON; `runner`: lock file of the runner
    that sees to it. `state`: OPEN until given up: PRUNED for good, FAILED until another launch. That an open point is
    complete is said by its run directories.
    """

    arm: str
    choice: dict[str, float]
    overrides: dict[str, Any]
    sampler: str
    runner: str = ""
    state: str = OPEN
    reason: str = ""
    asked: float = field(default_factory=time.time)


@dataclass(kw_only=True, slots=True)
class Record:
    """One search: `key` says which launch settings and which space; `number` is its place in the ledger."""

    key: dict[str, Any]
    number: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    points: list[Point] = field(default_factory=list)

    def point(self, arm: str) -> Point | None:
        return next((point for point in self.points if point.arm == arm), None)


class Ledger:
    """The points of the search `name` with these launch settings."""

    def __init__(self, folder: Path, sweep: Sweep, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = _key(sweep, settings)

    def read(self) -> Record:
        """The search as it is on disk now, without points where it is not there. Raises BadInput for a damaged file."""
        return self._find(self._load())

    @contextmanager
    def changing(self) -> Iterator[Record]:
        """The record, which no other runner may change meanwhile; new or changed, it is written as the block ends."""
        with hold(self.folder / ".points.lock", wait=True):
            records = self._load()
            record = self._find(records)
            before = asdict(record)
            yield record
            if asdict(record) != before or record.number == len(records):
                self._save([*records[: record.number], record, *records[record.number + 1 :]])

    def _find(self, records: list[Record]) -> Record:
        found = next((record for record in records if record.key == self._key), None)
        return found or Record(key=self._key, number=len(records))

    def _load(self) -> list[Record]:
        path = self.folder / LEDGER_FILE
        try:
            trees = json.loads(path.read_text())["searches"]
            return [Record(**{**tree, "points": [Point(**point) for point in tree["points"]]}) for tree in trees]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"{path} is no ledger of points ({error}): restore it, or move it away and begin a new search, which "
                "finds the finished runs of points that it chooses again"
            ) from error

    def _save(self, records: list[Record]) -> None:
        write_json(self.folder / LEDGER_FILE, {"searches": [asdict(record) for record in records]})


def arm_name(number: int) -> str:
    """p000, p001, ..."""
    return f"p{number:03d}"


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON types; fractions as "1/3"."""
    return {name: str(value) if isinstance(value, Fraction) else value for name, value in settings.items()}


def typed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `plain`. Raises ValueError for a setting that is not, or no longer, there."""
    return {name: _typed(name, json.dumps(value)) for name, value in overrides.items()}


@lru_cache(maxsize=4096)
def _typed(name: str, text: str) -> Any:  # a search asks for its points' settings again and again
    return typed_value(name, json.loads(text))


def with_points(sweep: Sweep, record: Record) -> Sweep:
    """The sweep with the points as arms, which only `--only` launches by itself."""
    arms = {point.arm: typed(point.overrides) for point in record.points}
    return replace(sweep, arms={**sweep.arms, **arms}, on_request=(*sweep.on_request, *arms))


def _key(sweep: Sweep, settings: Mapping[str, Any]) -> dict[str, Any]:
    assert sweep.space is not None, "only a sweep with a space has points"
    tree = {"space": sweep.space.describe(), "base": plain(sweep.base), "settings": plain(settings)}
    return json.loads(json.dumps(tree))
