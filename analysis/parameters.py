"""The parameters of a search: what a point chose, and from where. Of an ordinary sweep, the settings that differ."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import settings
from analysis.cells import EMPTY
from analysis.load import SweepData

RANGE = re.compile(r"(?P<low>\S+) to (?P<high>\S+?)(?P<log>, log scale)?(?P<whole>, whole numbers)?")
"""How the ledger writes a range (`sweeps.space.Range`)."""
LOG_FROM = 10.0
"""Settings of an ordinary sweep, all above 0, are told on a log scale from this ratio of highest to lowest on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """`low` to `high` with both, evenly in the logarithm with `log`; or one of `categories`, in order."""

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    categories: tuple[str, ...] = ()

    def place(self, value: Any) -> float:
        """Where a value stands on the axis: the number, or the place of its category; NaN for none."""
        if self.categories:
            return float(self.categories.index(value)) if value in self.categories else math.nan
        return math.nan if value is None else float(value)

    def scaled(self, value: Any) -> float:
        """`place` on the parameter's own scale: the logarithm to base 2 where that is even."""
        return math.log2(self.place(value)) if self.log else self.place(value)

    def text(self, value: Any) -> str:
        """A value as the table shows it."""
        if is_null(value):
            return EMPTY
        return value if isinstance(value, str) else f"{value:.3g}"


def of_space(space: Mapping[str, str], points: Sequence[Mapping[str, Any]]) -> tuple[list[Parameter], pd.DataFrame]:
    """Parameters of a search's space in the ledger's words, and the choices of its points: arm, a column each.

    Raises ValueError for words that are no range.
    """
    found = []
    for name, words in space.items():
        match = RANGE.fullmatch(words)
        if match is None:
            raise ValueError(f"range of {name}: {words!r} is not of the form '0.5 to 16, log scale, whole numbers'")
        low, high = float(match["low"]), float(match["high"])
        found.append(Parameter(name=name, low=low, high=high, log=bool(match["log"]), whole=bool(match["whole"])))
    rows = [{"arm": p["arm"], **{name: float(p["choice"][name]) for name in space}} for p in points]
    return found, pd.DataFrame(rows, columns=["arm", *space])


def of_sweep(data: SweepData) -> tuple[list[Parameter], pd.DataFrame]:
    """Parameters of an ordinary sweep, and the settings of its arms: arm, a column each.

    Settings that tell the same arms apart (`rollout.n_clean` and `rollout.n_view`) are one parameter with both names:
    nothing in the results says which of them matters.
    """
    frame = settings.by_arm(settings.varied(data)).reset_index()
    names: dict[tuple[int, ...], list[str]] = {}
    for column in frame.columns.drop("arm"):
        codes, _ = pd.factorize(_plainly(frame[column]), use_na_sentinel=False)
        names.setdefault(tuple(codes), []).append(column)
    found, choices = [], frame[["arm"]]
    for same in names.values():
        parameter, values = _told(", ".join(same), _plainly(frame[same[0]]))
        found.append(parameter)
        choices = choices.assign(**{parameter.name: values})
    return found, choices


def is_null(value: Any) -> bool:
    """Has the point no value of this parameter, because it has no effect there?"""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plainly(column: pd.Series) -> pd.Series:
    return pd.Series([_plain(value) for value in column], index=column.index, dtype=object)


def _plain(value: Any) -> float | str | None:
    """A number, a text in place of everything else, or nothing."""
    if is_null(value):
        return None
    is_number = settings.is_number(value) or isinstance(value, np.number)
    return float(value) if is_number and math.isfinite(value) else str(value)


def _told(name: str, values: pd.Series) -> tuple[Parameter, pd.Series]:
    """A parameter and its values; numbers among texts are categories too, before them."""
    known = [value for value in values if not is_null(value)]
    if any(isinstance(value, str) for value in known):
        order = sorted(set(known), key=lambda value: (isinstance(value, str), value))
        texts = {value: value if isinstance(value, str) else f"{value:g}" for value in order}
        categories = tuple(dict.fromkeys(texts.values()))
        values = pd.Series([texts.get(value) for value in values], index=values.index, dtype=object)
        return Parameter(name=name, low=0.0, high=len(categories) - 1.0, categories=categories), values
    low, high = min(known), max(known)
    whole = all(float(value).is_integer() for value in known)
    is_log = low > 0 and high / low >= LOG_FROM
    return Parameter(name=name, low=low, high=high, log=is_log, whole=whole), pd.to_numeric(values)
