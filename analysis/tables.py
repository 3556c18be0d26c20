"""Every table of notebooks and report, under one name: a sweep in, a frame with readable columns and text cells out.

Those of differences, of costs and of what stands beside the primary metric have files of their own.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import pandas as pd

from analysis import health
from analysis.cells import EMPTY, amount, duration, interval_text, p_text, percent, points
from analysis.cost_tables import cost_table, equal_tokens_table
from analysis.load import SweepData
from analysis.side_tables import last_steps, robustness_table, side_figures
from analysis.summary import summary_table
from analysis.table import Table, captioned
from analysis.verdict_tables import checkpoint_pairs, robust_table, verdict_sentence, verdicts
from saei.schema import SAMPLED

__all__ = [
    "EMPTY", "Table", "alarm_table", "amount", "captioned", "checkpoint_pairs", "cost_table", "duration",
    "equal_tokens_table", "examples", "interval_text", "last_steps", "p_text", "percent", "points", "progress",
    "robust_table", "robustness_table", "side_figures", "summary_table", "verdict_sentence", "verdicts",
]  # fmt: skip


def progress(data: SweepData) -> pd.DataFrame:
    """Arms by state: how many seeds of each are finished, running, failed, interrupted, missing."""
    if data.trials.empty:
        return pd.DataFrame({"state": ["no sweep here yet: start one with python sweeps/run.py NAME"]})
    counted = data.trials.groupby(["arm", "state"], observed=True).size().unstack(fill_value=0)
    counted.index.name, counted.columns.name = "arm", None
    return counted.reset_index()


def examples(data: SweepData) -> pd.DataFrame:
    """A completion of each arm on the same test problem, as the model wrote it (untrusted text)."""
    tested = data.table("problems")
    tested = tested[(tested["split"] == data.test_split) & (tested["decoding"] == SAMPLED)]
    if tested.empty:
        return pd.DataFrame({"completions": ["none yet: no run has been tested"]})
    tested = tested.sort_values(["arm", "step", "seed", "problem_id"], ascending=[True, False, True, True])
    shown = tested.groupby("arm", observed=True).head(1)[["trial_id", "step", "problem_id"]].astype({"trial_id": "str"})
    columns = ["split", "decoding", "problem_id", "index", "step", "answer", "accuracy", "text"]
    rows = data.table("eval", columns, trials=shown["trial_id"].tolist(), newest=True)
    rows = rows[(rows["split"] == data.test_split) & (rows["decoding"] == SAMPLED)]
    rows = rows.merge(shown.astype({"problem_id": "str"}), on=["trial_id", "step", "problem_id"])
    first = rows.sort_values(["arm", "index"]).groupby("arm", observed=True).head(1)
    return first[["arm", "problem_id", "answer", "accuracy", "text"]].reset_index(drop=True)


def alarm_table(data: SweepData) -> pd.DataFrame:
    """Every alarm: arm, seed, step, which detector, and its sentence. Empty where none was recorded."""
    frame = health.alarms(data)[["arm", "seed", "step", "detector", "sentence"]]
    # the step has a column of its own
    sentences = [
        text.removeprefix(f"step {step}: ") for text, step in zip(frame["sentence"], frame["step"], strict=True)
    ]
    return frame.assign(sentence=sentences)
