"""What the card compares: one number per finished run, from the `problems` table, by a name that `card_sources` uses.

Each measure gives a frame `arm, seed, value, item_set, items`: `item_set` differs where two runs were measured on
different problems and so are no pair; `items` are the problems behind one value. Accuracies are shares at temperature
1 after the last step; entropies are nats per token of the validation completions, at temperature 1, on clean images.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportIndexIssue=false

from collections.abc import Callable, Sequence

import pandas as pd

from analysis import attacked, stats
from analysis.load import SweepData
from analysis.problems import mean_entropy
from saei.schema import FINISHED, SAMPLED

MEASURED = ("arm", "seed", "value", "item_set", "items")
RUN = ["arm", "seed"]
COLLAPSED_SHARE = 0.3
"""Entropy below this share of its start is collapse: the mark of the detector `entropy_collapse`, set on other runs."""

Measure = Callable[[SweepData], pd.DataFrame]


def test_accuracy(data: SweepData) -> pd.DataFrame:
    """mean@k on the test split: the primary metric."""
    return _accuracy(data, [data.test_split])


def shifted_accuracy(data: SweepData) -> pd.DataFrame:
    """Mean over the shifted test sets of the run's own source, each counting the same."""
    return _accuracy(data, [split for split in _further_splits(data) if "/" not in split])


def transfer_accuracy(data: SweepData) -> pd.DataFrame:
    """Mean over the test sets of other sources (`eval.transfer`: SOURCE/SPLIT), each counting the same."""
    return _accuracy(data, [split for split in _further_splits(data) if "/" in split])


def shapes_accuracy(data: SweepData) -> pd.DataFrame:
    """Mean over the test sets of drawn shapes, each counting the same."""
    return _accuracy(data, [split for split in _further_splits(data) if split.startswith("shapes/")])


def change_under_attack(data: SweepData) -> pd.DataFrame:
    """Accuracy under attack minus accuracy of the same problems without, mean over attacks and strengths above 0."""
    frame = attacked.robustness(data)
    if frame.empty:
        return pd.DataFrame(columns=list(MEASURED))
    clean = frame[frame["level"] == 0].set_index([*RUN, "attack"])["accuracy"].rename("clean")
    moved = frame[frame["level"] > 0].join(clean, on=[*RUN, "attack"])
    moved = moved.assign(change=moved["accuracy"] - moved["clean"], kind=moved["attack"] + moved["level"].astype(str))
    strengths = moved.groupby([*RUN, "attack"], observed=True)["change"].mean()
    result = strengths.groupby(RUN, observed=True).mean().rename("value").to_frame()
    result["item_set"] = moved.groupby(RUN, observed=True)["kind"].agg(_key)
    items = data.table("problems")
    of_attacks = items[
        items["split"].isin([split for split in pd.unique(items["split"]) if attacked.is_attacked(split)])
    ]
    result["items"] = of_attacks.groupby(RUN, observed=True)["problem_id"].nunique()
    return result.reset_index()[list(MEASURED)]


def entropy_over_training(data: SweepData) -> pd.DataFrame:
    """Mean over the evaluations of a run, without that of the initial policy, which all arms share."""
    frame = _entropies(data)
    frame = frame[frame["step"] > 0]
    evaluations = [f"{step} {items}" for step, items in zip(frame["step"], frame["item_set"], strict=True)]
    grouped = frame.assign(evaluation=evaluations).groupby(RUN, observed=True)
    result = grouped.agg(value=("entropy", "mean"), items=("items", "max"))
    result["item_set"] = grouped["evaluation"].agg(_key)
    return result.reset_index()[list(MEASURED)]


def entropy_at_start(data: SweepData) -> pd.DataFrame:
    """That of the initial policy (step 0)."""
    frame = _entropies(data)
    return _measured(frame[frame["step"] == 0])


def collapse_mark(data: SweepData) -> pd.DataFrame:
    """COLLAPSED_SHARE of the entropy of the initial policy."""
    frame = entropy_at_start(data)
    return frame.assign(value=COLLAPSED_SHARE * frame["value"])


def entropy_at_end(data: SweepData) -> pd.DataFrame:
    """That after the last step."""
    frame = _entropies(data)
    frame = frame[frame["step"] > 0]
    return _measured(frame[frame["step"] == frame.groupby(RUN, observed=True)["step"].transform("max")])


MEASURES: dict[str, Measure] = {
    measure.__name__: measure
    for measure in (
        test_accuracy,
        shifted_accuracy,
        transfer_accuracy,
        shapes_accuracy,
        change_under_attack,
        entropy_over_training,
        entropy_at_start,
        entropy_at_end,
        collapse_mark,
    )
}
LACKING: dict[str, str] = {
    "test_accuracy": "no finished run has been tested",
    "shifted_accuracy": "its finished runs were tested on no shifted sets (eval.shifted_problems)",
    "transfer_accuracy": "its finished runs were tested on no other sources (eval.transfer)",
    "shapes_accuracy": "its finished runs were tested on no drawn shapes (eval.transfer)",
    "change_under_attack": "its finished runs were tested under no attack (eval.attacks)",
    "entropy_over_training": "no finished run was evaluated during training (eval.every)",
    "entropy_at_start": "no finished run was evaluated before its first step",
    "entropy_at_end": "no finished run was evaluated during training (eval.every)",
    "collapse_mark": "no finished run was evaluated before its first step",
}
"""Why a measure has no value where finished runs are there."""


def _further_splits(data: SweepData) -> list[str]:
    own = (data.test_split, data.validation_split)
    known = pd.unique(data.table("problems")["split"])
    return sorted(split for split in known if split not in own and not attacked.is_attacked(split))


def _accuracy(data: SweepData, splits: Sequence[str]) -> pd.DataFrame:
    items = data.table("problems")
    frames = [stats.final_scores(items, split).assign(split=split) for split in splits]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=list(MEASURED))
    frame = pd.concat(frames)
    grouped = frame.groupby(RUN, observed=True)
    result = grouped.agg(value=("accuracy", "mean"), items=("items", "sum"))
    # a run that lacks one of the splits is no pair for one that has it
    result["item_set"] = (
        frame.assign(key=frame["split"] + frame["item_set"].astype(str)).groupby(RUN, observed=True)["key"].agg(_key)
    )
    return result.reset_index()[list(MEASURED)]


def _entropies(data: SweepData) -> pd.DataFrame:
    """Token-weighted entropy of every validation of a finished run: arm, seed, step, entropy, items, item_set."""
    items = data.table("problems")
    rows = items[
        (items["state"] == FINISHED) & (items["split"] == data.validation_split) & (items["decoding"] == SAMPLED)
    ]
    if rows.empty:
        return pd.DataFrame(columns=["arm", "seed", "step", "entropy", "items", "item_set"])
    evaluation = [*RUN, "step"]
    frame, grouped = mean_entropy(rows, evaluation).to_frame(), rows.groupby(evaluation, observed=True)
    frame["items"] = grouped["problem_id"].nunique()
    frame["item_set"] = grouped["problem_id"].agg(lambda ids: hash(tuple(sorted(set(ids)))))
    return frame.dropna(subset=["entropy"]).reset_index()


def _measured(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.rename(columns={"entropy": "value"})[list(MEASURED)].reset_index(drop=True)


def _key(parts: pd.Series) -> int:
    return hash(tuple(sorted(parts)))
