"""The tables of a search: its points, and how many are in which state."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import pandas as pd

from analysis import cells
from analysis.search import COMPLETE, FIXED, Search

MOST_COLUMNS = 8
"""Parameters that have a column of their own."""


def points_table(search: Search) -> pd.DataFrame:
    """Every point: complete ones best first, then the others in the order they were chosen, then the fixed arms."""
    noun = search.noun
    if search.points["seeds"].sum() == 0:
        return pd.DataFrame({noun: ["none yet: no run has finished"]})
    samples = int(search.points["samples"].max())
    rest = search.points[search.points["state"] != COMPLETE]
    rest = pd.concat([rest[rest["state"] != FIXED], rest[rest["state"] == FIXED]])
    rows = []
    for row in pd.concat([search.complete, rest]).itertuples():
        spread = f" ({cells.percent(row.low)} to {cells.percent(row.high)})" if row.seeds > 1 else ""
        rows.append(
            {
                noun: row.arm,
                "state": row.state,
                f"validation, mean@{samples}": cells.percent(row.score) + spread,
                "seeds": row.seeds,
                **_chosen(search, row.arm),
                "why": row.why or cells.EMPTY,
            }
        )
    return pd.DataFrame(rows)


def _chosen(search: Search, arm: str) -> dict[str, str]:
    """Cells that say what a point chose: one per parameter, or of many parameters one with what sets it apart."""
    choices = search.choices.set_index("arm")
    own = choices.loc[arm] if arm in choices.index else {}
    texts = {one.name: one.text(own.get(one.name)) for one in search.parameters}
    if len(texts) <= MOST_COLUMNS:
        return texts
    usual = {one.name: one.text(choices[one.name].mode(dropna=False).iloc[0]) for one in search.parameters}
    apart = [f"{name} {text}" for name, text in texts.items() if text not in (usual[name], cells.EMPTY)]
    return {"sets it apart": ", ".join(apart) or cells.EMPTY}


def counts(search: Search) -> pd.DataFrame:
    """How many points are in each state, and how many runs of theirs have finished."""
    if search.points.empty:
        return pd.DataFrame({"state": ["no sweep here yet: start a search with python sweeps/run.py search"]})
    found = search.points.groupby("state", sort=False).agg(count=("arm", "size"), runs=("seeds", "sum"))
    return found.rename(columns={"count": f"{search.noun}s", "runs": "finished runs"}).reset_index()
