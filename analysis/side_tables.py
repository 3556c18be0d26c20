"""What stands beside the primary metric, in tables. Estimates without verdicts: nothing here was planned as a test."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import pandas as pd

from analysis import attacked, costs, stats
from analysis.cells import EMPTY, nats, percent
from analysis.load import SweepData
from analysis.table import captioned

ALL_SAMPLED = "entropy: all groups sampled"
"""On arms that drop groups, whose `entropy` column knows only those that were trained on."""
NO_VERDICTS = (
    "Estimates, without verdicts: the plan names one metric on one split, and with this many columns some difference "
    "always looks large."
)


def side_figures(data: SweepData) -> pd.DataFrame:
    """mean@k, greedy, pass@k and entropy of the last step, mean over seeds: test split, shifted and transfer sets.

    No split but that of the primary metric gets verdicts, and that one not here.
    Attacked evaluations are not among them: `attacked.robustness`.
    """
    items = data.table("problems")
    own = (data.test_split, data.validation_split)
    shifted = [split for split in pd.unique(items["split"]) if split not in own and not attacked.is_attacked(split)]
    frame = stats.side_figures(items, [data.test_split, *sorted(shifted)])
    if frame.empty:
        return pd.DataFrame({"figures": ["none yet: no run has finished"]})
    for column in frame.columns:
        if column.startswith(("mean@", "pass@", "greedy")):
            frame[column] = frame[column].map(percent)
    frame["entropy (nats)"] = frame["entropy (nats)"].map(nats)
    return captioned(frame, NO_VERDICTS)


SHARES = ("cut completions", "groups without signal", "tokens clipped above", "tokens clipped below", "grader failures")


def last_steps(data: SweepData) -> pd.DataFrame:
    """Means over the last tenth of each run's steps (rounded down, at least one), then over seeds.

    Entropy of arms that drop groups is that of all completions, each on the image it was sampled on; the label says so.
    """
    names = {
        "entropy": "entropy (nats)",
        "completion_length": "length (tokens)",
        "truncated_share": "cut completions",
        "zero_signal_share": "groups without signal",
        "clip_high_share": "tokens clipped above",
        "clip_low_share": "tokens clipped below",
        "attack_gain": "attack gain (nats)",
        "fresh_gain": "fresh gain (nats)",
        "grade_failure_share": "grader failures",
        "time_step": "time a step (s)",
    }
    steps = data.table("steps")
    if steps.empty:
        return pd.DataFrame({"figures": ["none yet: no run has recorded a step"]})
    done = 1 + steps.groupby(["arm", "seed"], observed=True)["step"].transform("max")
    tail = steps[steps["step"] >= done - (done // 10).clip(lower=1)]
    tail = tail.assign(
        entropy=tail["entropy"].where(~tail["drops_groups"], tail["entropy_sampled_image"]),
        time_step=costs.step_seconds(tail),
    )
    by_seed = tail.groupby(["arm", "seed"], observed=True)[list(names)].mean()
    frame = by_seed.groupby("arm", observed=True).mean().rename(columns=names)
    frame = frame.dropna(axis="columns", how="all")  # fresh gain, where none of these steps measured it
    shares = [name for name in frame if name in SHARES]
    cells = frame.map(lambda value: EMPTY if math.isnan(value) else f"{value:.4g}")
    cells[shares] = frame[shares].map(lambda value: EMPTY if math.isnan(value) else f"{100 * value:.3f} %")
    frame = cells.reset_index()
    frame["arm"] = [f"{arm} ({ALL_SAMPLED})" if arm in data.filtering else str(arm) for arm in frame["arm"]]
    return frame


def robustness_table(data: SweepData) -> pd.DataFrame:
    """Accuracy under attack, mean over seeds: one row per arm and attack, one column per strength in grey levels."""
    frame = attacked.robustness(data)
    if frame.empty:
        return frame
    means = frame.pivot_table(index=["attack", "arm"], columns="level", values="accuracy", observed=True)
    means.columns = [f"{level:g} levels" for level in means.columns]
    return captioned(means.map(percent).reset_index(), NO_VERDICTS)
