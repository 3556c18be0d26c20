"""Benchmarks of visual reasoning with their official scoring, and the table that names them all.

    python -m saei.evaluate --model DIR --benchmarks mathvista,hallusionbench --benchmark-data DIR
    python -m saei.benchmarks.agreement --data DIR

Nothing here or in the files of the table imports torch.
"""

from saei.benchmarks.geometry3k import GEOMETRY3K
from saei.benchmarks.hallusionbench import HALLUSIONBENCH
from saei.benchmarks.item import Benchmark
from saei.benchmarks.mathverse import MATHVERSE
from saei.benchmarks.mathvision import MATHVISION
from saei.benchmarks.mathvista import MATHVISTA
from saei.benchmarks.mmk12 import MMK12
from saei.benchmarks.wemath import WEMATH

__all__ = ["BENCHMARKS", "Benchmark", "benchmarks_named"]

BENCHMARKS: dict[str, Benchmark] = {
    "mathvista": MATHVISTA,
    "mathverse": MATHVERSE,
    "mathvision": MATHVISION,
    "hallusionbench": HALLUSIONBENCH,
    "geometry3k": GEOMETRY3K,
    "mmk12": MMK12,
    "wemath": WEMATH,
}


def benchmarks_named(names: str) -> dict[str, Benchmark]:
    """The benchmarks of a list `a,b`, in its order; raises ValueError naming one that there is not."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ValueError(f"benchmarks: none is named; known are {', '.join(BENCHMARKS)}")
    for name in wanted:
        if name not in BENCHMARKS:
            raise ValueError(f"benchmarks: there is no {name!r}; known are {', '.join(BENCHMARKS)}")
    return {name: BENCHMARKS[name] for name in wanted}
