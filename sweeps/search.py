"""Which strength, number of steps, split and band are best together? Points chosen one after another by Optuna.

A search has no planned comparison among its points: they are chosen by what came before, on the validation split. The
planned one is the paper's own setting against GRPO, which stand beside the points with the same seeds.
"""

from fractions import Fraction
from typing import Any

from sweeps.definition import GRPO, Sweep
from sweeps.space import Choice, Range, Space

GROUP = 12
"""Completions of a group, clean and moved together, as everywhere."""
PARTS = 12
"""The band is told in twelfths of the ranking: exact shares, and a third is one of them."""


def settings(choice: Choice) -> dict[str, Any]:
    """Settings of a point; whatever the choice, they are settings that go together.

    More than one iteration needs a ball (the paper sets none): as wide as all steps together, which stops nothing.
    The band keeps `kept` twelfths; `place` says which share of the rest is dropped at the low end, in quarters.
    """
    step, iterations = round(choice["step_size"], 2), int(choice["iterations"])
    moved = int(choice["n_view"])
    dropped = 1 - Fraction(int(choice["kept"]), PARTS)
    low = dropped * Fraction(int(choice["place"]), 4)
    return {
        "view.step_size": step,
        "view.iterations": iterations,
        "view.epsilon": round(step * iterations, 2) if iterations > 1 else None,
        "rollout.n_clean": GROUP - moved,
        "rollout.n_view": moved,
        "select.drop_low": low,
        "select.drop_high": dropped - low,
    }


SWEEP = Sweep(
    question="Which step size, iterations, group split and band give the best validation score together?",
    arms={"grpo": GRPO, "saei": {}},
    baseline="grpo",
    primary_contrast=("saei", "grpo"),
    seeds=3,
    space=Space(
        ranges={
            "step_size": Range(low=0.5, high=16.0, log=True),  # grey levels
            "iterations": Range(low=1, high=8, whole=True),
            "n_view": Range(low=2, high=10, whole=True),
            "kept": Range(low=2, high=PARTS, whole=True),
            "place": Range(low=0, high=4, whole=True),  # 0: only high entropies are dropped, 4: only low ones
        },
        settings=settings,
    ),
)
