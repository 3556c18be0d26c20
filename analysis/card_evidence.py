"""What the sweeps at hand say of each claim: one row per contrast, from the sweep that may speak to it.

Each contrast is a paired difference over training seeds (`stats.paired_difference`). It is judged by the p value of the
sweep's own verdict table where the sweep makes the comparison; else by Holm's adjustment over those of the claim's
contrasts that stand in no table. The card adjusts nothing further: it is a summary of verdicts, not a new experiment.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from analysis import contrasts, health, stats
from analysis.card_measures import LACKING, MEASURES
from analysis.card_sources import SOURCES, Alternatives, Contrast, Panel
from analysis.load import SweepData
from analysis.verdicts import DIVERGED_SHARE
from saei.schema import FINISHED

EVIDENCE_COLUMNS = (
    "id", "part", "contrast", "measure", "unit", "sign", "degree", "sweep", "source", "focus", "pairs", "items",
    "value", "reference", "difference", "low", "high", "sd", "p", "p_judged", "mde", "sweep_verdict", "exploratory",
    "stand_in", "diverged", "why",
)  # fmt: skip
"""`source` is the position of the sweep in the list given, -1 for none; `focus` its first arm; `why` says what is
lacking where a contrast cannot be judged; `value` and `reference` are the means over the paired seeds."""


@dataclass(kw_only=True)
class Source:
    """A sweep with what several contrasts need of it, read once."""

    data: SweepData
    number: int
    label: str
    _measured: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def measured(self, name: str) -> pd.DataFrame:
        """The measure `name` of all finished runs."""
        if name not in self._measured:
            self._measured[name] = MEASURES[name](self.data)
        return self._measured[name]

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """The sweep's own comparisons."""
        return contrasts.compared(self.data)

    @cached_property
    def diverged(self) -> dict[tuple[str, int], str]:
        """(arm, seed) of runs that went wrong."""
        return health.diverged(self.data)


def evidence(sweeps: Sequence[SweepData], ids: Sequence[str] = tuple(SOURCES)) -> pd.DataFrame:
    """EVIDENCE_COLUMNS for every contrast of every claim, or of the claims `ids`, in the order of the claims."""
    sources = [
        Source(data=data, number=number, label=label)
        for number, (data, label) in enumerate(zip(sweeps, labels(sweeps), strict=True))
    ]
    rows = []
    for claim, parts in SOURCES.items():
        if claim in ids:
            found = [
                {"part": number, **row}
                for number, alternatives in enumerate(parts)
                for row in _best(alternatives, sources)
            ]
            rows += [{"id": claim, **row} for row in _judged(found)]
    return pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS))


def labels(sweeps: Sequence[SweepData]) -> list[str]:
    """Each sweep's name, with its results folder where two have one name."""
    names = [data.name for data in sweeps]
    return [
        name if names.count(name) == 1 else f"{name} in {_place(data)}"
        for name, data in zip(names, sweeps, strict=True)
    ]


def _place(data: SweepData) -> str:
    return ", ".join(folder.name for folder in data.results) or "no folder"


def _best(alternatives: Alternatives, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The rows of the alternative with most answers, then with most paired seeds; reasons where none has any."""
    candidates = [
        (panel, _rows(panel, source)) for panel in alternatives for source in sources if source.data.name == panel.sweep
    ]
    first = alternatives[0]
    planned = any(source.data.name == first.sweep for source in sources)
    if not planned and not any(row["pairs"] for _, rows in candidates for row in rows):
        return [
            _row(contrast, first, why=f"the sweep {first.sweep} is not among these results")
            for contrast in first.contrasts
        ]

    def rank(candidate: tuple[Panel, list[dict[str, Any]]]) -> tuple[bool, bool, int, int]:
        panel, rows = candidate
        # divergence is a result: it does not send the card to another sweep
        enough = [row["pairs"] for row in rows if row["pairs"] >= stats.SEEDS_FOR_P]
        return bool(enough), not panel.stand_in, len(enough), max(row["pairs"] for row in rows)

    # max takes the first among equals: the alternatives are in order
    return max(candidates, key=rank)[1]


def _rows(panel: Panel, source: Source) -> list[dict[str, Any]]:
    return [_contrast(contrast, panel, source) for contrast in panel.contrasts]


def _contrast(contrast: Contrast, panel: Panel, source: Source) -> dict[str, Any]:
    """One contrast in one sweep."""
    data = source.data
    arms = (*contrast.arms, *contrast.against)
    known = {"source": source.number, "sweep": source.label, "focus": contrast.arms[0]}
    why = _obstacle(data, arms)
    if why:
        return _row(contrast, panel, why=why, **known)
    one = _by_seed(source.measured(panel.measure), contrast.arms)
    other = _by_seed(source.measured(contrast.base or panel.measure), contrast.against)
    shared = one.index.intersection(other.index).sort_values()
    if shared.empty:
        return _row(contrast, panel, why=_why_no_pair(source, contrast, panel), **known)
    one, other = one.loc[shared], other.loc[shared]
    if not contrast.base and (one["item_set"] != other["item_set"]).any():
        return _row(contrast, panel, why="its arms were tested on different problems", **known)
    difference = stats.paired_difference(one["value"].tolist(), other["value"].tolist())
    own = _own_verdict(contrast, panel, source)
    seeds = len(shared)
    gone = {arm: sum((arm, seed) in source.diverged for seed in shared) for arm in dict.fromkeys(arms)}
    told = [f"{arm} diverged in {count} of {seeds}" for arm, count in gone.items() if count]
    broken = any(count >= DIVERGED_SHARE * seeds for count in gone.values())
    return _row(
        contrast,
        panel,
        **known,
        pairs=seeds,
        items=int(one["items"].max()),
        value=one["value"].mean(),
        reference=other["value"].mean(),
        difference=difference.interval.mean,
        low=difference.interval.low,
        high=difference.interval.high,
        sd=difference.sd,
        p=difference.p,
        p_judged=own["p_judged"] if own else math.nan,
        # the sweep's own reckons with its other comparisons
        mde=own["mde"] if own and not math.isnan(own["mde"]) else difference.mde,
        sweep_verdict=own["verdict"] if own else "",
        exploratory=bool(data.trials.loc[data.trials["arm"].isin(arms), "exploratory"].any()),
        diverged=", ".join(told),
        why=_why_silent(seeds, ", ".join(told) if broken else ""),
    )


def _why_silent(seeds: int, broken: str) -> str:
    if seeds < stats.SEEDS_FOR_P:
        return f"{seeds} paired {'seed' if seeds == 1 else 'seeds'}, and three are needed"
    return broken


def _row(contrast: Contrast, panel: Panel, **found: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("value", "reference", "difference", "low", "high", "sd", "p", "p_judged", "mde"), math.nan)
    return {
        "contrast": contrast.label,
        "measure": panel.measure,
        "unit": panel.unit,
        "sign": panel.sign,
        "degree": contrast.degree,
        "sweep": panel.sweep,
        "source": -1,
        "focus": contrast.arms[0],
        "pairs": 0,
        "items": 0,
        **empty,
        "sweep_verdict": "",
        "exploratory": False,
        "stand_in": panel.stand_in,
        "diverged": "",
        "why": "",
        **found,
    }


def _obstacle(data: SweepData, arms: Sequence[str]) -> str:
    """Why these arms cannot be compared, whatever their runs hold; "" where they can."""
    absent = [arm for arm in dict.fromkeys(arms) if arm not in data.arms]
    if absent:
        named = " and ".join(absent)
        return f"no trial of {named} is selected" if data.selection_note else f"launched without {named}"
    dropping = [arm for arm in dict.fromkeys(arms) if arm in data.filtering]
    if dropping:
        return f"{' and '.join(dropping)} drops groups, so a step is no fair measure"
    return ""


def _why_no_pair(source: Source, contrast: Contrast, panel: Panel) -> str:
    trials = source.data.trials
    finished = trials[trials["state"] == FINISHED]
    seeds = [set(finished.loc[finished["arm"] == arm, "seed"]) for arm in (*contrast.arms, *contrast.against)]
    if not set.intersection(*seeds):
        return "no seed is finished in all its arms"
    for measure in (panel.measure, contrast.base or panel.measure):
        if source.measured(measure).empty:
            return LACKING[measure]
    return "its arms were not all measured"


def _by_seed(measured: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """Mean over `arms` of the seeds that all of them have, indexed by seed; item set -1 where theirs differ."""
    rows = measured[measured["arm"].isin(arms)]
    grouped = rows.groupby("seed")
    frame = grouped.agg(value=("value", "mean"), items=("items", "max"), count=("value", "size"))
    frame["item_set"] = grouped["item_set"].agg(lambda sets: sets.iloc[0] if sets.nunique() == 1 else -1)
    return frame[frame["count"] == len(arms)]


def _own_verdict(contrast: Contrast, panel: Panel, source: Source) -> dict[str, Any] | None:
    """The sweep's row on this very comparison: one arm against one, on the primary metric."""
    if panel.measure != "test_accuracy" or len(contrast.arms) > 1 or contrast.base or source.verdicts.empty:
        return None
    table = source.verdicts
    rows = table[(table["arm"] == contrast.arms[0]) & (table["against"] == contrast.against[0])]
    return rows.iloc[0].to_dict() if len(rows) else None


def _judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Judge the contrasts that no sweep judges as one family, and reckon what they could detect with its size."""
    free = [row for row in rows if not row["sweep_verdict"]]
    # what is not known yet counts as 1, so that no verdict changes because other runs finish
    adjusted = stats.holm([1.0 if math.isnan(row["p"]) else row["p"] for row in free])
    alpha = stats.ALPHA / max(1, len(free))  # what the smallest p must pass
    for row, p in zip(free, adjusted, strict=True):
        row["p_judged"] = math.nan if math.isnan(row["p"]) else p
        row["mde"] = stats.minimum_detectable(row["sd"], row["pairs"], alpha=alpha)
    return rows
