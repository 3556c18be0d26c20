"""Which runs went wrong: the alarms that they recorded, and those that diverged.

A run has diverged when one of these holds: a loss or gradient that is not finite in a step that trained; an update
left out because of its gradient; the alarm `entropy_explosion`; training accuracy that ends near zero.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import numpy as np
import pandas as pd

from analysis.load import SweepData
from saei import schema

EXPLOSION = "entropy_explosion"
ENDS = 10
"""Steps at either end of a run whose mean accuracies are compared; shorter runs than two of them are not judged."""
NEAR_ZERO = 0.1
"""Accuracy over the last steps below this share of that over the first ones."""
ALARM_COLUMNS = ("arm", "seed", "step", "detector", "sentence", "setting")


def alarms(data: SweepData) -> pd.DataFrame:
    """All recorded alarms, ALARM_COLUMNS, by arm, seed and step."""
    rows = [
        {"arm": tree["arm"], "seed": tree["seed"], **alarm}
        for tree in data.documents(schema.ALARMS_FILE)
        for alarm in tree.get("alarms", [])
    ]
    frame = pd.DataFrame(rows, columns=list(ALARM_COLUMNS))
    frame["arm"] = pd.Categorical(frame["arm"], categories=data.arms, ordered=True)
    return frame.sort_values(["arm", "seed", "step", "detector"], ignore_index=True)


def watched(data: SweepData) -> int:
    """Runs that recorded whether a detector fired; older runs did not."""
    return len(data.documents(schema.ALARMS_FILE))


def diverged(data: SweepData) -> dict[tuple[str, int], str]:
    """(arm, seed) -> why the run counts as diverged."""
    return data.once("diverged", lambda: _diverged(data))


def _diverged(data: SweepData) -> dict[tuple[str, int], str]:
    fired = alarms(data)
    fired = fired[fired["detector"] == EXPLOSION]
    found = {(row.arm, row.seed): f"entropy exploded (step {row.step})" for row in fired[::-1].itertuples()}
    # the whole table, once for all, and of it what is looked at: rows of fifty columns are slow to pick
    read = ["step", "groups_trained", "loss", "grad_norm", "skipped_updates", "reward_accuracy"]
    for key, steps in data.table("steps")[["arm", "seed", *read]].groupby(["arm", "seed"], observed=True):
        why = why_diverged(steps.sort_values("step"))
        if why:
            found[key] = why
    return found


def why_diverged(steps: pd.DataFrame) -> str:
    """What the `steps` rows of one run, in order, say against it; "" for nothing."""
    trained = steps[~(steps["groups_trained"] == 0)]  # unknown in older runs, which always trained
    unknown = trained[~np.isfinite(trained[["loss", "grad_norm"]].astype(float)).all(axis=1)]
    skipped = steps[steps["skipped_updates"] > 0]
    if len(skipped):
        count = int(steps["skipped_updates"].sum())
        return f"{count} skipped {'update' if count == 1 else 'updates'} (first in step {skipped['step'].iloc[0]})"
    if len(unknown):
        return f"loss or gradient not finite (step {unknown['step'].iloc[0]})"
    first, last = steps["reward_accuracy"].iloc[:ENDS].mean(), steps["reward_accuracy"].iloc[-ENDS:].mean()
    if len(steps) >= 2 * ENDS and last < NEAR_ZERO * first:
        return f"training accuracy fell from {first:.2f} to {last:.2f}"
    return ""
