"""A table of all trials of a sweep as one frame: read in parallel, and from what is kept of finished runs."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from analysis.attack_means import ATTACK_MEANS, read_run_attack_means
from analysis.kept_tables import WORTH_PARTS, Keeper, kept_rows, source_of
from analysis.parts import TYPES, fingerprint, read_run_table
from analysis.problems import PROBLEMS, TEXTS, read_run_problems
from saei import schema

COLUMNS: dict[str, dict[str, str]] = {**schema.TABLES, "problems": PROBLEMS, "attack_means": ATTACK_MEANS}
"""The tables that a sweep has: those of its runs, and what is made of them."""
MADE_FROM = {"problems": "eval", "attack_means": "attacks"}
MAKERS = {"problems": read_run_problems, "attack_means": read_run_attack_means}
UNKEPT = ("eval", "rollouts")
"""Tables of single completions are read from the parts alone: they are large, and seldom read as a whole."""
MOST_THREADS = 4
AT_ONCE = 64
"""Runs that are read ahead of whoever takes their rows."""


class _Run(NamedTuple):
    trial: Any
    source: str
    parts: int


def all_columns(name: str) -> tuple[str, ...]:
    """The columns of a table without the completions' texts. Raises ValueError for an unknown table."""
    if name not in COLUMNS:
        raise ValueError(f"table: there is no {name!r}; a sweep has {', '.join(COLUMNS)}")
    return tuple(column for column in COLUMNS[name] if column != "text")


def read_sweep_table(
    trials: pd.DataFrame, name: str, columns: Sequence[str], kept: Path | None, *, newest: bool = False
) -> pd.DataFrame:
    """`columns` of a table of all trials, with state, arm, seed and trial_id. `kept`: the folder of kept tables.

    `newest`: of the newest part of each run alone.

    In `problems`, texts are categorical. Raises ValueError as `read_run_table`.
    """
    whole = all_columns(name)
    if kept is not None and name not in UNKEPT and set(columns) <= set(whole):
        tables = _through_kept(trials, name, columns, whole, kept / f"{name}.arrow")
    else:
        begun = [trial for trial in trials.itertuples() if trial.folder]
        tables = _by_trial(begun, _read(begun, name, columns, newest=newest))
    return _as_frame(trials, tables, name, columns)


def _read(runs: Sequence[Any], name: str, columns: Sequence[str], *, newest: bool = False) -> Iterator[pa.Table | None]:
    """The rows of each run in turn, None of a run without the table."""

    def one(trial: Any) -> pa.Table | None:
        if name in MADE_FROM:
            made = MAKERS[name](trial.folder)
            return None if made is None else made.select(list(columns))
        return read_run_table(trial.folder, name, columns, newest=newest)

    with ThreadPoolExecutor(max_workers=min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        for first in range(0, len(runs), AT_ONCE):  # no more than these wait in memory
            yield from pool.map(one, runs[first : first + AT_ONCE])


def _through_kept(
    trials: pd.DataFrame, name: str, columns: Sequence[str], whole: Sequence[str], path: Path
) -> dict[str, pa.Table]:
    """Rows by trial id; what finished runs have comes from the file, which is written again where that was worth it."""
    runs = [_run(trial, name) for trial in trials.itertuples() if trial.folder]
    kept = kept_rows(path, columns)
    tables = {run.trial.trial_id: pa.table(kept[run.source]) for run in runs if run.source in kept}
    # a finished run without parts has no such table
    new = [run for run in runs if run.trial.trial_id not in tables and (run.parts or not run.source)]
    if sum(run.parts for run in new if run.source) < WORTH_PARTS:
        read = _read([run.trial for run in new], name, columns)
        return tables | _by_trial([run.trial for run in new], read)
    before = kept_rows(path, whole)
    sources = [run.source for run in runs if run.source in before]
    with Keeper(path, [*sources, *(run.source for run in new if run.source)]) as keeper:
        for source in sources:
            keeper.add(pa.table(before[source]))
        del before
        for run, rows in zip(new, _read([run.trial for run in new], name, whole), strict=True):
            if rows is not None:
                tables[run.trial.trial_id] = rows.select(list(columns))
                if run.source:
                    keeper.add(rows)
    return tables


def _by_trial(trials: Sequence[Any], read: Iterator[pa.Table | None]) -> dict[str, pa.Table]:
    return {trial.trial_id: rows for trial, rows in zip(trials, read, strict=True) if rows is not None}


def _run(trial: Any, name: str) -> _Run:
    if trial.state != schema.FINISHED:
        return _Run(trial, "", 0)
    try:
        parts = fingerprint(trial.folder / MADE_FROM.get(name, name))
    except FileNotFoundError:
        return _Run(trial, "", 0)  # whoever reads it says what is wrong
    return _Run(trial, source_of(trial.trial_id, parts, COLUMNS[name]), len(parts))


def _as_frame(trials: pd.DataFrame, tables: dict[str, pa.Table], name: str, columns: Sequence[str]) -> pd.DataFrame:
    """All rows in the order of the trials."""
    there = [trial for trial in trials.itertuples() if trial.trial_id in tables]
    rows = [len(tables[trial.trial_id]) for trial in there]
    if there:
        joined = pa.concat_tables([tables.pop(trial.trial_id) for trial in there], promote_options="permissive")
        joined = joined.unify_dictionaries()
        # each column goes as soon as its frame's is there: a large table is never in memory twice
        frame = joined.to_pandas(split_blocks=True, self_destruct=True)
        del joined
    else:
        empty = pa.schema([(column, TYPES[COLUMNS[name][column]]) for column in columns])
        frame = empty.empty_table().to_pandas()
    arms = trials["arm"].cat.categories
    facts: dict[str, Any] = {}
    for fact in ("state", "arm", "seed", "trial_id"):
        values = [getattr(trial, fact) for trial in there]
        codes, known = pd.factorize(pd.Series(values, dtype="int64" if fact == "seed" else object))
        facts[fact] = pd.Series(pd.Categorical.from_codes(codes.repeat(rows), categories=list(known)))
    facts["arm"] = facts["arm"].cat.set_categories(arms, ordered=True)
    facts["seed"] = facts["seed"].astype("int64")
    if name not in MADE_FROM:
        facts |= {fact: facts[fact].astype("str") for fact in ("state", "trial_id")}
    else:
        for column in set(TEXTS) & set(columns):
            frame[column] = _sorted_categories(frame[column])
    return pd.DataFrame({**facts, **{column: frame[column] for column in columns}}, copy=False)


def _sorted_categories(column: pd.Series) -> pd.Series:
    """A categorical whose order is that of the texts."""
    categorical = column.astype("category").cat
    return categorical.set_categories(sorted(categorical.categories))
