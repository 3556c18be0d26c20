"""How often our intervals and verdicts are right, as simulated: the rates of `coverage.json`, never typed by hand.

`python -m analysis.simulation --out analysis/coverage.json` writes the file, with the variances it used.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

FILE = Path(__file__).with_name("coverage.json")

# checks, by the names they have in the file
METHOD, MEAN_BOOTSTRAP, IQM_BOOTSTRAP = "t interval", "bootstrap of the mean", "bootstrap of the IQM"
ITEMS, ITEMS_ALONE = "items, figures told", "items, figures ignored"
NULL, NULL_OF_EIGHT, PLANTED = "no difference called better", "any of 8 equal arms called better", "called better"
PEEKED = "no difference called better at any of 3, 5, 10 seeds"


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


@lru_cache
def document() -> dict[str, Any]:
    """The whole file: `command`, `variances` by name (with their source), `rows`."""
    return json.loads(FILE.read_text())


def rates(check: str, variances: str) -> dict[int, Rate]:
    """Seeds -> rate of one check under one set of variances; empty for what was not simulated."""
    return {
        row["seeds"]: Rate(hits=row["hits"], tries=row["tries"])
        for row in document()["rows"]
        if (row["check"], row["variances"]) == (check, variances)
    }


def nearest(check: str, seeds: int, variances: str = "measured") -> tuple[int, Rate]:
    """The rate at the largest simulated number of seeds that is not above `seeds`, and that number.

    Bootstraps cover more with more seeds, so what is quoted is never too high. Raises ValueError under the fewest.
    """
    found = rates(check, variances)
    fitting = [count for count in found if count <= seeds]
    if not fitting:
        raise ValueError(f"{check} was simulated from {min(found, default=0)} seeds on, not for {seeds}")
    return max(fitting), found[max(fitting)]


def coverage_text(check: str, seeds: int) -> str:
    """Such as `covers 90.9 %`; with the simulated number of seeds where it is another."""
    at, rate = nearest(check, seeds)
    return f"covers {100 * rate.share:.1f} %" + ("" if at == seeds else f" at {at} seeds")


def peeking_sentence() -> str:
    """What it costs to add seeds after a look, for prose."""
    ((seeds, honest),) = [(count, rate) for count, rate in rates(NULL, "measured").items() if count == 10]
    peeked = rates(PEEKED, "measured")[10]
    return (
        f"Looking at 3, 5 and {seeds} seeds and stopping at the first \u201cbetter\u201d calls "
        f"{100 * peeked.share:.1f} % of {peeked.tries:,} simulated null sweeps better, where {seeds} seeds looked at "
        f"once call {100 * honest.share:.1f} % better."
    )
