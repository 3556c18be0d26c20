"""One look at every arm: accuracy, entropy at the end, cost, what went wrong."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import pandas as pd

from analysis import costs, health, stats
from analysis.arms import reconstructions
from analysis.cells import EMPTY, amount, duration, nats, percent
from analysis.contrasts import diverged_seeds
from analysis.load import SweepData
from saei import schema


def summary_table(data: SweepData) -> pd.DataFrame:
    """One look at every arm: accuracy, entropy at the end, cost of a run, what went wrong. Means of finished seeds.

    Entropy is that of the validation completions after the last step (temperature 1). `went wrong` counts seeds, of all
    that have begun: those that diverged (see `health`), and those in which a detector fired.
    """
    items = data.table("problems")
    final = stats.final_scores(items, data.test_split)
    entropy = stats.side_figures(items, [data.validation_split])
    cost = costs.mean_costs(data).set_index("arm")
    wrong, ours = _went_wrong(data), reconstructions(data)
    rows = []
    for arm in data.arms:
        if arm in data.pruned:  # their few seeds are there because they did badly
            continue
        own = final.loc[final["arm"] == arm, "accuracy"]
        spread = f" ({percent(own.min())} to {percent(own.max())})" if len(own) > 1 else ""
        ends = entropy.loc[entropy["arm"] == arm, "entropy (nats)"] if len(entropy) else []
        spent = cost.loc[arm] if arm in cost.index else None
        rows.append(
            {
                "arm": f"{arm} (reconstruction)" if arm in ours else str(arm),
                "seeds": len(own),
                f"{data.test_split}, {str(data.plan.get('primary_metric', '')).rpartition('/')[2]}": percent(own.mean())
                + spread,
                "entropy (nats)": nats(ends.iloc[0]) if len(ends) else EMPTY,
                "generated tokens": amount(spent["generated"]) if spent is not None else EMPTY,
                "forward + backward tokens": amount(spent["processed"]) if spent is not None else EMPTY,
                "time": duration(spent["seconds"]) if spent is not None else EMPTY,
                "went wrong": wrong.get(arm, "nothing"),
            }
        )
    return pd.DataFrame(rows)


def _went_wrong(data: SweepData) -> dict[str, str]:
    """Arm -> what happened in how many of the seeds that have begun."""
    counted_runs = diverged_seeds(data)
    diverged, fired = health.diverged(data), health.alarms(data)
    fired = fired[fired["detector"] != health.EXPLOSION]  # told as divergence
    watched = {tree["arm"] for tree in data.documents(schema.ALARMS_FILE)}
    found = {}
    for arm in data.arms:
        runs = counted_runs[arm].begun
        reasons = {seed: why for (name, seed), why in sorted(diverged.items()) if name == arm}
        parts = (
            [f"diverged in {len(reasons)} of {runs}: {'; '.join(dict.fromkeys(reasons.values()))}"] if reasons else []
        )
        counted = fired[fired["arm"] == arm].groupby("detector", sort=True)["seed"].nunique()
        parts += [f"{name} in {count} of {runs}" for name, count in counted.items()]
        nothing = "nothing" if arm in watched else "no alarms recorded" if runs else EMPTY
        found[arm] = "; ".join(parts) or nothing
    return found
