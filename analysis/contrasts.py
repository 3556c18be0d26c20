"""Which arm is compared with which: the planned pair, every arm with its baseline, and what is not compared at all."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import pandas as pd

from analysis import health, stats, verdicts
from analysis.arms import reconstructions
from analysis.load import SweepData
from analysis.looks import looks
from analysis.verdicts import BETTER, IDENTICAL, SAME, WORSE, Diverged, Looks
from saei import schema

ON_TOKENS = "compared at equal generated tokens: see figure"
"""In place of a verdict for arms that drop groups."""
JUDGEMENT = ("difference", "low", "high", "sd", "p", "p_judged", "mde", "seeds_needed")
FACTS = (
    "against", "primary", "exploratory", "reconstruction", "looks", "diverged", "failed", "planned",
    "words",
)  # fmt: skip


def compared(data: SweepData) -> pd.DataFrame:
    """The primary metric's comparisons: columns of `stats.compare_arms` and FACTS, in arm order.

    Every arm has a row against its baseline (an arm of an earlier definition: the one it was launched with). The
    primary arm has the row of the planned pair, `primary`; where that is not against the baseline, its row against the
    baseline follows. A pair of which one arm is not in the plan has no row. Arms that a search gave up have no row:
    they have fewer seeds because they did badly.

    The primary row is judged by its own p value; all others are Holm-adjusted as one family, and what they would take
    reckons with its size. Where one arm of a pair
    drops groups, their steps are no fair measure: no difference, the verdict ON_TOKENS, no part in the family.

    `verdict` is the bare word of `analysis.verdicts`, `words` the whole of it with what stands beside. `looks` counts
    the launches that added to the pair (`exploratory`: any), `diverged` and `failed` seeds of the arm, `planned`
    the seeds that the pair has in the plan.
    """
    return data.once("compared", lambda: _compared(data)).copy()


def _compared(data: SweepData) -> pd.DataFrame:
    planned = pairs(data)
    if not planned:
        return pd.DataFrame(columns=[*stats.COMPARED_COLUMNS, *FACTS])
    frame = _judged(data, planned)
    divergence, failures = diverged_seeds(data), data.state(schema.FAILED)["arm"].value_counts()
    ours = reconstructions(data)
    found = [looks(data, arm, against) for arm, against in planned]
    frame["exploratory"] = [one.count > 0 for one in found]
    frame["looks"] = [one.count for one in found]
    frame["reconstruction"] = frame["arm"].isin(list(ours))
    frame["diverged"] = [divergence[arm].count for arm in frame["arm"]]
    frame["failed"] = [int(failures.get(arm, 0)) for arm in frame["arm"]]
    frame["verdict"] = [
        verdicts.with_divergence(row.verdict, divergence[row.arm], divergence.get(row.against, Diverged()), row.against)
        for row in frame.itertuples()
    ]
    frame["planned"] = [_planned(data, arm, against) for arm, against in planned]
    frame["words"] = [_words(row, divergence[row.arm], one) for row, one in zip(frame.itertuples(), found, strict=True)]
    return frame


def _words(row, divergence: Diverged, found: Looks) -> str:
    beside = verdicts.remarks(row.verdict, divergence, row.failed, found)
    if row.verdict in (BETTER, WORSE, SAME) and row.pairs < row.planned:
        beside.insert(0, f"so far, {row.pairs} of {row.planned} seeds")
    return verdicts.in_words(row.verdict, beside)


def _planned(data: SweepData, arm: str, against: str) -> int:
    """Seeds that both arms have in the plan, finished or not."""
    own, other = (set(data.trials.loc[data.trials["arm"] == name, "seed"]) for name in (arm, against))
    return len(own & other)


def pairs(data: SweepData) -> list[tuple[str, str]]:
    """(arm, the arm it is compared with) in arm order, "" with a baseline itself; the planned pair before the rest."""
    primary, given_up = primary_pair(data), set(data.pruned)
    found = []
    for arm, against in partners(data).items():
        if arm in given_up:
            continue
        found += [primary] * (arm == primary[0])
        if (arm, against) != primary and not (arm == primary[0] and against not in data.arms):
            found.append((arm, against))
    return found


def _judged(data: SweepData, planned: list[tuple[str, str]]) -> pd.DataFrame:
    """`stats.compare_arms` of each pair, judged as one table."""
    primary, dropping = primary_pair(data), set(data.filtering)
    final = stats.final_scores(data.table("problems"), data.test_split)
    frames = []
    for arm, against in planned:
        frame = stats.compare_arms(final, arms=[arm], baseline=against or arm)
        frames.append(_on_tokens(frame) if against and dropping & {arm, against} else frame)
    frame = pd.concat(frames, ignore_index=True)
    frame["against"] = [against for _, against in planned]
    frame["primary"] = [pair == primary for pair in planned]
    frame = stats.judged_together(frame, frame["primary"])
    identical = (frame["low"] == 0) & (frame["high"] == 0)
    frame.loc[identical, ["p_judged", "mde", "seeds_needed"]] = math.nan
    frame.loc[identical, "verdict"] = IDENTICAL
    return frame


def same_scores(data: SweepData) -> str:
    """Arms with the same scores on every seed, in a sentence: one arm under two names, or a control without effect."""
    final = stats.final_scores(data.table("problems"), data.test_split)
    seeds = {arm: tuple(zip(rows["seed"], rows["accuracy"].round(stats.DECIMALS), strict=True))
             for arm, rows in final.sort_values("seed").groupby("arm", observed=True)}  # fmt: skip
    groups = [[str(arm) for arm in seeds if seeds[arm] == scores] for scores in dict.fromkeys(seeds.values())]
    told = [" and ".join(arms) for arms in groups if len(arms) > 1 and len(seeds[arms[0]]) >= stats.SEEDS_FOR_P]
    return f"Same scores on every seed, which counts as one finding: {'; '.join(told)}." if told else ""


def _on_tokens(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(**dict.fromkeys(JUDGEMENT, math.nan), verdict=ON_TOKENS)


def diverged_seeds(data: SweepData) -> dict[str, Diverged]:
    """Arm -> how many of the seeds that have begun diverged."""
    begun = data.trials[data.trials["step"] > 0]["arm"].value_counts()
    wrong = pd.Series([arm for arm, _ in health.diverged(data)], dtype=object).value_counts()
    return {arm: Diverged(count=int(wrong.get(arm, 0)), begun=int(begun.get(arm, 0))) for arm in data.arms}


def partners(data: SweepData) -> dict[str, str]:
    """Arm -> the baseline that it is compared with, "" for a baseline."""
    baseline = data.plan.get("baseline", "")
    found = {arm: "" if arm == baseline else baseline for arm in data.arms}
    return found | {arm: "" if arm == partner else partner for arm, partner in data.earlier.items()}


def planned_pair(data: SweepData) -> tuple[str, str]:
    """The primary contrast as planned, (arm, reference), whether or not both were launched; empty without a plan."""
    arm, reference = data.plan.get("primary_contrast") or ("", "")
    return arm, reference


def primary_pair(data: SweepData) -> tuple[str, str]:
    """`planned_pair` where both arms are in the plan, else two empty names."""
    return planned_pair(data) if set(planned_pair(data)) <= set(data.arms) else ("", "")


def not_launched(data: SweepData) -> str:
    """What cannot be compared for an arm that `--only` or a selection left out, in sentences; "" where none is."""
    arm, reference = planned_pair(data)
    baseline = data.plan.get("baseline", "")
    lacking = [name for name in (arm, reference) if name and name not in data.arms]
    sentences, whole = [], "selection" if data.selection_note else "plan"
    if lacking:
        named = " and ".join(lacking)
        why = f"it has no trial of {named}" if data.selection_note else f"launched without {named}"
        sentences.append(f"The primary contrast, {arm} minus {reference}, is not part of this {whole}: {why}.")
    if baseline and baseline not in data.arms:
        sentences.append(f"Without the baseline {baseline} in this {whole}, no arm is compared with it.")
    return " ".join(sentences)
