"""Are our intervals and verdicts what they say? Made-up sweeps through the functions that judge real ones.

    python -m analysis.simulation [--out analysis/coverage.json]

Every check is run with the variances measured on a real sweep and with harsher ones (`analysis.variances`). `--out`
writes the rates that reports quote; without it they are printed only. It takes some minutes.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from analysis import coverage, stats, verdicts
from analysis.bootstrap import interquartile_mean, percentile_interval
from analysis.checkpoint_pair import sampled_pair
from analysis.coverage import Rate
from analysis.made_up import made_up_scores, shift_for, true_difference
from analysis.variances import VARIANCES, Variances, difference_sd
from analysis.whole import write_whole

Generator = np.random.Generator
LOOKS = (3, 5, 10)
"""Seeds at which a sweep that grows is looked at."""
RESAMPLES = 1_000
PROBLEMS_PER_FIGURE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A claim about made-up sweeps: `hit` draws one and says whether it came true; `tries` are drawn for the file."""

    name: str
    hit: Callable[[Generator, Variances, int, float], bool]
    seeds: tuple[int, ...]
    points: float = 0.0
    tries: int = 1000


def differences(generator: Generator, v: Variances, seeds: int, points: float) -> list[float]:
    """Per-seed differences of an arm that is `points` better than its baseline."""
    baseline, arm = made_up_scores(generator, v, 1, seeds, shift_for(points, v))
    return (arm - baseline).tolist()


def judged(values: list[float]) -> str:
    """The word for a primary contrast with these per-seed differences."""
    return verdicts.word(len(values), float(np.mean(values)), stats.p_value(values))


def interval_holds(generator: Generator, v: Variances, seeds: int, points: float) -> bool:
    """Does the t interval over seeds hold the true difference?"""
    found = stats.t_interval(differences(generator, v, seeds, points))
    return found.low <= true_difference(v, shift_for(points, v)) <= found.high


def called_better(generator: Generator, v: Variances, seeds: int, points: float) -> bool:
    """Is the arm called better?"""
    return judged(differences(generator, v, seeds, points)) == verdicts.BETTER


def any_of_eight_called_better(generator: Generator, v: Variances, seeds: int, points: float) -> bool:
    """Is any of eight equal arms called better: the primary contrast by its own p, the others after Holm?"""
    baseline, *arms = made_up_scores(generator, v, 8, seeds, shift_for(points, v))
    found = [(arm - baseline).tolist() for arm in arms]
    p_values = [stats.p_value(values) for values in found]
    judged_by = [p_values[0], *stats.holm(p_values[1:])]
    words = [verdicts.word(seeds, float(np.mean(values)), p) for values, p in zip(found, judged_by, strict=True)]
    return verdicts.BETTER in words


def better_at_any_look(generator: Generator, v: Variances, seeds: int, points: float) -> bool:
    """Is the arm called better at any of LOOKS, seeds being added until it is?"""
    values = differences(generator, v, seeds, points)
    return any(judged(values[:count]) == verdicts.BETTER for count in LOOKS if count <= seeds)


def bootstrap_holds(statistic: Callable[..., Any]) -> Callable[[Generator, Variances, int, float], bool]:
    """Does the percentile bootstrap over seeds hold the truth? Without a difference, mean and IQM are both 0."""

    def holds(generator: Generator, v: Variances, seeds: int, points: float) -> bool:
        found = percentile_interval(differences(generator, v, seeds, points), statistic, resamples=RESAMPLES)
        return found.low <= true_difference(v, shift_for(points, v)) <= found.high

    return holds


def items_hold(told: bool) -> Callable[[Generator, Variances, int, float], bool]:
    """Two equally good checkpoints: does the interval over items hold 0, with the figures told, or each its own?

    PROBLEMS_PER_FIGURE problems have one figure, which the two checkpoints read differently (sd of 1 logit each).
    """

    def holds(generator: Generator, v: Variances, seeds: int, points: float) -> bool:
        figures = np.arange(v.problems) // PROBLEMS_PER_FIGURE
        problem = generator.normal(v.mean, v.problem, v.problems)
        read = generator.normal(0, 1.0, (2, v.problems))[:, figures]
        right = generator.binomial(v.completions, 1 / (1 + np.exp(-problem - read))) / v.completions
        clusters = figures.tolist() if told else range(v.problems)
        pair = sampled_pair(right[0].tolist(), right[1].tolist(), clusters)
        return pair.low <= 0 <= pair.high

    return holds


CHECKS = (
    Check(name=coverage.METHOD, hit=interval_holds, seeds=(3, 5, 10), points=2.0, tries=2000),
    Check(name=coverage.NULL, hit=called_better, seeds=(3, 5, 10)),
    Check(name=coverage.NULL_OF_EIGHT, hit=any_of_eight_called_better, seeds=(3, 5, 10), tries=4000),
    Check(name=coverage.PLANTED, hit=called_better, seeds=(3, 5, 10), points=5.0),
    Check(name=coverage.PEEKED, hit=better_at_any_look, seeds=(10,), tries=2000),
    Check(name=coverage.MEAN_BOOTSTRAP, hit=bootstrap_holds(np.mean), seeds=(3, 5, 10, 20), tries=2000),
    Check(name=coverage.IQM_BOOTSTRAP, hit=bootstrap_holds(interquartile_mean), seeds=(3, 5, 10, 20), tries=2000),
    Check(name=coverage.ITEMS, hit=items_hold(told=True), seeds=(1,)),
    Check(name=coverage.ITEMS_ALONE, hit=items_hold(told=False), seeds=(1,)),
)


def rate(check: Check, v: Variances, seeds: int, tries: int, stream: int = 0) -> Rate:
    """How often the check came true in `tries` made-up sweeps; `stream` names an independent repetition."""
    generator = np.random.default_rng([stream, seeds, *check.name.encode()])
    hits = sum(check.hit(generator, v, seeds, check.points) for _ in range(tries))
    return Rate(hits=hits, tries=tries)


def simulate(say: Callable[[str], None]) -> dict[str, Any]:
    """All checks under all variances: the content of `coverage.json`, each line said as it is known."""
    rows = []
    for name, v in VARIANCES.items():
        say(f"\n{name}: {v}\nsd of a per-seed difference: {100 * difference_sd(v):.2f} points\n")
        for check in CHECKS:
            for seeds in check.seeds:
                found = rate(check, v, seeds, check.tries)
                facts = {"check": check.name, "variances": name, "seeds": seeds, "points": check.points}
                rows.append({**facts, "hits": found.hits, "tries": found.tries})
                say(
                    f"{check.name}; {seeds} {'seed' if seeds == 1 else 'seeds'}, {check.points:+g} points".ljust(72)
                    + f" {found}"
                )
    return {
        "command": "python -m analysis.simulation --out analysis/coverage.json",
        "settings": {
            "looks": list(LOOKS),
            "resamples": RESAMPLES,
            "problems_per_figure": PROBLEMS_PER_FIGURE,
            "confidence": stats.CONFIDENCE,
            "alpha": verdicts.ALPHA,
        },
        "variances": {
            name: {**asdict(v), "difference_sd_points": round(100 * difference_sd(v), 3)}
            for name, v in VARIANCES.items()
        },
        "rows": rows,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationArguments:
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the rates there, as JSON."""


def main(arguments: list[str] | None = None) -> int:
    settings = tyro.cli(SimulationArguments, args=arguments, prog="python -m analysis.simulation", description=__doc__)
    document = simulate(lambda line: print(line, flush=True))
    if settings.out:
        write_whole(settings.out, json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
