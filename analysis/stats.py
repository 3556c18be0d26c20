"""Is the method better? One number per training seed, paired with the baseline's run of the same seed.

The unit is the seed: scores of one seed are means over all items, differences are taken per seed, and their mean has a
t interval with S - 1 degrees of freedom. (A bootstrap over so few seeds covers less than it says: see
`analysis.simulation`.) The figure of a run is that of its last step; no maximum over steps is ever taken on the test
split.

The p value of the primary contrast stands as it is; those of the other arms are Holm-adjusted among themselves. The
words of a verdict are in `analysis.verdicts`. Under three seeds there is no p value.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
import pandas as pd
from scipy import optimize, stats

from analysis.load import ARM_FACTS
from analysis.problems import as_problems, mean_entropy, same_items
from analysis.verdicts import ALPHA, BASELINE, NO_PAIR, SEEDS_FOR_P, word
from saei.schema import FINISHED, GREEDY, SAMPLED

CONFIDENCE, POWER = 0.95, 0.8
MOST_SEEDS = 10_000
DECIMALS = 12
"""Of a difference between scores that counts as one."""

COMPARED_COLUMNS = (
    "arm", "seeds", "score", "pairs", "difference", "low", "high", "sd", "p", "p_judged", "mde", "seeds_needed",
    "verdict",
)  # fmt: skip
SCORE_COLUMNS = ("arm", "seed", "trial_id", "step", "items", "samples", "accuracy", "item_set", *ARM_FACTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with its t interval; `low` and `high` are NaN under two values."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Arm minus baseline over paired seeds. `sd` is that of the per-seed differences; NaN where undefined.

    `mde`: smallest true difference found with 80 % power at this many seeds. `seeds_needed`: seeds in all that would
    find a true difference of the size seen here (math.inf: more than MOST_SEEDS, or none seen).
    """

    interval: Interval
    sd: float
    p: float
    mde: float
    seeds_needed: float


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of a mean, S - 1 degrees of freedom."""
    array = np.asarray(values, dtype=float)
    count = len(array)
    if count == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, count=0)
    mean = float(array.mean())
    if count == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan, count=1)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * array.std(ddof=1) / math.sqrt(count))
    return Interval(mean=mean, low=mean - half, high=mean + half, count=count)


def power(effect: float, sd: float, seeds: int, alpha: float = ALPHA) -> float:
    """Probability that a two-sided paired t test over `seeds` finds a true difference `effect` (noncentral t)."""
    critical = stats.t.ppf(1 - alpha / 2, seeds - 1)
    shift = effect / sd * math.sqrt(seeds)
    upper = stats.nct.sf(critical, seeds - 1, shift)
    lower = stats.nct.cdf(-critical, seeds - 1, shift)
    # far in the tail scipy's lower part can come out as NaN; it is zero there
    return float(upper + (0.0 if math.isnan(lower) else lower))


def minimum_detectable(sd: float, seeds: int, target: float = POWER, alpha: float = ALPHA) -> float:
    """Smallest true difference that a test at `alpha` finds with probability `target`; NaN under two seeds."""
    if seeds < 2 or math.isnan(sd):
        return math.nan
    return sd * _detectable_in_sd(seeds, target, alpha)


@lru_cache
def _detectable_in_sd(seeds: int, target: float, alpha: float) -> float:
    # a true difference of three times the critical value is found with more than 99 %
    most = 3 * (float(stats.t.ppf(1 - alpha / 2, seeds - 1)) + 1) / math.sqrt(seeds)
    return float(optimize.brentq(lambda effect: power(effect, 1.0, seeds, alpha) - target, 1e-6, most))  # pyright: ignore[reportArgumentType]


def seeds_needed(effect: float, sd: float, target: float = POWER, alpha: float = ALPHA) -> float:
    """Fewest seeds (at least 3) whose test at `alpha` finds a true difference `effect` with probability `target`.

    math.inf beyond MOST_SEEDS.
    """
    if math.isnan(sd) or effect == 0:
        return math.inf
    if sd == 0:
        return SEEDS_FOR_P
    # where a normal test would be; the t test needs a few more, so the search is short
    in_sd = abs(effect) / sd
    normal = (stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(target)) / in_sd
    seeds = max(SEEDS_FOR_P, math.floor(min(normal**2, MOST_SEEDS)))
    while seeds <= MOST_SEEDS and power(in_sd, 1.0, seeds, alpha) < target:
        seeds += 1
    while seeds > SEEDS_FOR_P and power(in_sd, 1.0, seeds - 1, alpha) >= target:
        seeds -= 1
    return seeds if seeds <= MOST_SEEDS else math.inf


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Per-seed differences of two score lists in the same seed order. Raises ValueError for unequal lengths."""
    if len(arm) != len(baseline):
        raise ValueError(f"paired scores must have one baseline each, got {len(arm)} and {len(baseline)}")
    return of_differences((np.asarray(arm, dtype=float) - np.asarray(baseline, dtype=float)).tolist())


def of_differences(values: Sequence[float]) -> Difference:
    """What per-seed differences say: mean, interval, p, and what it would take."""
    differences = np.asarray(values, dtype=float)
    interval = t_interval(differences.tolist())
    seeds = interval.count
    sd = float(differences.std(ddof=1)) if seeds > 1 else math.nan
    return Difference(
        interval=interval,
        sd=sd,
        p=p_value(differences.tolist()),
        mde=minimum_detectable(sd, seeds),
        seeds_needed=seeds_needed(interval.mean, sd) if seeds > 1 else math.inf,
    )


def p_value(values: Sequence[float]) -> float:
    """Two-sided t test of per-seed differences against 0; NaN under SEEDS_FOR_P of them."""
    seeds = len(values)
    if seeds < SEEDS_FOR_P:
        return math.nan
    # scores that are equal but were added up in another order differ by some 1e-17, which is no difference
    differences = np.round(values, DECIMALS)
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / sd * math.sqrt(seeds), seeds - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment; NaN (no p value) stays NaN and is not counted."""
    # by hand, as statsmodels' multipletests collects the interpreter's garbage in every call: half a second
    array = np.asarray(p_values, dtype=float)
    order = np.argsort(array)[: int((~np.isnan(array)).sum())]  # NaN sorts last
    adjusted = array.copy()
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(array[order] * np.arange(len(order), 0, -1)))
    return adjusted.tolist()


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased probability that one of k completions is right (arXiv 2107.03374). Raises ValueError if k > samples."""
    if k > samples:
        raise ValueError(f"pass@k needs k completions per problem, got k = {k} and {samples} completions")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def scores(items: pd.DataFrame, split: str, decoding: str = SAMPLED) -> pd.DataFrame:
    """Mean accuracy per run and evaluated step, over all items of a split: SCORE_COLUMNS.

    `items` are rows of the `problems` or the `eval` table with arm, seed, trial_id, and ARM_FACTS where known. Each
    problem counts once, as the mean over its completions (mean@k; `samples` is k). `item_set` names the set of
    problems.
    """
    return _scored(items[(items["split"] == split) & (items["decoding"] == decoding)])


def _scored(rows: pd.DataFrame) -> pd.DataFrame:
    """`scores` of rows with one split and decoding."""
    if rows.empty:
        return pd.DataFrame(columns=list(SCORE_COLUMNS))
    run = ["arm", "seed", "trial_id", "step", *(fact for fact in ARM_FACTS if fact in rows)]
    problems = as_problems(rows, run)
    grouped = problems.assign(item=same_items(problems["problem_id"])).groupby(run, observed=True)
    result = grouped.agg(
        items=("item", "size"), samples=("samples", "max"), accuracy=("accuracy", "mean"), item_set=("item", "sum")
    )
    return result.reset_index().astype({"trial_id": "str"})


def final_scores(items: pd.DataFrame, split: str, decoding: str = SAMPLED) -> pd.DataFrame:
    """`scores` at the last step of each finished run."""
    return _scored(_last_rows(items, split, decoding))


def _last_rows(items: pd.DataFrame, split: str, decoding: str) -> pd.DataFrame:
    """Rows of the last evaluation of each finished run on a split."""
    rows = items[(items["split"] == split) & (items["decoding"] == decoding) & (items["state"] == FINISHED)]
    last = rows.groupby(["arm", "seed"], observed=True)["step"].transform("max") if len(rows) else rows["step"]
    return rows[rows["step"] == last]


def paired_values(final: pd.DataFrame, arm: str, against: str) -> pd.Series:
    """Per-seed accuracy differences of two arms over the seeds both finished, by seed.

    Raises ValueError where a pair was scored on different problems.
    """
    own, reference = (final[final["arm"] == name].set_index("seed") for name in (arm, against))
    shared = own.index.intersection(reference.index).sort_values()
    if (own.loc[shared, "item_set"] != reference.loc[shared, "item_set"]).any():
        raise ValueError(f"{arm} and {against} were tested on different problems: their runs cannot be paired")
    return own.loc[shared, "accuracy"] - reference.loc[shared, "accuracy"]


def compare_arms(final: pd.DataFrame, *, arms: Sequence[str], baseline: str, primary: str = "") -> pd.DataFrame:
    """One row per arm: score, difference to the baseline over the seeds both finished, and the verdict.

    COMPARED_COLUMNS; `seeds` are the arm's own, `p_judged` is Holm-adjusted for all but the primary arm.
    Raises ValueError where a pair was scored on different problems.
    """
    rows = []
    for arm in arms:
        own = final.loc[final["arm"] == arm, "accuracy"]
        difference = of_differences(paired_values(final, arm, baseline).tolist())
        rows.append({"arm": arm, "seeds": len(own), "score": own.mean(), "difference": difference})
    frame = pd.DataFrame([_flat(row, baseline) for row in rows], columns=list(COMPARED_COLUMNS))
    return judged_together(frame, frame["arm"].isin([primary, baseline]))


def judged_together(frame: pd.DataFrame, alone: pd.Series) -> pd.DataFrame:
    """COMPARED_COLUMNS with `p_judged`, what it would take, and the verdict, as one table; rows `alone` as they are.

    The p values of the others are Holm-adjusted. Those that are not known yet count as 1, so that no verdict changes
    because other arms finish. What they would take is for a test at ALPHA over the size of that family, which the
    smallest p must pass: a little too much for the others. Too few seeds for a verdict detect nothing: `mde` is NaN.
    """
    frame = frame.copy()
    compared = frame["difference"].notna() | (frame["verdict"] == NO_PAIR)
    family = compared & ~alone
    given = frame.loc[family, "p"].astype(float)
    adjusted = pd.Series(holm(given.fillna(1.0).tolist()), given.index, dtype=float)
    frame.loc[family, "p_judged"] = adjusted.where(given.notna())
    alpha = ALPHA / max(1, len(given))
    for row in frame[family & (frame["pairs"] > 1)].itertuples():
        frame.loc[row.Index, "mde"] = minimum_detectable(row.sd, row.pairs, alpha=alpha)
        frame.loc[row.Index, "seeds_needed"] = seeds_needed(row.difference, row.sd, alpha=alpha)
    frame.loc[frame["pairs"] < SEEDS_FOR_P, "mde"] = math.nan
    said = [word(row.pairs, row.difference, row.p_judged) for row in frame[compared].itertuples()]
    frame.loc[compared, "verdict"] = said
    return frame


def _flat(row: dict, baseline: str) -> dict:
    difference: Difference = row.pop("difference")
    if row["arm"] == baseline:
        empty = dict.fromkeys(("difference", "low", "high", "sd", "p", "p_judged", "mde", "seeds_needed"), math.nan)
        return {**row, "pairs": 0, **empty, "verdict": BASELINE}
    return {
        **row,
        "pairs": difference.interval.count,
        "difference": difference.interval.mean,
        "low": difference.interval.low,
        "high": difference.interval.high,
        "sd": difference.sd,
        "p": difference.p,
        "p_judged": difference.p,
        "mde": difference.mde,
        "seeds_needed": difference.seeds_needed,
        "verdict": word(difference.interval.count, difference.interval.mean, difference.p),
    }


def side_figures(items: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
    """Beside the primary metric: per arm and split, mean@k, greedy accuracy, pass@k and entropy, mean over seeds.

    Last step of finished runs. Entropy is token-weighted, in nats, at temperature 1.
    """
    rows = []
    for split in splits:
        sampled, greedy = final_scores(items, split), final_scores(items, split, GREEDY)
        ends = as_problems(_last_rows(items, split, SAMPLED), ["arm", "seed"])
        entropies = mean_entropy(ends, ["arm"]) if len(ends) else {}
        for arm, runs in sampled.groupby("arm", observed=True):
            k, own = int(runs["samples"].min()), ends[ends["arm"] == arm]
            counted = zip(own["samples"], own["right"], strict=True)
            best = [pass_at_k(int(size), round(total), k) for size, total in counted]
            row = {"split": split, "arm": arm, "seeds": len(runs), f"mean@{k}": runs["accuracy"].mean()}
            row["greedy"] = greedy.loc[greedy["arm"] == arm, "accuracy"].mean()
            row |= {
                f"pass@{k}": float(np.mean(best)),
                "entropy (nats)": entropies.get(arm, math.nan),
            }
            rows.append(row)
    return pd.DataFrame(rows)
