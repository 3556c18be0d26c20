"""Which settings does a sweep vary, one at a time or two together? Found from `settings.varied`, not from arm names.

A curve is a set of arms that differ in one setting only; a grid, in two. Settings that a sweep moves together are told
as one first: clean and moved completions as the group they fill, the two cuts of the band as what is kept and where,
the ball as so many attack steps. A setting without effect in an arm is no difference (the baseline without an attack is
the point 0 of a curve over moved completions); nor is one without a value.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.settings import Cell, by_arm

POINTS = 3
"""Fewest values of a setting that make a curve: two are a comparison of two arms."""
CELLS = 4
"""Fewest cells of a grid."""
KEPT, PLACE, GROUP, BALL = "share kept", "place of the share kept", "completions of a group", "ball"
CLEAN, MOVED = "rollout.n_clean", "rollout.n_view"
LOW, HIGH = "select.drop_low", "select.drop_high"
STEP, RADIUS, ITERATIONS = "view.step_size", "view.epsilon", "view.iterations"


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Arms that differ in the settings `axes` alone: one for a curve, two for a grid.

    `places` maps an arm to its values of them; `fixed` is what the arms have in common of the settings that vary
    elsewhere in the sweep.
    """

    axes: tuple[str, ...]
    places: Mapping[str, tuple[Cell, ...]]
    fixed: Mapping[str, Cell]


def _group(arms: pd.DataFrame) -> dict[str, pd.Series]:
    return {GROUP: arms[CLEAN] + arms[MOVED]}


def _band(arms: pd.DataFrame) -> dict[str, pd.Series]:
    dropped = arms[LOW] + arms[HIGH]
    # rounded: 1 - 1/3 - 1/3 and 1/3 are one share
    return {KEPT: (1 - dropped).round(9), PLACE: (arms[LOW] / dropped.where(dropped > 0)).round(9)}


def _ball(arms: pd.DataFrame) -> dict[str, pd.Series]:
    steps = (arms[RADIUS] / arms[STEP].where(arms[STEP] > 0)).round(9)
    found = steps.map(lambda count: f"of {count:g} steps", na_action="ignore").astype(object)
    found = found.mask(steps == arms[ITERATIONS], "of all steps").mask(steps == 1, "of one step")
    return {BALL: found}


TOLD_TOGETHER: Sequence[tuple[tuple[str, ...], tuple[str, ...], Callable[[pd.DataFrame], dict[str, pd.Series]]]] = (
    # settings that must all vary, those of them that the new ones replace, how
    ((CLEAN, MOVED), (CLEAN,), _group),
    ((LOW, HIGH), (LOW, HIGH), _band),
    ((STEP, ITERATIONS, RADIUS), (RADIUS,), _ball),
)


def factors(settings: pd.DataFrame) -> pd.DataFrame:
    """`settings.varied` -> a row per arm, a column per setting that varies by itself."""
    arms = by_arm(settings)
    for needed, replaced, make in TOLD_TOGETHER:
        if set(needed) <= set(arms.columns):
            told = {name: values for name, values in make(arms).items() if values.nunique() > 1}
            arms = arms.drop(columns=list(replaced)).assign(**told)
    for kept, other in itertools.combinations(list(arms.columns), 2):
        if {kept, other} <= set(arms.columns) and _tied(arms[kept], arms[other]):
            arms = arms.drop(columns=other)
    return arms


def _tied(one: pd.Series, other: pd.Series) -> bool:
    """Do two numbers determine each other throughout the sweep, at three values or more?"""
    if not (pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(other)):
        return False
    pairs = pd.DataFrame({"one": one, "other": other})
    if not pairs["one"].isna().equals(pairs["other"].isna()):
        return False
    pairs = pairs.dropna().drop_duplicates()
    return len(pairs) >= POINTS and pairs["one"].is_unique and pairs["other"].is_unique


def curves(settings: pd.DataFrame) -> list[Family]:
    """All curves of a sweep over a number, the longest first; no curve is part of another."""
    found = factors(settings)
    numbers = [name for name in found if pd.api.types.is_numeric_dtype(found[name]) and found[name].nunique() >= POINTS]
    arms = _Arms(found)
    return _largest([family for name in numbers for family in arms.families((name,), POINTS)])


def grids(settings: pd.DataFrame) -> list[Family]:
    """All grids of a sweep, the fullest first: at least two rows of at least two cells, numbers or words."""
    found = factors(settings)
    arms = _Arms(found)
    several = [name for name in found if found[name].nunique() > 1]
    families = [
        family
        for pair in itertools.combinations(several, 2)
        for family in arms.families(pair, CELLS)
        if _spans(list(family.places.values()))
    ]
    return _largest(families)


def _spans(places: Sequence[tuple[Cell, ...]]) -> bool:
    """Two values of one setting, each with the same two of the other: a cross of two curves is no grid."""
    rows: dict[Cell, set[Cell]] = {}
    for one, other in places:
        rows.setdefault(one, set()).add(other)
    return any(len(a & b) > 1 for a, b in itertools.combinations(rows.values(), 2))


def _largest(families: Sequence[Family]) -> list[Family]:
    kept: list[Family] = []
    for family in sorted(families, key=lambda family: -len(family.places)):
        inside = (set(family.places) <= set(other.places) and family.axes == other.axes for other in kept)
        if not any(inside):
            kept.append(family)
    return kept


def covering(families: Sequence[Family], most: int) -> list[Family]:
    """At most `most` of them in order, each with an arm that those before it do not show."""
    chosen: list[Family] = []
    for family in families:
        seen = {arm for other in chosen for arm in other.places}
        if len(chosen) < most and not set(family.places) <= seen:
            chosen.append(family)
    return chosen


class _Arms:
    """Arms by settings as whole numbers, -1 for none, and which arms differ where: what the families are sought in."""

    def __init__(self, found: pd.DataFrame) -> None:
        self.names = [str(arm) for arm in found.index]
        self.settings = list(found)
        self.values = [found[name].astype(object).tolist() for name in self.settings]
        codes = [pd.factorize(found[name])[0] for name in self.settings]
        self.codes = np.array(codes, dtype=int).reshape(len(codes), len(found))
        known = self.codes >= 0
        one, other = self.codes[:, :, None], self.codes[:, None, :]
        self.differs = (one != other) & known[:, :, None] & known[:, None, :]
        self.differences = self.differs.sum(axis=0)

    def families(self, axes: tuple[str, ...], fewest: int) -> list[Family]:
        """Around each arm, the arms that differ from it and from each other in `axes` alone, in plan order."""
        along = [self.settings.index(name) for name in axes]
        others = [row for row in range(len(self.settings)) if row not in along]
        usable = (self.codes[along] >= 0).all(axis=0)
        elsewhere = self.differences - self.differs[along].sum(axis=0)
        found: dict[tuple[int, ...], Family] = {}
        for first in np.flatnonzero(usable):
            near = np.flatnonzero(usable & (elsewhere[first] == 0))
            if len(near) >= fewest:
                members, fixed = self._agreeing(int(first), near.tolist(), along, others)
                if len(members) >= fewest:
                    found.setdefault(
                        tuple(members), self._family(axes, along, members, dict(zip(others, fixed, strict=True)))
                    )
        return list(found.values())

    def _agreeing(self, first: int, near: list[int], along: list[int], others: list[int]) -> tuple[list[int], list]:
        """`first` and of `near` those that agree with all taken before, one for each place; what they agree on."""
        codes, members = self.codes[others], [first]
        fixed, places = codes[:, first].copy(), {tuple(self.codes[along, first])}
        for arm in near:
            own, place = codes[:, arm], tuple(self.codes[along, arm])
            if place not in places and not ((own != fixed) & (own >= 0) & (fixed >= 0)).any():
                members.append(arm)
                places.add(place)
                fixed = np.where(fixed < 0, own, fixed)
        return sorted(members), fixed.tolist()

    def _family(self, axes: tuple[str, ...], along: list[int], members: list[int], fixed: dict[int, int]) -> Family:
        places = {self.names[arm]: tuple(self.values[row][arm] for row in along) for arm in members}
        common = {
            self.settings[row]: self.values[row][int(np.flatnonzero(self.codes[row] == code)[0])]
            for row, code in fixed.items()
            if code >= 0
        }
        return Family(axes=axes, places=places, fixed=common)
