"""What the arms differ in, as a table: the real values of the runs' config.json, not what the plan meant."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import pandas as pd

from analysis.cells import EMPTY
from analysis.load import SweepData
from analysis.settings import by_arm, varied
from analysis.swept_figures import value_texts

MOST_COLUMNS = 8
"""Up to so many settings each have a column; more are listed per arm, as far as they differ from the baseline's."""


def differences(data: SweepData) -> pd.DataFrame:
    """A row per arm with its values of the settings that differ; EMPTY where a setting has no effect on the arm."""
    frame = by_arm(varied(data)) if len(data.trials) else pd.DataFrame()
    if not len(frame.columns):
        return pd.DataFrame()
    texts = frame.apply(_texts)
    if len(texts.columns) <= MOST_COLUMNS:
        return texts.rename_axis("arm").reset_index()
    baseline = data.plan.get("baseline", "")
    reference = texts.loc[baseline] if baseline in texts.index else None
    rows = []
    for arm, own in texts.iterrows():
        other = own if reference is None or arm == baseline else own[own != reference]
        listed = ", ".join(f"{name} = {value}" for name, value in other.items() if value != EMPTY)
        rows.append({"arm": arm, "settings": listed or f"none but those that have no effect on {arm}"})
    head = "settings" if reference is None else f"settings other than those of {baseline}"
    return pd.DataFrame(rows).rename(columns={"settings": head})


def _texts(column: pd.Series) -> pd.Series:
    known = column.notna()
    shown = pd.Series(EMPTY, index=column.index, dtype=object)
    if known.any():
        # a switch is no number, also where pandas made it one beside others
        shown[known] = value_texts(column[known].tolist())
    return shown
