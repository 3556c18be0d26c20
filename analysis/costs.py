"""What each arm cost: tokens and time, and accuracy against the tokens spent.

Generated tokens are those that were sampled, dropped groups included. Forward and backward tokens are positions that
passed through the model without and with a backward pass, prompt and attack included. A measurement that the method
does not need is left out of tokens and time alike (docs/decisions/0008). What a curriculum spent on finding its order,
before the first step, is part of a run's totals and of its tokens from step 0 on.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import numpy as np
import pandas as pd

from analysis import stats
from analysis.load import SweepData
from saei.schema import CURRICULUM_FILE, FINISHED

COST_COLUMNS = ("generated", "forward", "backward", "processed", "step_seconds", "seconds")
TOKENS = {"tokens_generated": "generated", "tokens_forward": "forward", "tokens_backward": "backward"}
ORDER = {"tokens_generated": "generated", "tokens_forward": "forward", "seconds": "seconds"}
"""Entries of `curriculum.json` and the totals that they add to."""


def costs(data: SweepData) -> pd.DataFrame:
    """COST_COLUMNS of each finished run, with arm and seed.

    `processed` is forward and backward tokens together; `seconds` is the training steps and a curriculum's measuring,
    without evaluation; `step_seconds` is the mean step.
    """
    steps = data.table("steps")
    steps = steps[steps["state"] == FINISHED]
    if steps.empty:
        return pd.DataFrame(columns=["arm", "seed", *COST_COLUMNS])
    runs = steps.assign(own=step_seconds(steps)).groupby(["arm", "seed", "trial_id"], observed=True)
    frame = runs[list(TOKENS)].sum(min_count=1).rename(columns=TOKENS)
    frame["step_seconds"], frame["seconds"] = runs["own"].mean(), runs["own"].sum()
    frame = frame.reset_index()
    order = order_costs(data).reindex(frame["trial_id"], fill_value=0.0)
    for column in ORDER.values():
        frame[column] = frame[column] + order[column].to_numpy()
    frame["processed"] = frame["forward"] + frame["backward"]
    return frame[["arm", "seed", *COST_COLUMNS]]


def step_seconds(steps: pd.DataFrame) -> pd.Series:
    """Wall time of each row of the `steps` table without the fresh completions, which only measure."""
    return steps["time_step"] - steps["time_fresh"].fillna(0.0)


def order_costs(data: SweepData) -> pd.DataFrame:
    """Tokens and seconds that each run's curriculum spent before the first step, by trial id; the columns of ORDER.

    Runs without a curriculum, and older ones that did not count, have no row.
    """
    found = {tree["trial_id"]: tree["content"] for tree in data.documents(CURRICULUM_FILE)}
    rows = {
        trial_id: {column: float(content.get(entry, 0.0)) for entry, column in ORDER.items()}
        for trial_id, content in found.items()
        if isinstance(content, dict)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(ORDER.values()), dtype=float)


def mean_costs(data: SweepData) -> pd.DataFrame:
    """COST_COLUMNS, mean over the finished seeds, one row per arm that has any."""
    frame = costs(data).groupby("arm", observed=True)[list(COST_COLUMNS)].mean()
    return frame.astype(float).reset_index()


def accuracy_by_tokens(data: SweepData) -> pd.DataFrame:
    """Validation accuracy of every evaluation, with what was spent before it: `tokens` generated, and `seconds`.

    In steps and for the curriculum; evaluation itself costs nothing here. Evaluations after steps that are not
    recorded yet have no row.
    """
    scored = stats.scores(data.table("problems"), data.validation_split)
    frame = scored.merge(spent_before(data), on=["trial_id", "step"], how="left")
    order = order_costs(data).reindex(frame["trial_id"], fill_value=0.0)
    for column, entry in (("tokens", "generated"), ("seconds", "seconds")):
        # nothing but the curriculum comes before step 0, recorded or not
        at_start = order[entry].to_numpy()
        frame[column] = np.where(frame["step"] == 0, at_start, frame[column])
    return frame.dropna(subset=["tokens"]).reset_index(drop=True)


def entropy_by_tokens(data: SweepData) -> pd.DataFrame:
    """Entropy of every step's rollouts (nats per token), with what was spent before it: `tokens` and `seconds`.

    `entropy` is that of all completions: on the image of `train_view` where all groups are trained on, and else, for
    the column knows only the groups that were trained on, on the image each was sampled on.
    """
    steps = data.table("steps")
    entropy = steps["entropy_sampled_image"].where(steps["drops_groups"].astype(bool), steps["entropy"])
    columns = ["arm", "seed", "trial_id", "state", "step", "in_contrast", "drops_groups"]
    frame = steps[columns].assign(entropy=entropy.astype(float))
    return frame.merge(spent_before(data), on=["trial_id", "step"], how="left").dropna(subset=["entropy", "tokens"])


def spent_before(data: SweepData) -> pd.DataFrame:
    """`tokens` generated and `seconds` of training before each step and after the last, by trial id and step."""
    steps = data.table("steps").sort_values(["trial_id", "step"])
    own = steps.assign(tokens=steps["tokens_generated"].astype(float), seconds=step_seconds(steps).astype(float))
    own[["tokens", "seconds"]] = own.groupby("trial_id")[["tokens", "seconds"]].cumsum()
    after = own.assign(step=own["step"] + 1)[["trial_id", "step", "tokens", "seconds"]]
    first = own.loc[own["step"] == 0, ["trial_id", "step"]].assign(tokens=0.0, seconds=0.0)
    spent = pd.concat([first, after], ignore_index=True)
    order = order_costs(data).reindex(spent["trial_id"], fill_value=0.0)
    spent["tokens"] += order["generated"].to_numpy()
    spent["seconds"] += order["seconds"].to_numpy()
    return spent


def at_equal_tokens(data: SweepData) -> tuple[float, pd.DataFrame]:
    """Validation accuracy where every run had generated as many tokens: the fewest that a finished run has in all.

    Returns these tokens (NaN where no run has finished) and a row per run, with `accuracy` interpolated linearly
    between its evaluations.
    """
    frame = accuracy_by_tokens(data)
    finished = data.state(FINISHED)["trial_id"]
    frame = frame[frame["trial_id"].isin(finished)].sort_values(["arm", "seed", "step"])
    runs = frame.groupby(["arm", "seed"], observed=True)
    tokens = float(runs["tokens"].max().min()) if len(frame) else math.nan
    rows = [
        {"arm": arm, "seed": seed, "accuracy": float(np.interp(tokens, run["tokens"], run["accuracy"]))}
        for (arm, seed), run in runs
    ]
    scored = pd.DataFrame(rows, columns=["arm", "seed", "accuracy"])
    scored["arm"] = pd.Categorical(scored["arm"], categories=data.arms, ordered=True)
    return tokens, scored
