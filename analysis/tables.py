"""The tables of notebooks and report: a sweep in, a frame with readable columns and text cells out."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import pandas as pd

from analysis import attacked, costs, health, stats
from analysis.arms import EARLIER_NOTE
from analysis.contrasts import ON_TOKENS, compared
from analysis.load import SweepData
from saei import schema
from saei.schema import SAMPLED

EMPTY = "–"
ALL_SAMPLED = "entropy: all groups sampled"
"""On arms that drop groups, whose `entropy` column knows only those that were trained on."""


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


def verdicts(data: SweepData) -> pd.DataFrame:
    """The verdict table in words and percentage points; `against` where not every difference is to the baseline."""
    rows = []
    metric = str(data.plan.get("primary_metric", "")).rpartition("/")[2]
    frame = compared(data)
    named = bool(set(frame["against"]) - {"", data.plan.get("baseline", "")})
    for row in frame.itertuples():
        notes = ["primary contrast"] * row.primary + ["reconstruction"] * row.reconstruction
        notes += [EARLIER_NOTE] * (row.arm in data.earlier)
        rows.append(
            {
                "arm": f"{row.arm} ({', '.join(notes)})" if notes else str(row.arm),
                **({"against": row.against or EMPTY} if named else {}),
                f"accuracy ({metric})": percent(row.score),
                "difference (points)": points(row.difference, signed=True),
                "95 % interval": interval_text(row.low, row.high),
                "p": p_text(row.p_judged),
                "seeds": str(row.seeds) if row.verdict in ("baseline", ON_TOKENS) else f"{row.pairs} paired",
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
    """mean@k, greedy, pass@k and entropy of the last step, mean over seeds: test split, shifted and transfer sets.

    Attacked evaluations are not among them: `attacked.robustness`.
    """
    items = data.table("eval")
    own = (data.test_split, data.validation_split)
    shifted = [split for split in pd.unique(items["split"]) if split not in own and not attacked.is_attacked(split)]
    frame = stats.side_figures(items, [data.test_split, *sorted(shifted)])
    if frame.empty:
        return pd.DataFrame({"figures": ["none yet: no run has finished"]})
    for column in frame.columns:
        if column.startswith(("mean@", "pass@", "greedy")):
            frame[column] = frame[column].map(percent)
    frame["entropy (nats)"] = frame["entropy (nats)"].map("{:.3f}".format)
    return frame


def last_steps(data: SweepData) -> pd.DataFrame:
    """Means over the last tenth of each run's steps, then over seeds.

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
    last = steps.groupby(["arm", "seed"], observed=True)["step"].transform("max")
    tail = steps[steps["step"] > 0.9 * last - 1]
    tail = tail.assign(
        entropy=tail["entropy"].where(~tail["drops_groups"], tail["entropy_sampled_image"]),
        time_step=costs.step_seconds(tail),
    )
    by_seed = tail.groupby(["arm", "seed"], observed=True)[list(names)].mean()
    frame = by_seed.groupby("arm", observed=True).mean().rename(columns=names)
    frame = frame.map(lambda value: EMPTY if math.isnan(value) else f"{value:.4g}").reset_index()
    frame["arm"] = [f"{arm} ({ALL_SAMPLED})" if arm in data.filtering else str(arm) for arm in frame["arm"]]
    return frame


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


def summary_table(data: SweepData) -> pd.DataFrame:
    """One look at every arm: accuracy, entropy at the end, cost of a run, what went wrong. Means of finished seeds.

    Entropy is that of the validation completions after the last step (temperature 1). `went wrong` counts seeds, of all
    that have begun: those that diverged (see `health`), and those in which a detector fired.
    """
    items = data.table("eval")
    final = stats.final_scores(items, data.test_split)
    entropy = stats.side_figures(items, [data.validation_split])
    cost = costs.mean_costs(data).set_index("arm")
    wrong = _went_wrong(data)
    rows = []
    for row in compared(data).itertuples():
        own = final.loc[final["arm"] == row.arm, "accuracy"]
        spread = f" ({percent(own.min())} to {percent(own.max())})" if len(own) > 1 else ""
        ends = entropy.loc[entropy["arm"] == row.arm, "entropy (nats)"] if len(entropy) else []
        spent = cost.loc[row.arm] if row.arm in cost.index else None
        rows.append(
            {
                "arm": f"{row.arm} (reconstruction)" if row.reconstruction else str(row.arm),
                "seeds": len(own),
                f"{data.test_split}, {str(data.plan.get('primary_metric', '')).rpartition('/')[2]}": percent(row.score)
                + spread,
                "entropy (nats)": f"{ends.iloc[0]:.3f}" if len(ends) else EMPTY,
                "generated tokens": amount(spent["generated"]) if spent is not None else EMPTY,
                "forward + backward tokens": amount(spent["processed"]) if spent is not None else EMPTY,
                "time": duration(spent["seconds"]) if spent is not None else EMPTY,
                "went wrong": wrong.get(row.arm, "nothing"),
            }
        )
    return pd.DataFrame(rows)


def _went_wrong(data: SweepData) -> dict[str, str]:
    """Arm -> what happened in how many of the seeds that have begun."""
    begun = data.trials[data.trials["step"] > 0].groupby("arm", observed=True).size()
    diverged, fired = health.diverged(data), health.alarms(data)
    fired = fired[fired["detector"] != health.EXPLOSION]  # told as divergence
    watched = {tree["arm"] for tree in data.documents(schema.ALARMS_FILE)}
    found = {}
    for arm in data.arms:
        runs = int(begun.get(arm, 0))
        reasons = {seed: why for (name, seed), why in sorted(diverged.items()) if name == arm}
        parts = (
            [f"diverged in {len(reasons)} of {runs}: {'; '.join(dict.fromkeys(reasons.values()))}"] if reasons else []
        )
        counted = fired[fired["arm"] == arm].groupby("detector", sort=True)["seed"].nunique()
        parts += [f"{name} in {count} of {runs}" for name, count in counted.items()]
        nothing = "nothing" if arm in watched else "no alarms recorded" if runs else EMPTY
        found[arm] = "; ".join(parts) or nothing
    return found


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


def alarm_table(data: SweepData) -> pd.DataFrame:
    """Every alarm: arm, seed, step, which detector, and its sentence. Empty where none was recorded."""
    frame = health.alarms(data)[["arm", "seed", "step", "detector", "sentence"]]
    # the step has a column of its own
    sentences = [
        text.removeprefix(f"step {step}: ") for text, step in zip(frame["sentence"], frame["step"], strict=True)
    ]
    return frame.assign(sentence=sentences)


def robustness_table(data: SweepData) -> pd.DataFrame:
    """Accuracy under attack, mean over seeds: one row per arm and attack, one column per strength in grey levels."""
    frame = attacked.robustness(data)
    if frame.empty:
        return frame
    means = frame.pivot_table(index=["attack", "arm"], columns="level", values="accuracy", observed=True)
    means.columns = [f"{level:g} levels" for level in means.columns]
    return means.map(percent).reset_index()


def amount(count: float) -> str:
    """A number of tokens in at most three digits and a unit; thousands k, millions M, billions G."""
    if math.isnan(count):
        return EMPTY
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 0.31 s, 42 s, 3.5 min, 2.1 h."""
    if math.isnan(seconds):
        return EMPTY
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"
