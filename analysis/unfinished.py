"""Planned trials that have not finished: where each stands, what its status says, and what to do about it."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import shlex

import pandas as pd

from analysis.cells import EMPTY
from analysis.load import MISSING, SweepData
from saei import schema

MEANING = {
    schema.FAILED: "failed: the sentence is the run's own; the command below tries it again from its last checkpoint",
    schema.INTERRUPTED: "stopped before the end: the command below goes on from the last checkpoint",
    schema.RUNNING: "under way when this page was built: its steps are in the curves and in no verdict",
    MISSING: "not begun",
}
"""State -> what it means for this page. Other states, should there be any, stand for themselves."""


def unfinished(data: SweepData) -> pd.DataFrame:
    """A row per state, arm and message: its seeds, the steps done of those planned, and the message."""
    frame = data.trials[(data.trials["state"] != schema.FINISHED) & ~data.trials["pruned"].astype(bool)]
    rows = []
    states = sorted(frame["state"].unique(), key=lambda state: ([*MEANING, state].index(state), state))
    for state in states:
        grouped = frame[frame["state"] == state].groupby(["arm", "message"], observed=True, sort=True, dropna=False)
        for (arm, message), own in grouped:
            done = f"{own['step'].min()} to {own['step'].max()}" if own["step"].nunique() > 1 else own["step"].iloc[0]
            rows.append(
                {
                    "state": state,
                    "arm": str(arm),
                    "seeds": " ".join(str(seed) for seed in sorted(own["seed"])),
                    "step": f"{done} of {own['steps'].max()}" if own["steps"].max() else EMPTY,
                    "what its status says": str(message) or EMPTY,
                }
            )
    return pd.DataFrame(rows)


def sentences(data: SweepData) -> list[str]:
    """One sentence per state that occurs, with its number of trials."""
    counts = data.trials.loc[~data.trials["pruned"].astype(bool), "state"].value_counts()
    known = [state for state in MEANING if counts.get(state)]
    return [f"{counts[state]} {MEANING[state]}." for state in known]


def why(data: SweepData) -> str:
    """The command that tells more of the first failed trial, or ""."""
    failed = data.state(schema.FAILED)
    if failed.empty:
        return ""
    row = next(failed.itertuples())
    holding = [folder for folder in data.results if row.folder.is_relative_to(folder)]
    places = [word for folder in holding[:1] for word in ("--results", str(folder))]
    return shlex.join(["python", "sweeps/run.py", "why", f"{data.name}/{row.arm}-s{row.seed}", *places])
