"""How much of the lead of a search's best point is luck: the best of many is picked for its noise, too."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
from functools import lru_cache

from scipy import integrate, stats

from analysis import cells
from analysis.search import Search
from analysis.style import Sentence


def luck(search: Search) -> float:
    """How far the best of equally good points would stand above their mean, in accuracy; NaN where it is not known.

    Expected maximum of as many normal means as there are complete points. Their standard error is what seeds and points
    together do not explain (residuals of the additive model), since equal seeds meet equal problems.
    """
    complete = search.complete["arm"]
    table = search.scores[search.scores["arm"].isin(complete)].pivot(index="arm", columns="seed", values="accuracy")
    table = table.dropna(axis=1)
    points, seeds = table.shape
    if points < 2 or seeds < 2:
        return math.nan
    values = table.to_numpy()
    residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    variance = float((residuals**2).sum()) / ((points - 1) * (seeds - 1))
    return math.sqrt(variance / seeds) * expected_maximum(points)


@lru_cache
def expected_maximum(count: int) -> float:
    """Of so many independent standard normal values."""

    def density(x: float) -> float:
        return x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1)

    return float(integrate.quad(density, -12, 12)[0])


def leader(search: Search) -> Sentence:
    """Which point leads on the validation split, by how much of luck, and what would confirm it."""
    best = search.complete
    if best.empty:
        return Sentence("No point leads yet: none has all its seeds.")
    first = best.iloc[0]
    among = f"{len(best)} complete {search.noun}{'s' * (len(best) != 1)}"
    parts = [f"{first['arm']} leads {among} with {cells.percent(first['score'])} on the validation split."]
    lucky = luck(search)
    if not math.isnan(lucky):
        mean = best["score"].mean()
        parts.append(
            f"That is {cells.points(first['score'] - mean)} points above their mean; the best of {len(best)} equally "
            f"good ones would stand {cells.points(lucky)} points above it by luck."
        )
    seeds = ", ".join(map(str, sorted(search.scores.loc[search.scores["arm"] == first["arm"], "seed"])))
    parts.append(
        f"Nothing is decided by that: confirm it in a planned sweep on the test split, on seeds other than {seeds}."
        if search.is_search
        else "Nothing is decided by that: what was planned is compared in the verdict table, on the test split."
    )
    return Sentence(" ".join(parts))
