"""The report's page from a sweep and its executed notebooks, and the sentences of its first screen."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from analysis import (
    attacked,
    comparisons,
    contrasts,
    costs,
    differing,
    fragments,
    health,
    looks,
    plots,
    provenance,
    repeat,
    stats,
    tables,
    unfinished,
)
from analysis.arms import limits, reconstructions
from analysis.cells import EMPTY
from analysis.executed import Executed
from analysis.load import SweepData
from saei import schema

EVIDENCE_STEPS, EVIDENCE_SEEDS = 100, 3
"""Below this many steps or seeds the first screen says that the budget shows the machinery, not evidence."""
NAMED_ARMS = 6
"""Up to so many arms are named above the table, which has them all."""
ROWS = 10
"""So many rows of the verdict table are seen without scrolling."""


def render(data: SweepData, notebooks: Mapping[str, Executed]) -> str:
    """The page as text."""
    loader = jinja2.FileSystemLoader(Path(__file__).resolve().parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=fragments.shown
    )
    environment.filters["folded"] = repeat.folded
    return environment.get_template("report.html.j2").render(
        **_first_screen(data),
        **_side_figures(data),
        notebooks={name: fragments.cells(name, executed) for name, executed in notebooks.items()},
        failures=dict(fragments.failures(dict(notebooks))),
        **_origin(data),
    )


def _first_screen(data: SweepData) -> dict[str, Any]:
    final = stats.final_scores(data.table("problems"), data.test_split)
    return {
        "data": data,
        "plan": data.plan,
        "arms": data.arms if len(data.arms) <= NAMED_ARMS else [],
        "budget": budget_sentence(data),
        "counts": _counts(data),
        "primary": primary_sentence(data),
        "verdicts": fragments.table(tables.verdicts(data)),
        "scrolls": len(data.arms) > ROWS,
        "accuracy": fragments.output(plots.accuracy_by_arm(final), "Accuracy by arm"),
        "entropy": fragments.output(plots.entropy_over_steps(data.table("steps")), "Entropy over steps"),
        "reconstructions": reconstructions(data),
        "filtering": data.filtering,
        "remarks": [
            text
            for text in (
                *limits(data),
                contrasts.same_scores(data),
                looks.price(data),
                looks.other_settings(data),
                *provenance.mixed(data),
            )
            if text
        ],
    }


def _counts(data: SweepData) -> dict[str, int]:
    """How many trials are in each state, the finished ones first."""
    counts = data.trials["state"].value_counts().to_dict()
    return {state: counts[state] for state in sorted(counts, key=lambda state: (state != schema.FINISHED, state))}


def _side_figures(data: SweepData) -> dict[str, Any]:
    under_attack, by_tokens = attacked.robustness(data), costs.accuracy_by_tokens(data)
    return {
        "summary": fragments.table(tables.summary_table(data)),
        "cost": fragments.table(tables.cost_table(data)),
        "by_tokens": fragments.output(comparisons.accuracy_over_tokens(by_tokens), "Accuracy over generated tokens"),
        "equal_tokens": fragments.table(tables.equal_tokens_table(data)),
        "robustness": fragments.table(tables.robustness_table(data)),
        "under_attack": fragments.output(comparisons.accuracy_under_attack(under_attack), "Accuracy under attack"),
        "alarms": fragments.table(tables.alarm_table(data)),
        "watched": health.watched(data),
        "begun": int((data.trials["step"] > 0).sum()),
    }


def _origin(data: SweepData) -> dict[str, Any]:
    return {
        "unfinished": fragments.table(unfinished.unfinished(data)),
        "stand": unfinished.sentences(data),
        "finishing": repeat.finishing(data),
        "why": unfinished.why(data),
        "differences": fragments.table(differing.differences(data)),
        "provenance": provenance.provenance(data, repeat.planned_steps(data)),
        "empty": EMPTY,
        "environments": fragments.table(provenance.environments(data)),
        "commands": repeat.steps(data),
        "built": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }


def budget_sentence(data: SweepData) -> str:
    """A warning for small budgets, or ""."""
    steps = repeat.planned_steps(data)
    seeds = len(data.plan["seeds"])
    finished = data.state(schema.FINISHED).groupby("arm", observed=True)["seed"].nunique()
    fewest = int(finished.reindex(data.arms, fill_value=0).min()) if data.arms else 0
    if steps >= EVIDENCE_STEPS and fewest >= EVIDENCE_SEEDS:
        return ""
    if seeds >= EVIDENCE_SEEDS and steps >= EVIDENCE_STEPS:
        return f"So far {fewest} finished {plural(fewest, 'seed')} in the least finished arm: this is not evidence yet."
    return (
        f"{seeds} {plural(seeds, 'seed')} and {steps} {plural(steps, 'step')}: "
        "this budget shows the machinery, not evidence."
    )


def plural(count: int, noun: str) -> str:
    return noun if count == 1 else noun + "s"


def primary_sentence(data: SweepData) -> str:
    """The primary contrast in one sentence, and what cannot be compared for lack of an arm."""
    rows = contrasts.compared(data)
    rows = rows[rows["primary"]] if len(rows) else rows
    lacking = contrasts.not_launched(data)
    if rows.empty:
        return lacking
    return f"{tables.verdict_sentence(next(rows.itertuples()))} {lacking}".rstrip()
