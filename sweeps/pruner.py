"""Is a point of a search surely worse than the best one? A test that knows of training seeds.

An instance is a training seed and a block of validation problems: the mean sampled accuracy on these problems of the
run's last evaluation. Two points are compared on equal instances (Wilcoxon's signed ranks), which takes the difficulty
of the problems and the common seed out of the difference. A seed gives BLOCKS instances and a test needs
MIN_INSTANCES, so that no point is given up for a single seed: seeds, not problems, are what varies between trainings.

The test is Optuna's WilcoxonPruner: it pairs by instance, counts only pairs of both points, takes the best complete
trial (pruned ones are none), handles ties, and never prunes a point whose own mean is at least that of the best.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import optuna
import pyarrow.parquet as pq
from optuna.pruners import WilcoxonPruner
from optuna.trial import TrialState, create_trial

from saei import schema
from saei.parts import part_paths

BLOCKS = 4
"""Instances of one seed."""
MIN_INSTANCES = 6
"""At 5 the smallest p of a one-sided test is 1/32; at 6 it is 1/64."""
MAX_P = 0.05


def instances(folder: Path, split: str, seed: int) -> dict[int, float]:
    """Instance number -> mean accuracy in [0, 1] of a finished run; {} where it has no rows of `split`.

    Problems are put into blocks in the order of their ids, which is the same for every run on the same split. Fewer
    problems than BLOCKS give fewer instances. Instances of `seed` are numbered from seed * BLOCKS.
    """
    sums: dict[str, list[float]] = {}
    last = -1
    for part in part_paths(folder / "eval"):
        table = pq.read_table(part, columns=["step", "split", "decoding", "problem_id", "accuracy"])
        for row in table.to_pylist():
            if row["split"] != split or row["decoding"] != schema.SAMPLED or row["step"] < last:
                continue
            if row["step"] > last:
                last, sums = row["step"], {}
            sums.setdefault(row["problem_id"], []).append(row["accuracy"])
    means = [sum(sums[problem]) / len(sums[problem]) for problem in sorted(sums)]
    found: dict[int, float] = {}
    for block in range(BLOCKS):
        part_of = means[len(means) * block // BLOCKS : len(means) * (block + 1) // BLOCKS]
        if part_of:
            found[seed * BLOCKS + block] = sum(part_of) / len(part_of)
    return found


def is_worse(study: optuna.Study, found: Mapping[int, float]) -> bool:
    """Is a point with these instances surely worse than the best complete one of `study`?"""
    if len(found) < MIN_INSTANCES:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = WilcoxonPruner(p_threshold=MAX_P, n_startup_steps=MIN_INSTANCES)
    return pruner.prune(study, create_trial(state=TrialState.RUNNING, intermediate_values=dict(found)))
