"""Which arm is compared with which: the planned pair, the others with the baseline, and what is not compared at all."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import pandas as pd

from analysis import stats
from analysis.arms import reconstructions
from analysis.load import SweepData

ON_TOKENS = "compared at equal generated tokens: see figure"
"""In place of a verdict for arms that drop groups."""
IDENTICAL = "the same scores on every seed"
"""A control that changes nothing, such as an attack of step 0: there is no difference to judge."""
JUDGEMENT = ("difference", "low", "high", "sd", "p", "p_judged", "mde", "seeds_needed")


def compared(data: SweepData) -> pd.DataFrame:
    """`stats.compare_arms` of the primary metric, with `against`, `primary`, `exploratory` and `reconstruction`.

    The row of the primary arm is the planned pair, whatever its reference; all others are against the baseline, and an
    arm of an earlier definition against the baseline that it was launched with. A pair of which one arm is not in the
    plan has no row: its other arm is then compared like any other. Where one arm of a pair drops groups, their steps
    are no fair measure: the row has no difference, the verdict ON_TOKENS, and no part in the adjustment of the other p
    values. Arms that a search gave up have no row: they have fewer seeds because they did badly.
    """
    arms = [arm for arm in data.arms if arm not in data.pruned]
    baseline, against = data.plan.get("baseline", ""), partners(data)
    primary, reference = planned_pair(data)
    if not {primary, reference} <= set(data.arms):
        primary = ""
    dropping = set(data.filtering)
    unfair = [arm for arm in arms if against[arm] and dropping & {arm, against[arm]}]
    final = stats.final_scores(data.table("eval"), data.test_split)
    fair = {arm: against[arm] or arm for arm in arms if arm not in unfair}
    family = [arm for arm, partner in fair.items() if partner == baseline]
    frames = [stats.compare_arms(final, arms=family, baseline=baseline, primary=primary)] if family else []
    frames += [
        stats.compare_arms(final, arms=[arm], baseline=partner, primary=primary)
        for arm, partner in fair.items()
        if arm not in family
    ]
    frames += [_on_tokens(stats.compare_arms(final, arms=[arm], baseline=against[arm])) for arm in unfair]
    if not frames:
        return pd.DataFrame(columns=["arm", "against", "primary", "exploratory", "reconstruction"])
    frame = pd.concat(frames).set_index("arm").loc[arms].reset_index()
    ours = reconstructions(data)
    identical = (frame["low"] == 0) & (frame["high"] == 0)
    frame.loc[identical, ["p_judged", "mde", "seeds_needed"]] = math.nan
    frame.loc[identical, "verdict"] = IDENTICAL
    frame["primary"] = [arm == primary for arm in arms]
    frame["against"] = [against[arm] for arm in arms]
    frame["exploratory"] = [_is_exploratory(data, arm, against[arm]) for arm in arms]
    frame["reconstruction"] = [arm in ours for arm in arms]
    return frame


def _on_tokens(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**dict.fromkeys(JUDGEMENT, math.nan), verdict=ON_TOKENS)


def _is_exploratory(data: SweepData, arm: str, against: str) -> bool:
    """Was a part of the comparison added after the first launch: a trial of the arm, or one it is paired with?"""
    own, other = (data.trials[data.trials["arm"] == name] for name in (arm, against))
    partners = other[other["seed"].isin(own["seed"])]
    return bool(own["exploratory"].any() or partners["exploratory"].any())


def partners(data: SweepData) -> dict[str, str]:
    """Arm -> the arm it is compared with, "" for a baseline."""
    baseline, (primary, reference) = data.plan.get("baseline", ""), planned_pair(data)
    found = {arm: "" if arm == baseline else baseline for arm in data.arms}
    if {primary, reference} <= found.keys():
        found[primary] = reference
    return found | {arm: "" if arm == partner else partner for arm, partner in data.earlier.items()}


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
