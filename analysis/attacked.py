"""Accuracy of the trained policies on attacked test images.

Their rows are in the `eval` table under splits named `<split>@<attack>:<grey levels>`, such as `test@egas:4`.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import re

import pandas as pd

from analysis import stats
from analysis.load import SweepData

ATTACKED = re.compile(r"(?P<split>.+)@(?P<attack>[a-z_0-9]+):(?P<level>\d+(?:\.\d+)?)")
COLUMNS = ("attack", "level", "arm", "seed", "accuracy", "samples")


def is_attacked(split: str) -> bool:
    """Is this the name of an attacked evaluation?"""
    return ATTACKED.fullmatch(split) is not None


def robustness(data: SweepData) -> pd.DataFrame:
    """COLUMNS: accuracy of each finished run's last step by attack and grey levels.

    Level 0 is the evaluation without attack on the same problems, where the run recorded none itself.
    """
    items = data.table("problems")
    frames = []
    splits = [str(split) for split in pd.unique(items["split"])]
    for split in splits:
        match = ATTACKED.fullmatch(split)
        if match is None:
            continue
        attack, level = match["attack"], float(match["level"])
        frames.append(stats.final_scores(items, split).assign(attack=attack, level=level))
        if f"{match['split']}@{attack}:0" not in splits and level:
            problems = items.loc[items["split"] == split, "problem_id"].unique()
            clean = items[(items["split"] == match["split"]) & items["problem_id"].isin(problems)]
            frames.append(stats.final_scores(clean, match["split"]).assign(attack=attack, level=0.0))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(frames)[list(COLUMNS)].drop_duplicates(["attack", "level", "arm", "seed"]).reset_index(drop=True)
