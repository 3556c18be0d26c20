"""What an arm costs, in tables: tokens and time, and accuracy where all had spent as much."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import pandas as pd

from analysis import costs, stats
from analysis.cells import amount, duration, interval_text, percent, points
from analysis.load import SweepData


def cost_table(data: SweepData) -> pd.DataFrame:
    """Tokens and time of each arm, mean over finished seeds, with the ratio to the baseline in brackets."""
    frame = costs.mean_costs(data)
    if frame.empty:
        return pd.DataFrame({"cost": ["not known yet: no run has finished"]})
    baseline = frame[frame["arm"] == data.plan.get("baseline", "")]

    def cell(column: str, value: float, text: str) -> str:
        own = float(baseline[column].iloc[0]) if len(baseline) else math.nan
        return text if math.isnan(value) or not own > 0 else f"{text} ({value / own:.2f}×)"

    names = {
        "generated": "generated tokens",
        "forward": "forward tokens",
        "backward": "backward tokens",
        "processed": "forward + backward",
        "step_seconds": "time a step",
        "seconds": "time in all",
    }
    rows = []
    for row in frame.to_dict("records"):
        seconds = {column: duration(row[column]) for column in ("step_seconds", "seconds")}
        texts = {column: seconds.get(column) or amount(row[column]) for column in names}
        rows.append(
            {"arm": str(row["arm"])} | {names[column]: cell(column, row[column], texts[column]) for column in names}
        )
    return pd.DataFrame(rows)


def equal_tokens_table(data: SweepData) -> pd.DataFrame:
    """Validation accuracy where all runs had generated as many tokens, and the paired difference to the baseline."""
    tokens, frame = costs.at_equal_tokens(data)
    if frame.empty:
        return pd.DataFrame({"accuracy": ["not known yet: no run has finished"]})
    baseline = frame[frame["arm"] == data.plan.get("baseline", "")].set_index("seed")["accuracy"]
    rows = []
    for arm, runs in frame.groupby("arm", observed=True):
        own = runs.set_index("seed")["accuracy"]
        shared = own.index.intersection(baseline.index) if arm != data.plan.get("baseline") else own.index[:0]
        difference = stats.t_interval((own[shared] - baseline[shared]).tolist())
        rows.append(
            {
                "arm": str(arm),
                f"accuracy at {amount(tokens)} tokens": percent(own.mean()),
                "difference (points)": points(difference.mean, signed=True),
                "95 % interval": interval_text(difference.low, difference.high),
                "seeds": len(own),
            }
        )
    return pd.DataFrame(rows)
