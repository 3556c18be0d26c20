"""Small real runs for tests: the shipped model, few problems, everything on."""

from pathlib import Path
from typing import Any

import pandas as pd

from saei import schema
from saei.config import Config, with_overrides
from saei.presets import preset

SMALL: dict[str, Any] = {
    "steps": 4,
    "rollout.problems_per_step": 2,
    "rollout.n_clean": 2,
    "rollout.n_view": 2,
    "rollout.max_new_tokens": 40,
    "checkpoint.every": 2,
    "eval.every": 2,
    "eval.problems": 2,
    "eval.samples": 2,
    "eval.test_problems": 2,
    "eval.shifted_problems": 0,
    "record.fresh_every": 2,
    "record.strips_every": 2,
    "data.train_size": 64,
}


def small_config(out: Path, name: str = "saei", **overrides: Any) -> Config:
    """A preset at a size that trains in seconds; `overrides` use __ for the dot."""
    changed = {key.replace("__", "."): value for key, value in overrides.items()}
    base = SMALL if preset(name).rollout.n_view else {**SMALL, "rollout.n_clean": 4, "rollout.n_view": 0}
    return with_overrides(preset(name), {**base, **changed, "out": str(out)})


def frame(run: Path, table: str) -> pd.DataFrame:
    """A table of a run, sorted by its key, without timings."""
    parts = sorted((run / table).glob("part-*.parquet"))
    if not parts:
        return pd.DataFrame(columns=list(schema.TABLES[table]))
    rows = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
    rows = rows[[column for column in rows.columns if not column.startswith("time_")]]
    return rows.sort_values(list(schema.KEYS[table]), ignore_index=True)


def assert_same_run(one: Path, other: Path) -> None:
    """Every table, picture and weight of two runs is exactly equal, timings aside."""
    for table in schema.TABLES:
        pd.testing.assert_frame_equal(frame(one, table), frame(other, table), check_exact=True, obj=table)
    pictures = [{p.name: p.read_bytes() for p in (run / schema.IMAGES_FOLDER).iterdir()} for run in (one, other)]
    assert pictures[0] == pictures[1]
    weights = [(run / schema.MODEL_FOLDER / "model.safetensors").read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]
