"""The tables about differences: of methods (with the verdict), and of checkpoints (never a verdict on a method)."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math

import numpy as np
import pandas as pd

from analysis import coverage, stats
from analysis.arms import EARLIER_NOTE
from analysis.bootstrap import FEWEST_SEEDS, seed_bootstrap
from analysis.cells import EMPTY, interval_text, p_text, percent, points
from analysis.checkpoint_pair import FEWEST_CLUSTERS, greedy_pair, sampled_pair
from analysis.contrasts import ON_TOKENS, compared, pairs, primary_pair
from analysis.items import paired_items
from analysis.load import SweepData
from analysis.table import captioned
from analysis.verdicts import BASELINE, SAME, TWO_SEEDS

METHODS = (
    "The methods. Unit: the training seed, paired with the same seed of the other arm; Student's t. The primary "
    "contrast is judged by its own p. All other rows are one family: p is Holm-adjusted, detectable differences and "
    "seeds reckon with its size; the intervals do not, so one may leave out 0 where nothing is distinguishable."
)
CHECKPOINTS = (
    "These two checkpoints, not the methods. Unit: the test problem, so this holds for these weights only and says "
    "nothing about another training seed; it never feeds a verdict on a method. Greedy: McNemar's exact test. Sampled: "
    f"problems that share a figure are one cluster; no interval under {FEWEST_CLUSTERS} of them."
)
ROBUST = (
    "The methods again, beside the verdict and never in its place. IQM: mean of the middle half of the per-seed "
    "differences, which one diverged run does not move. Each interval says 95 %, and how often it held the truth in "
    "simulated sweeps (python -m analysis.simulation; variances measured on a sweep of all methods)."
)


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
                "seeds": f"{row.pairs} paired" if row.against and row.verdict != ON_TOKENS else str(row.seeds),
                "detectable (points)": points(row.mde),
                "seeds in all": seeds_text(row),
                "verdict": row.words,
            }
        )
    return captioned(pd.DataFrame(rows), METHODS)


def seeds_text(row) -> str:
    """Seeds in all that would find the difference seen; nothing where a verdict stands."""
    if row.verdict not in (SAME, TWO_SEEDS):
        return EMPTY
    return f"> {stats.MOST_SEEDS}" if math.isinf(row.seeds_needed) else f"about {int(row.seeds_needed)}"


def verdict_sentence(row) -> str:
    """One row of `contrasts.compared` as a sentence, with what it would take where nothing was distinguishable."""
    parts = []
    if not math.isnan(row.difference):
        parts.append(f"{points(row.difference, signed=True)} points")
    if not math.isnan(row.low):
        parts.append(f"95 % interval {interval_text(row.low, row.high)}")
    parts.append(row.words)
    if row.verdict == SAME:
        needed = f"more than {stats.MOST_SEEDS}" if math.isinf(row.seeds_needed) else seeds_text(row)
        parts.append(
            f"{row.pairs} seeds find {points(row.mde)} points with 80 % power; a difference of the size seen would "
            f"take {needed} seeds"
        )
    return f"{row.arm} minus {row.against}: {'; '.join(parts)}."


def checkpoint_pairs(data: SweepData, arm: str = "", against: str = "") -> pd.DataFrame:
    """Per seed, the two arms' last checkpoints on the same test problems; by default those of the primary contrast.

    Without a primary contrast in the plan, the first arm beside the baseline. Raises ValueError for different problems.
    """
    if not arm:
        real = [(one, other) for one, other in [primary_pair(data), *pairs(data)] if one and other and one != other]
        arm, against = real[0] if real else ("", "")
    items = paired_items(data, arm, against)
    if items.empty:
        return pd.DataFrame({"checkpoints": ["none yet: no seed has finished two arms to compare"]})
    rows = []
    for seed, both in items.groupby("seed"):
        sampled = sampled_pair(both["arm_accuracy"], both["against_accuracy"], both["figure"].tolist())
        asked = both.dropna(subset=["arm_greedy", "against_greedy"])
        greedy = greedy_pair(asked["arm_greedy"], asked["against_greedy"]) if len(asked) else None
        rows.append(
            {
                "seed": seed,
                "problems": sampled.problems,
                "figures": sampled.clusters,
                "greedy: gained": str(greedy.gained) if greedy else EMPTY,
                "lost": str(greedy.lost) if greedy else EMPTY,
                "greedy (points)": points(greedy.difference, signed=True) if greedy else EMPTY,
                "McNemar p": p_text(greedy.p) if greedy else EMPTY,
                "sampled (points)": points(sampled.difference, signed=True),
                "95 % interval": interval_text(sampled.low, sampled.high),
                "p": p_text(sampled.p),
            }
        )
    return captioned(pd.DataFrame(rows), f"{arm} minus {against}, seed by seed. {CHECKPOINTS}")


def robust_table(data: SweepData) -> pd.DataFrame:
    """From FEWEST_SEEDS paired seeds on: mean and IQM of the difference with t interval and bootstrap, each with the
    coverage that it had in simulation."""
    rows, most = [], 0
    final = stats.final_scores(data.table("problems"), data.test_split)
    for row in compared(data).itertuples():
        if row.verdict in (BASELINE, ON_TOKENS) or not row.against:
            continue
        most = max(most, row.pairs)
        if row.pairs < FEWEST_SEEDS:
            continue
        values = stats.paired_values(final, row.arm, row.against).tolist()
        middle, mean = seed_bootstrap(values), seed_bootstrap(values, np.mean)
        rows.append(
            {
                "arm": f"{row.arm} (primary contrast)" if row.primary else str(row.arm),
                "against": row.against,
                "seeds": row.pairs,
                "mean (points)": points(row.difference, signed=True),
                "t interval": _covered(row.low, row.high, coverage.METHOD, row.pairs),
                "bootstrap of the mean": _covered(mean.low, mean.high, coverage.MEAN_BOOTSTRAP, row.pairs),
                "IQM (points)": points(middle.mean, signed=True),
                "bootstrap of the IQM": _covered(middle.low, middle.high, coverage.IQM_BOOTSTRAP, row.pairs),
            }
        )
    if not rows:
        sentence = f"from {FEWEST_SEEDS} paired seeds on; the most so far: {most}"
        return pd.DataFrame({"interquartile means and bootstraps": [sentence]})
    return captioned(pd.DataFrame(rows), ROBUST)


def _covered(low: float, high: float, check: str, seeds: int) -> str:
    return f"{interval_text(low, high)} ({coverage.coverage_text(check, seeds)})"
