"""What a search tried and how it did: its points with their validation scores, from its ledger and its runs.

A point is an arm. Of an ordinary sweep, whose arms differ in settings, every arm is taken as one, in plan order.
Nothing here reads the test split, and nothing here is a verdict: the best of many points is good in part by luck
(`analysis.luck`), and must be confirmed by a planned sweep with seeds that the search has not seen.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import parameters
from analysis.load import SweepData
from analysis.parameters import Parameter
from analysis.stats import final_scores

LEDGER_FILE = "points.json"
COMPLETE, PRUNED, FAILED, OPEN = "complete", "pruned", "failed", "open"
FIXED = "fixed"
"""State of an arm that stands beside the points of a search and was not chosen by it."""
POINT_COLUMNS = ("number", "arm", "state", "seeds", "score", "low", "high", "samples", "why")


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """`points`: POINT_COLUMNS, a row per point in the order they were chosen, then the fixed arms (number -1).

    `score` is the mean over the `seeds` finished so far of the validation accuracy in [0, 1] after the last step, `low`
    and `high` its lowest and highest seed; `samples` the completions a problem; `why` the reason it was given up.
    `scores`: arm, seed, accuracy of every finished run. `choices`: arm and a column per parameter, numbers or texts.
    """

    points: pd.DataFrame
    scores: pd.DataFrame
    choices: pd.DataFrame
    parameters: Sequence[Parameter]
    is_search: bool

    @property
    def noun(self) -> str:
        """What a point is called to the reader."""
        return "point" if self.is_search else "arm"

    @property
    def complete(self) -> pd.DataFrame:
        """The points with all their seeds, best first."""
        found = self.points[self.points["state"] == COMPLETE]
        return found.sort_values("score", ascending=False, kind="stable")

    def slices(self) -> pd.DataFrame:
        """A row per point, seed and parameter: number, arm, state, seed, accuracy, samples, parameter, value.

        `value` is a number, for a parameter of categories the place of its category.
        """
        rows = self.scores.merge(self.points[["number", "arm", "state", "samples"]], on="arm")
        rows = rows[rows["state"] != FIXED]
        frames = []
        for found in self.parameters:
            own = self.choices[["arm"]].assign(
                parameter=found.name, value=[found.place(v) for v in self.choices[found.name]]
            )
            frames.append(rows.merge(own, on="arm"))
        empty = rows.iloc[:0].assign(parameter="", value=math.nan)
        frame = pd.concat(frames) if frames else empty
        return frame.dropna(subset=["value"]).reset_index(drop=True)


def read(data: SweepData) -> Search:
    """The search behind a sweep; an ordinary sweep is read as a search over the settings in which its arms differ.

    Raises ValueError for a damaged ledger.
    """
    scores = final_scores(data.table("problems"), data.validation_split)
    record = _record(data)
    if record is None:
        found, choices = parameters.of_sweep(data)
        points = [{"arm": arm, "state": PRUNED if arm in data.pruned else OPEN, "why": ""} for arm in data.arms]
    else:
        found, choices = parameters.of_space(record["key"]["space"], record["points"])
        points = [{"arm": p["arm"], "state": p["state"], "why": p["reason"]} for p in record["points"]]
    points = [{"number": number, **point} for number, point in enumerate(points) if point["arm"] in data.arms]
    known = {point["arm"] for point in points}
    points += [{"number": -1, "arm": arm, "state": FIXED, "why": ""} for arm in data.arms if arm not in known]
    frame = pd.DataFrame(points, columns=["number", "arm", "state", "why"])
    return Search(
        points=_scored(frame, scores, len(data.plan["seeds"])),
        scores=scores.assign(arm=scores["arm"].astype(str))[["arm", "seed", "accuracy"]],
        choices=choices,
        parameters=found,
        is_search=record is not None,
    )


def _scored(points: pd.DataFrame, scores: pd.DataFrame, planned: int) -> pd.DataFrame:
    """POINT_COLUMNS; an open point with all planned seeds is complete."""
    by_arm = scores.assign(arm=scores["arm"].astype(str)).groupby("arm")
    sums = by_arm["accuracy"].agg(seeds="count", score="mean", low="min", high="max").join(by_arm["samples"].max())
    frame = points.merge(sums, on="arm", how="left")
    frame["seeds"] = frame["seeds"].fillna(0).astype(int)
    is_whole = (frame["state"] == OPEN) & (frame["seeds"] >= max(1, planned))
    return frame.assign(state=frame["state"].where(~is_whole, COMPLETE))[list(POINT_COLUMNS)]


def _record(data: SweepData) -> dict[str, Any] | None:
    """The search of the ledger that this plan shows: one of the same launch settings whose points are its arms."""
    arms = {arm["name"]: _texts(arm.get("overrides") or {}) for arm in data.plan["arms"]}
    fits = []
    for record in _ledgers(data):
        shared = [point for point in record["points"] if arms.get(point["arm"]) == _texts(point["overrides"])]
        same_launch = _texts(record["key"].get("settings", {})) == _texts(data.plan.get("settings", {}))
        fits.append((same_launch, len(shared), {**record, "points": shared}))
    best = max(fits, key=lambda fit: fit[:2], default=None)
    return best[2] if best is not None and best[1] else None


def _ledgers(data: SweepData) -> list[dict[str, Any]]:
    records = []
    for results in data.results:
        path = Path(results) / data.name / LEDGER_FILE
        try:
            trees = json.loads(path.read_text())["searches"]
            records += [{"key": dict(tree["key"]), "points": list(map(_point, tree["points"]))} for tree in trees]
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no ledger of points ({error!r}); restore it, or move it away to see the points as "
                "ordinary arms"
            ) from error
    return records


def _point(tree: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: str(tree[name]) for name in ("arm", "state", "reason")}
    return {**texts, "choice": dict(tree["choice"]), "overrides": dict(tree["overrides"])}


def _texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as a plan writes them, which keeps a list as the text of a tuple."""
    return {name: str(tuple(value) if isinstance(value, list) else value) for name, value in settings.items()}
