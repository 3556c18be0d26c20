"""Two arms item by item: what each seed's two checkpoints scored on every test problem.

For checkpoint pairs and for pictures of single items; a verdict on a method never reads this (its unit is the seed).
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportAssignmentType=false

import pandas as pd

from analysis.load import SweepData
from saei.schema import FINISHED, GREEDY, SAMPLED

ITEM_COLUMNS = (
    "seed", "problem_id", "figure", "kind", "arm_accuracy", "against_accuracy", "arm_greedy", "against_greedy"
)  # fmt: skip


def paired_items(data: SweepData, arm: str, against: str) -> pd.DataFrame:
    """ITEM_COLUMNS, a row per seed that both arms finished and problem of the test split, at the runs' last steps.

    `*_accuracy` is mean@k of the sampled completions, `*_greedy` the greedy answer's accuracy (NaN where it was not
    asked). `figure` is the cluster: problems with one image share it; runs that did not record it have the problem's
    own id there. Raises ValueError where the two runs of a seed were tested on different problems.
    """
    rows = data.table("problems")
    rows = rows[(rows["split"] == data.test_split) & (rows["state"] == FINISHED) & rows["arm"].isin([arm, against])]
    rows = rows.astype({"problem_id": "str", "kind": "str"})
    one, other = (_problems(rows[rows["arm"] == name]) for name in (arm, against))
    seeds = sorted(set(one["seed"]) & set(other["seed"]))
    one, other = (frame[frame["seed"].isin(seeds)] for frame in (one, other))
    merged = one.merge(other, on=["seed", "problem_id"], how="outer", suffixes=("", "_against"), indicator=True)
    unmatched = merged[merged["_merge"] != "both"]
    if len(unmatched):
        seed, problem = unmatched.iloc[0][["seed", "problem_id"]]
        raise ValueError(
            f"{arm} and {against} were tested on different problems (seed {seed}: only one has {problem}): their items "
            "cannot be paired; run the one with the older test set again"
        )
    # one run may be older than the column: then the other's figures hold for both
    merged["figure"] = merged["figure"].fillna(merged["figure_against"]).fillna(merged["problem_id"])
    merged = merged.rename(
        columns={
            SAMPLED: "arm_accuracy",
            GREEDY: "arm_greedy",
            f"{SAMPLED}_against": "against_accuracy",
            f"{GREEDY}_against": "against_greedy",
        }
    )
    return merged[list(ITEM_COLUMNS)].sort_values(["seed", "problem_id"], ignore_index=True)


def _problems(rows: pd.DataFrame) -> pd.DataFrame:
    """Per seed and problem of one arm: figure (None where not recorded), kind, mean sampled and greedy accuracy."""
    rows = rows[rows["step"] == rows.groupby("seed")["step"].transform("max")]
    key = ["seed", "problem_id"]
    figure = rows["figure"].astype(object).where(rows["figure"].notna() & (rows["figure"] != ""), None)
    named = rows.assign(figure=figure).groupby(key)[["figure", "kind"]].first()
    for decoding in (SAMPLED, GREEDY):
        named[decoding] = rows[rows["decoding"] == decoding].groupby(key)["accuracy"].mean()
    return named.reset_index()
