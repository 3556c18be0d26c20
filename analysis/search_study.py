"""The Optuna study of a search, in memory, and what it says of the importance of each parameter."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import math
import warnings

import numpy as np
import pandas as pd

from analysis import search
from analysis.parameters import Parameter, is_null
from analysis.search import Search

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook its progress bar asks for ipywidgets, which nobody needs here
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.trial import TrialState, create_trial

STATES = {
    search.COMPLETE: TrialState.COMPLETE,
    search.PRUNED: TrialState.PRUNED,
    search.FAILED: TrialState.FAIL,
    search.OPEN: TrialState.RUNNING,
}
FORESTS, TREES = 8, 32
"""Random forests, each with a seed of its own; their spread is what the forest adds, not what other points would."""
LEAST_POINTS, POINTS_PER_PARAMETER = 10, 2
IMPORTANCE_COLUMNS = ("parameter", "forest", "importance", "shuffled")


def study(found: Search) -> optuna.Study:
    """The points told in order: mean validation accuracy, each seed's as intermediate value, states as they are.

    Fixed arms are not in it. A pruned point has the mean of the seeds it got, as Optuna's own `tell` would not.
    """
    distributions = {one.name: distribution(one) for one in found.parameters}
    made = _empty_study()
    choices = found.choices.set_index("arm")
    for point in found.points[found.points["state"].isin(STATES)].itertuples():
        own = found.scores[found.scores["arm"] == point.arm].sort_values("seed")
        own_kinds = {name: kind for name, kind in distributions.items() if not is_null(choices.loc[point.arm, name])}
        has_value = point.state in (search.COMPLETE, search.PRUNED) and not math.isnan(point.score)
        made.add_trial(
            create_trial(
                state=STATES[point.state],
                value=float(point.score) if has_value else None,
                params={name: _internal(choices.loc[point.arm, name], kind) for name, kind in own_kinds.items()},
                distributions=own_kinds,
                user_attrs={"point": point.arm, "reason": point.why},
                intermediate_values=dict(zip(own["seed"].tolist(), own["accuracy"].tolist(), strict=True)),
            )
        )
    return made


def distribution(parameter: Parameter) -> BaseDistribution:
    """As the search asked for it."""
    if parameter.categories:
        return CategoricalDistribution(parameter.categories)
    if parameter.whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def importances(found: Search) -> pd.DataFrame:
    """IMPORTANCE_COLUMNS: share of the variance over the space that a parameter alone explains (fANOVA), per forest.

    Fitted to the scores of `comparable`, on each parameter's own scale. The shares of a forest sum to 1 whatever the
    scores are, which is why `shuffled` has the same with the scores dealt out anew. No rows under
    `points_needed(found)` comparable points, and where all scores or all choices are equal.
    """
    points = comparable(found)
    scores = points["score"].to_numpy(dtype=float)
    varying = [one for one in found.parameters if one.low < one.high]
    rows = []
    if len(points) >= points_needed(found) and np.ptp(scores) > 0 and varying:
        choices = found.choices.set_index("arm").loc[points["arm"]]
        for forest in range(FORESTS):
            dealt = np.random.default_rng([forest]).permutation(scores)
            shares, chance = (_fanova(varying, choices, values, forest) for values in (scores, dealt))
            for one in varying:
                rows.append((one.name, forest, shares[one.name], chance[one.name]))
    return pd.DataFrame(rows, columns=list(IMPORTANCE_COLUMNS))


def comparable(found: Search) -> pd.DataFrame:
    """arm, score: the complete and the pruned points in which every parameter has a value, in order.

    Without the pruned ones the bad end of the space would be missing. They have fewer seeds, so each accuracy is told
    as its difference to the mean of the complete points on the same seed.
    """
    names = [one.name for one in found.parameters]
    known = found.choices.loc[found.choices[names].notna().all(axis=1), "arm"]
    of_seed = found.scores[found.scores["arm"].isin(found.complete["arm"])].groupby("seed")["accuracy"].mean()
    apart = found.scores.assign(score=found.scores["accuracy"] - found.scores["seed"].map(of_seed))
    means = apart.groupby("arm")["score"].mean()
    judged = found.points[
        found.points["state"].isin([search.COMPLETE, search.PRUNED]) & found.points["arm"].isin(known)
    ]
    return judged[["arm"]].assign(score=judged["arm"].map(means)).dropna().reset_index(drop=True)


def points_needed(found: Search) -> int:
    """Comparable points under which a forest over these parameters is a tale."""
    return max(LEAST_POINTS, POINTS_PER_PARAMETER * len(found.parameters))


def _fanova(varying: list[Parameter], choices: pd.DataFrame, scores: np.ndarray, forest: int) -> dict[str, float]:
    """Parameter -> share, of one forest."""
    # Optuna's own fANOVA takes a log range as an even one; told the logarithm, the shares are of what was searched
    scales = {one.name: _even(one) for one in varying}
    made = _empty_study()
    for (_, choice), score in zip(choices.iterrows(), scores, strict=True):
        params = {one.name: choice[one.name] if one.categories else one.scaled(choice[one.name]) for one in varying}
        made.add_trial(create_trial(value=float(score), params=params, distributions=scales))
    return optuna.importance.get_param_importances(
        made, evaluator=FanovaImportanceEvaluator(n_trees=TREES, seed=forest)
    )


def _even(parameter: Parameter) -> BaseDistribution:
    if parameter.categories:
        return distribution(parameter)
    # a whole number stands for the unit around it
    margin = 0.5 if parameter.whole and not parameter.log else 0.0
    low, high = parameter.scaled(parameter.low), parameter.scaled(parameter.high)
    return FloatDistribution(low - margin, high + margin)


def _internal(value: object, kind: BaseDistribution) -> object:
    return int(value) if isinstance(kind, IntDistribution) else value  # pyright: ignore[reportArgumentType]


def _empty_study() -> optuna.Study:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it greets every new study
    try:
        sampler = optuna.samplers.RandomSampler(seed=0)  # never asked
        return optuna.create_study(direction="maximize", sampler=sampler)
    finally:
        optuna.logging.set_verbosity(before)
