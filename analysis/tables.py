"""The tables of notebooks and report: a sweep in, a frame with readable columns and text cells out."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import pandas as pd

from analysis import stats
from analysis.load import SweepData
from saei.schema import SAMPLED

EMPTY = "–"


class Table:
    """A frame to be read: shown without row numbers, long texts whole, everything escaped."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    def to_html(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return self.frame.to_html(index=False, border=0, na_rep=EMPTY)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        return self.frame.to_string(index=False)


def progress(data: SweepData) -> pd.DataFrame:
    """Arms by state: how many seeds of each are finished, running, failed, interrupted, missing."""
    if data.trials.empty:
        return pd.DataFrame({"state": ["no sweep here yet: start one with python sweeps/run.py NAME"]})
    counted = data.trials.groupby(["arm", "state"], observed=True).size().unstack(fill_value=0)
    counted.index.name, counted.columns.name = "arm", None
    return counted.reset_index()


def compared(data: SweepData) -> pd.DataFrame:
    """`stats.compare_arms` of the sweep's primary metric, with `against`, `primary` and `exploratory`.

    The row of the primary arm is the planned pair, whatever its reference; all others are against the baseline. A pair
    of which one arm is not in the plan has no row: its other arm is then compared like any other.
    """
    baseline = data.plan.get("baseline", "")
    primary, reference = planned_pair(data)
    if not {primary, reference} <= set(data.arms):
        primary, reference = "", baseline
    final = stats.final_scores(data.table("eval"), data.test_split)
    frame = stats.compare_arms(final, arms=data.arms, baseline=baseline, primary=primary)
    if primary and reference != baseline:
        pair = stats.compare_arms(final, arms=[primary], baseline=reference, primary=primary)
        rows = [pair if arm == primary else frame[frame["arm"] == arm] for arm in data.arms]
        frame = pd.concat(rows, ignore_index=True)
    arms = list(frame.get("arm", []))
    later = data.trials.groupby("arm", observed=True)["exploratory"].any()
    frame["primary"] = [arm == primary for arm in arms]
    frame["against"] = [reference if arm == primary else "" if arm == baseline else baseline for arm in arms]
    frame["exploratory"] = [bool(later.get(arm, False)) for arm in arms]
    return frame


def planned_pair(data: SweepData) -> tuple[str, str]:
    """The primary contrast as planned, (arm, reference), whether or not both were launched; empty without a plan."""
    arm, reference = data.plan.get("primary_contrast") or ("", "")
    return arm, reference


def not_launched(data: SweepData) -> str:
    """What cannot be compared because `--only` left an arm out, in sentences; "" where nothing is lacking."""
    arm, reference = planned_pair(data)
    baseline = data.plan.get("baseline", "")
    lacking = [name for name in (arm, reference) if name and name not in data.arms]
    sentences = []
    if lacking:
        why = f"launched without {' and '.join(lacking)}"
        sentences.append(f"The primary contrast, {arm} minus {reference}, is not part of this plan: {why}.")
    if baseline and baseline not in data.arms:
        sentences.append(f"Without the baseline {baseline} in this plan, no arm is compared with it.")
    return " ".join(sentences)


def verdicts(data: SweepData) -> pd.DataFrame:
    """The verdict table in words and percentage points; `against` where not every difference is to the baseline."""
    rows = []
    metric = str(data.plan.get("metric", "")).rpartition("/")[2]
    frame = compared(data)
    named = bool(set(frame["against"]) - {"", data.plan.get("baseline", "")})
    for row in frame.itertuples():
        rows.append(
            {
                "arm": f"{row.arm} (primary contrast)" if row.primary else str(row.arm),
                **({"against": row.against or EMPTY} if named else {}),
                f"accuracy ({metric})": percent(row.score),
                "difference (points)": points(row.difference, signed=True),
                "95 % interval": interval_text(row.low, row.high),
                "p": p_text(row.p_judged),
                "seeds": str(row.seeds) if row.verdict == "baseline" else f"{row.pairs} paired",
                "detectable (points)": points(row.mde),
                "seeds in all": seeds_text(row),
                "verdict": f"{row.verdict} (exploratory)" if row.exploratory else row.verdict,
            }
        )
    return pd.DataFrame(rows)


def percent(share: float) -> str:
    return EMPTY if math.isnan(share) else f"{100 * share:.1f} %"


def points(share: float, *, signed: bool = False) -> str:
    """A difference of accuracies in percentage points, with a true minus sign."""
    if math.isnan(share):
        return EMPTY
    return f"{100 * share:{'+' if signed else ''}.1f}".replace("-", "−")


def interval_text(low: float, high: float) -> str:
    return EMPTY if math.isnan(low) else f"{points(low, signed=True)} to {points(high, signed=True)}"


def p_text(p: float) -> str:
    if math.isnan(p):
        return EMPTY
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seeds_text(row) -> str:
    """Seeds in all that would find the difference seen; nothing where a verdict stands."""
    if row.verdict not in (stats.SAME, stats.TWO_SEEDS):
        return EMPTY
    return f"> {stats.MOST_SEEDS}" if math.isinf(row.seeds_needed) else f"about {int(row.seeds_needed)}"


def side_figures(data: SweepData) -> pd.DataFrame:
    """mean@k, greedy, pass@k and entropy of the last step on the test split and every shifted one, mean over seeds."""
    items = data.table("eval")
    shifted = [split for split in pd.unique(items["split"]) if split not in (data.test_split, data.validation_split)]
    frame = stats.side_figures(items, [data.test_split, *sorted(shifted)])
    if frame.empty:
        return pd.DataFrame({"figures": ["none yet: no run has finished"]})
    for column in frame.columns:
        if column.startswith(("mean@", "pass@", "greedy")):
            frame[column] = frame[column].map(percent)
    frame["entropy (nats)"] = frame["entropy (nats)"].map("{:.3f}".format)
    return frame


def last_steps(data: SweepData) -> pd.DataFrame:
    """Means over the last tenth of each run's steps, then over seeds."""
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
    last = steps.groupby(["arm", "seed"], observed=True)["step"].transform("max")
    tail = steps[steps["step"] > 0.9 * last - 1]
    by_seed = tail.groupby(["arm", "seed"], observed=True)[list(names)].mean()
    frame = by_seed.groupby("arm", observed=True).mean().rename(columns=names)
    return frame.map(lambda value: EMPTY if math.isnan(value) else f"{value:.4g}").reset_index()


def examples(data: SweepData) -> pd.DataFrame:
    """A completion of each arm on the same test problem, as the model wrote it (untrusted text)."""
    columns = ["split", "decoding", "problem_id", "index", "step", "answer", "accuracy", "text"]
    rows = data.table("eval", columns)
    rows = rows[(rows["split"] == data.test_split) & (rows["decoding"] == SAMPLED)]
    if rows.empty:
        return pd.DataFrame({"completions": ["none yet: no run has been tested"]})
    rows = rows.sort_values(["arm", "step", "seed", "problem_id", "index"], ascending=[True, False, True, True, True])
    first = rows.groupby("arm", observed=True).head(1)
    return first[["arm", "problem_id", "answer", "accuracy", "text"]].reset_index(drop=True)


def unfinished(data: SweepData) -> pd.DataFrame:
    """Planned trials that have not finished, with where they stand."""
    frame = data.trials[data.trials["state"] != "finished"]
    return frame[["arm", "seed", "state", "step", "steps", "message", "trial_id"]].reset_index(drop=True)
