"""The `problems` table: what each evaluation of a run gave on each problem, from the completions in `eval`.

Every figure of accuracy counts a problem once, whatever its number of completions; so this is all that most of them
need, and a tenth of the rows.
"""

# pandas carries no types that a checker can follow
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.util import hash_array

from analysis.parts import key_codes, read_run_table

PROBLEMS = {
    # one row per evaluated step, split, decoding and problem
    "step": "int64",
    "split": "string",
    "decoding": "string",
    "problem_id": "string",
    "kind": "string",
    "figure": "string",
    "samples": "int64",  # completions
    "right": "float64",  # sum of their accuracies
    "accuracy": "float64",  # their mean
    "tokens": "int64",  # of all completions together
    "entropy": "float64",  # nats, temperature 1, mean over all these tokens
}
KEY = ("step", "split", "decoding", "problem_id")
TEXTS = ("split", "decoding", "problem_id", "kind", "figure")


def read_run_problems(folder: Path) -> pa.Table | None:
    """PROBLEMS of one run, None where it has no evaluation. Raises ValueError as `read_run_table`."""
    rows = read_run_table(folder, "eval", [*KEY, "kind", "figure", "accuracy", "tokens", "entropy"], encoded=TEXTS)
    return None if rows is None else per_problem(rows)


def per_problem(rows: pa.Table) -> pa.Table:
    """PROBLEMS of the `eval` rows of one run, in the order in which the problems first come."""
    _, first, inverse = np.unique(key_codes(rows, KEY), return_index=True, return_inverse=True)
    order = np.argsort(first)
    count = np.bincount(inverse)[order]
    accuracy, tokens, entropy = (rows.column(name).to_numpy() for name in ("accuracy", "tokens", "entropy"))
    right = np.bincount(inverse, weights=accuracy)[order]
    spent = np.bincount(inverse, weights=tokens)[order]
    with np.errstate(invalid="ignore"):  # a problem without a token has no entropy
        mean = np.bincount(inverse, weights=entropy * tokens)[order] / spent
    made = {
        "samples": count,
        "right": right,
        "accuracy": right / count,
        "tokens": spent.astype(np.int64),
        "entropy": mean,
    }
    named = rows.select([*KEY, "kind", "figure"]).take(first[order])
    columns = {name: made[name] if name in made else named.column(name) for name in PROBLEMS}
    return pa.table(columns)


def as_problems(items: pd.DataFrame, run: Sequence[str]) -> pd.DataFrame:
    """One row per problem of an evaluation, of rows with one split and decoding: `problems` as they are, or of `eval`.

    The evaluations are told apart by the columns `run`.
    """
    if "samples" in items:
        return items
    weighed = {"tokens", "entropy"} <= set(items.columns)
    items = items.assign(weighed=items["entropy"] * items["tokens"]) if weighed else items
    rows = items.groupby([*run, "problem_id"], observed=True)
    frame = rows["accuracy"].agg(samples="size", right="sum", accuracy="mean")
    if weighed:
        frame["tokens"], frame["entropy"] = rows["tokens"].sum(), rows["weighed"].sum(skipna=False)
        frame["entropy"] /= frame["tokens"]
    return frame.reset_index()


def mean_entropy(rows: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    """Entropy (nats) over all tokens together of the `problems` or `eval` rows that are equal in the columns `by`.

    Rows without an entropy do not count; NaN for a group of such rows alone.
    """
    weighed = (rows["entropy"] * rows["tokens"]).rename("weighed")
    counted = rows[[*by, "tokens"]].assign(weighed=weighed, tokens=rows["tokens"].where(weighed.notna()))
    sums = counted.groupby(list(by), observed=True)[["weighed", "tokens"]].sum()
    return (sums["weighed"] / sums["tokens"].where(sums["tokens"] > 0)).rename("entropy")


def same_items(ids: pd.Series) -> pd.Series:
    """A number per problem id; its sum over an evaluation is equal for two evaluations of the same problems."""
    if isinstance(ids.dtype, pd.CategoricalDtype):
        known = hash_array(ids.cat.categories.to_numpy(object))
        return pd.Series(known[ids.cat.codes], index=ids.index)
    return pd.Series(hash_array(ids.to_numpy(object)), index=ids.index)
