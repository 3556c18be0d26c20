"""Are our intervals and verdicts what they say? Made-up sweeps through the real `stats.compare_arms`.

    python -m analysis.simulation

A made-up sweep: each problem has a difficulty (logit, normal), each training seed shifts all problems of both arms
(what pairing removes) and each run its own (what it does not), and k completions a problem are drawn. The standard
deviations are those of Variances; `measured` finds them in a finished sweep.
"""

# pandas carries no types that a checker can follow
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import binomtest

from analysis import stats
from analysis.bootstrap import interquartile_mean, seed_bootstrap
from analysis.checkpoint_pair import sampled_pair

ARM, BASELINE = "arm", "baseline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variances:
    """In logits, but for counts. The defaults give 62 % accuracy and per-seed differences of sd 1.9 points."""

    mean: float = 0.8
    problem: float = 2.0
    seed: float = 0.15
    run: float = 0.09
    problems: int = 256
    completions: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """`hits` of `tries`, with the 95 % (Clopper-Pearson) interval of the true rate."""

    hits: int
    tries: int

    @property
    def share(self) -> float:
        return self.hits / self.tries

    def __str__(self) -> str:
        interval = binomtest(self.hits, self.tries).proportion_ci(method="exact")
        return (
            f"{100 * self.share:5.1f} %  ({100 * interval.low:.1f} to {100 * interval.high:.1f}; {self.tries} sweeps)"
        )


def made_up_runs(
    generator: np.random.Generator, variances: Variances, seeds: int, shift: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Per-problem mean@k of the arm and of the baseline, each (seeds, problems); `shift` in logits moves the arm."""
    v = variances
    problem = generator.normal(v.mean, v.problem, v.problems)
    seed = generator.normal(0, v.seed, (seeds, 1))
    own = generator.normal(0, v.run, (2, seeds, 1))
    return tuple(  # pyright: ignore[reportReturnType]
        generator.binomial(v.completions, expit(problem + seed + run + moved)) / v.completions
        for run, moved in ((own[0], shift), (own[1], 0.0))
    )


def true_difference(variances: Variances, shift: float) -> float:
    """Expected accuracy difference of a `shift` in logits, over all problems, seeds and runs."""
    v = variances
    spread = np.sqrt(v.problem**2 + v.seed**2 + v.run**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(81)
    weights = weights / weights.sum()
    return float(weights @ (expit(v.mean + shift + spread * nodes) - expit(v.mean + spread * nodes)))


def shift_for(points: float, variances: Variances) -> float:
    """The logits that move accuracy by `points` percentage points."""
    grid = np.linspace(0, 3, 3001)
    return float(np.interp(points / 100, [true_difference(variances, x) for x in grid[::10]], grid[::10]))


def judged(arm: np.ndarray, baseline: np.ndarray) -> pd.Series:
    """The row that `stats.compare_arms` gives the arm as the primary contrast."""
    rows = [
        {"arm": name, "seed": seed, "accuracy": float(run.mean()), "item_set": 0}
        for name, runs in ((ARM, arm), (BASELINE, baseline))
        for seed, run in enumerate(runs)
    ]
    table = stats.compare_arms(pd.DataFrame(rows), arms=[BASELINE, ARM], baseline=BASELINE, primary=ARM)
    return table.set_index("arm").loc[ARM]


def coverage_of_method(seeds: int, sweeps: int, points: float = 2.0, variances: Variances | None = None) -> Rate:
    """How often the 95 % interval over seeds holds the true difference."""
    v = variances or Variances()
    generator, shift = np.random.default_rng(seeds), shift_for(points, v)
    truth = true_difference(v, shift)
    rows = [judged(*made_up_runs(generator, v, seeds, shift)) for _ in range(sweeps)]
    return Rate(hits=sum(row["low"] <= truth <= row["high"] for row in rows), tries=sweeps)


def share_of_verdict(word: str, seeds: int, sweeps: int, points: float, variances: Variances | None = None) -> Rate:
    """How often a true difference of `points` is given the verdict `word`."""
    v = variances or Variances()
    generator, shift = np.random.default_rng(1000 + seeds), shift_for(points, v)
    rows = [judged(*made_up_runs(generator, v, seeds, shift)) for _ in range(sweeps)]
    return Rate(hits=sum(row["verdict"] == word for row in rows), tries=sweeps)


def false_winners(arms: int, seeds: int, sweeps: int, variances: Variances | None = None) -> Rate:
    """How often a sweep of `arms` that are all the baseline calls any of them better; one is the primary contrast."""
    v = variances or Variances()
    generator = np.random.default_rng(4000 + arms)
    names = [f"{ARM}{number}" for number in range(arms)]
    hits = 0
    for _ in range(sweeps):
        problem = generator.normal(v.mean, v.problem, v.problems)
        seed = generator.normal(0, v.seed, (seeds, 1))
        own = generator.normal(0, v.run, (arms + 1, seeds, 1))
        scored = (generator.binomial(v.completions, expit(problem + seed + own)) / v.completions).mean(axis=2)
        rows = [
            {"arm": name, "seed": number, "accuracy": float(value), "item_set": 0}
            for name, runs in zip([BASELINE, *names], scored, strict=True)
            for number, value in enumerate(runs)
        ]
        table = stats.compare_arms(pd.DataFrame(rows), arms=[BASELINE, *names], baseline=BASELINE, primary=names[0])
        hits += bool((table["verdict"] == stats.BETTER).any())
    return Rate(hits=hits, tries=sweeps)


def coverage_of_bootstrap(seeds: int, sweeps: int, variances: Variances | None = None) -> dict[str, Rate]:
    """The percentile bootstrap over seeds of mean and IQM of the difference; the difference's law is symmetric."""
    v = variances or Variances()
    generator = np.random.default_rng(2000 + seeds)
    hits = {"mean": 0, "IQM": 0}
    for _ in range(sweeps):
        arm, baseline = made_up_runs(generator, v, seeds)
        differences = (arm.mean(axis=1) - baseline.mean(axis=1)).tolist()
        for name, statistic in (("mean", lambda x: float(np.mean(x))), ("IQM", interquartile_mean)):
            found = seed_bootstrap(differences, statistic, resamples=1000)
            hits[name] += found.low <= 0 <= found.high
    return {name: Rate(hits=count, tries=sweeps) for name, count in hits.items()}


def coverage_of_pair(sweeps: int, share: int = 1, variances: Variances | None = None) -> tuple[Rate, Rate]:
    """Two checkpoints that are equally good on all possible problems: how often the interval over items holds 0.

    First with the figures told, then as if every problem had its own. `share` problems have one figure, which the two
    checkpoints read differently (sd of 1 logit each).
    """
    v = variances or Variances()
    generator = np.random.default_rng(3000 + share)
    figures = np.arange(v.problems) // share
    told = ignored = 0
    for _ in range(sweeps):
        problem = generator.normal(v.mean, v.problem, v.problems)
        read = generator.normal(0, 1.0, (2, v.problems))[:, figures]
        first, second = generator.binomial(v.completions, expit(problem + read)) / v.completions
        clustered = sampled_pair(first.tolist(), second.tolist(), figures.tolist())
        alone = sampled_pair(first.tolist(), second.tolist(), range(v.problems))
        told += clustered.low <= 0 <= clustered.high
        ignored += alone.low <= 0 <= alone.high
    return Rate(hits=told, tries=sweeps), Rate(hits=ignored, tries=sweeps)


def main() -> int:
    v = Variances()
    one, other = made_up_runs(np.random.default_rng(9), v, 4000)
    spread = 100 * float(np.std(one.mean(axis=1) - other.mean(axis=1)))
    print(f"variances: {v}\nsd of a per-seed difference: {spread:.2f} points\n")
    for seeds in (3, 5, 10):
        _line(f"95 % interval over {seeds} seeds holds the true difference", coverage_of_method(seeds, 2000))
    for seeds in (3, 5, 10):
        _line(f"no difference, {seeds} seeds: called better", share_of_verdict(stats.BETTER, seeds, 1000, 0))
    _line("8 arms without difference, 5 seeds: any called better", false_winners(8, 5, 1000))
    _line("+5 points, 10 seeds: called better", share_of_verdict(stats.BETTER, 10, 1000, 5))
    for name, rate in coverage_of_bootstrap(10, 2000).items():
        _line(f"95 % bootstrap over 10 seeds, {name}: holds 0", rate)
    for share in (1, 4):
        told, ignored = coverage_of_pair(1000, share)
        _line(f"checkpoint pair, {share} problem(s) a figure: holds 0", told)
        _line("  the same with figures ignored", ignored)
    return 0


def _line(what: str, rate: Rate) -> None:
    print(f"{what:<56} {rate}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
