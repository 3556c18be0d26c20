"""Results on disk -> frames. Reads sweeps that have not begun, that are running, and that are finished.

A sweep is a folder of `results` with a `plan.json` (the plan); its trials are run directories. The directories are
the truth: a trial is finished exactly when `DONE` is there, whatever its status file says.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from saei import schema

MISSING = "missing"
STALE_SECONDS = 600.0
"""A run that says it is running, but has not written its status for this long, was interrupted."""

TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
FILLS = {("attacks", "image"): 0}
"""What stands for a column that older runs did not write, where null will not do: keys."""

ARM_FACTS = ("in_contrast", "drops_groups")
"""Columns of every table that say of a row's arm whether it is one of the planned pair, and `SweepData.filtering`."""

TRIAL_COLUMNS = (
    "trial_id", "arm", "seed", "exploratory", "pruned", "state", "step", "steps", "message", "folder", "same_as"
)  # fmt: skip


@dataclass(kw_only=True)
class SweepData:
    """A sweep's plan, the state of its trials, and its tables, read when first asked for.

    `trials` has one row per planned (arm, seed) with TRIAL_COLUMNS; `folder` is where the rows really are (behind
    SAME_AS), None for a missing trial. Arms are ordered, the baseline first, in every frame.
    """

    plan: dict[str, Any]
    trials: pd.DataFrame
    _tables: dict[tuple, pd.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.plan["name"]

    @property
    def arms(self) -> list[str]:
        """Arm names, the baseline first, then in plan order."""
        return list(self.trials["arm"].cat.categories)

    @property
    def test_split(self) -> str:
        """Split of the primary metric, e.g. `test` of `test/mean@8`."""
        return str(self.plan.get("primary_metric", "test/")).rpartition("/")[0] or "test"

    @property
    def validation_split(self) -> str:
        """Split evaluated during training, from the trials' settings."""
        for tree in self.documents(schema.CONFIG_FILE):
            return tree["config"].get("data", {}).get("validation_split", "validation")
        return "validation"

    @property
    def filtering(self) -> list[str]:
        """Arms that drop groups (`filter.rule`): a step of theirs samples more, so steps are no fair measure of them.

        Their `entropy` covers the groups that were trained on; `entropy_sampled_image` covers all.
        """
        rules = {
            tree["arm"]: (tree.get("config") or {}).get("filter", {}).get("rule", "none")
            for tree in self.documents(schema.CONFIG_FILE)
        }
        for arm in self.plan["arms"]:  # a run that has not begun has only its plan
            rules.setdefault(arm["name"], (arm.get("overrides") or {}).get("filter.rule", "none"))
        return [arm for arm in self.arms if rules.get(arm, "none") != "none"]

    @property
    def pruned(self) -> list[str]:
        """Arms that a search gave up before they had all their seeds."""
        return [arm for arm in self.arms if self.trials.loc[self.trials["arm"] == arm, "pruned"].any()]

    @property
    def earlier(self) -> dict[str, str]:
        """Arms of an earlier definition, `<arm>@<hash>`, and the baseline that each was launched with."""
        return {arm["name"]: arm.get("against", "") for arm in self.plan["arms"] if schema.EARLIER in arm["name"]}

    def state(self, state: str) -> pd.DataFrame:
        """The trials in one state."""
        return self.trials[self.trials["state"] == state]

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of one table of all trials, with `arm`, `seed`, `trial_id`, `state` and ARM_FACTS.

        `columns` limits what is read; without it, everything but the completions' texts.
        Raises ValueError for duplicate keys.
        """
        wanted = tuple(columns) if columns else tuple(c for c in schema.TABLES[name] if c != "text")
        if (name, wanted) not in self._tables:
            frame = _read_sweep_table(self.trials, name, wanted)
            facts = {"in_contrast": self.plan.get("primary_contrast") or [], "drops_groups": self.filtering}
            self._tables[name, wanted] = frame.assign(**{fact: frame["arm"].isin(facts[fact]) for fact in ARM_FACTS})
        return self._tables[name, wanted]

    def documents(self, file: str) -> list[dict[str, Any]]:
        """The JSON file `file` of every trial that has it, in trial order, with `trial_id`, `arm` and `seed` added."""
        found = []
        for trial in self.trials.itertuples():
            tree = _read_json(trial.folder / file) if trial.folder else None
            if tree is not None:
                found.append({**tree, "trial_id": trial.trial_id, "arm": trial.arm, "seed": trial.seed})
        return found

    def strips(self) -> pd.DataFrame:
        """Image strips (clean | moved | amplified difference): arm, seed, step, view, problem_id, path."""
        rows = []
        for trial in self.trials.itertuples():
            images = sorted((trial.folder / schema.IMAGES_FOLDER).glob("step-*-*-*.png")) if trial.folder else []
            for path in images:
                # step-000010-egas-<problem id, percent-quoted>
                _, step, view, problem = path.stem.split("-", 3)
                row = {"arm": trial.arm, "seed": trial.seed, "step": int(step), "view": view}
                rows.append({**row, "problem_id": unquote(problem), "path": path})
        return pd.DataFrame(rows, columns=["arm", "seed", "step", "view", "problem_id", "path"])


def sweeps_in(results: Path) -> list[str]:
    """Names of the sweeps in a results folder, the most recently launched first."""
    found = {path.parent.name: path.stat().st_mtime for path in Path(results).glob(f"*/{schema.PLAN_FILE}")}
    return sorted(found, key=lambda name: -found[name])


def load_sweep(results: Path, sweep: str = "", *, now: float | None = None) -> SweepData:
    """Load a sweep; without a name the most recently launched one, or an empty sweep where there is none.

    Raises ValueError for a name that is not there, another schema version, or a damaged plan.
    """
    results = Path(results)
    present = sweeps_in(results)
    if not sweep and not present:
        return SweepData(plan={"name": "", "question": "", "arms": [], "seeds": []}, trials=_trial_frame([], []))
    sweep = sweep or present[0]
    if sweep not in present:
        old = results / sweep / schema.OLD_PLAN_FILE
        if old.exists():
            raise ValueError(f"{sweep} has its plan under the old name: mv {old} {results / sweep / schema.PLAN_FILE}")
        listed = ", ".join(sorted(present)) or "no sweep at all"
        raise ValueError(f"sweep: there is no {sweep!r} in {results}; it holds {listed}")
    plan = _read_json(results / sweep / schema.PLAN_FILE) or {}
    lacking = [key for key in ("arms", "seeds", "baseline", "trials") if key not in plan]
    if lacking:
        raise ValueError(f"{results / sweep / schema.PLAN_FILE} lacks {', '.join(lacking)}; launch the sweep again")
    # `metric`: its name in plans that were moved from sweep.json
    plan = {"name": sweep, "question": "", "primary_metric": plan.get("metric", "test/mean@8"), **plan}
    names = [arm["name"] for arm in plan["arms"]]
    order = sorted(names, key=lambda name: name != plan["baseline"])
    now = time.time() if now is None else now
    rows = [_trial_row(results, sweep, trial, now) for trial in plan["trials"]]
    return SweepData(plan=plan, trials=_trial_frame(rows, order))


def _trial_frame(rows: list[dict[str, Any]], arms: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(TRIAL_COLUMNS))
    twice = frame[frame.duplicated(["arm", "seed"])]
    if len(twice):
        raise ValueError(f"plan.json plans {twice.iloc[0]['arm']} seed {twice.iloc[0]['seed']} twice")
    frame["arm"] = pd.Categorical(frame["arm"], categories=arms, ordered=True)
    return frame.sort_values(["arm", "seed"], ignore_index=True)


def _trial_row(results: Path, sweep: str, trial: dict[str, Any], now: float) -> dict[str, Any]:
    row = {
        "exploratory": False,
        "pruned": False,
        **trial,
        "state": MISSING,
        "step": 0,
        "steps": 0,
        "message": "",
        "same_as": "",
    }
    own = results / sweep / trial["trial_id"]
    folder = _follow(own, results)
    row["folder"] = folder
    if folder is None:
        return row
    row["same_as"] = "" if folder == own else str(folder.relative_to(results))
    _check_schema(folder, trial["trial_id"])
    status = _read_json(folder / schema.STATUS_FILE) or {}
    for key in ("step", "steps", "message"):
        row[key] = status.get(key, row[key])
    if (folder / schema.DONE_FILE).exists():
        row["state"] = schema.FINISHED
    elif status:
        row["state"] = status.get("state", schema.INTERRUPTED)
        silent = now - (status.get("heartbeat") or 0.0) > STALE_SECONDS
        if row["state"] == schema.FINISHED or (row["state"] == schema.RUNNING and silent):
            row["state"] = schema.INTERRUPTED
    return row


def _follow(folder: Path, results: Path) -> Path | None:
    """The directory with the rows: `folder`, or what its SAME_AS leads to; None where nothing is."""
    for _ in range(8):
        pointer = folder / schema.SAME_AS_FILE
        if not pointer.exists() or (folder / schema.DONE_FILE).exists():
            return folder if (folder / schema.CONFIG_FILE).exists() else None
        target = pointer.read_text().strip()
        # relative to the pointing directory; relative to the results folder in hand-made pointers
        near, far = (folder / target).resolve(), (results / target).resolve()
        found = near if near.is_dir() else far
        if not found.is_relative_to(results.resolve()):
            return None
        folder = results / found.relative_to(results.resolve())
    raise ValueError(f"{folder}: {schema.SAME_AS_FILE} files lead in a circle; delete one of them")


def _check_schema(folder: Path, trial_id: str) -> None:
    tree = _read_json(folder / schema.CONFIG_FILE) or {}
    version = tree.get("schema_version")
    if version != schema.SCHEMA_VERSION:
        raise ValueError(
            f"{folder / schema.CONFIG_FILE}: schema_version is {version}, this code reads {schema.SCHEMA_VERSION}; "
            "read it with the code that wrote it (git_sha in environment.json), or run the trial again"
        )
    if tree.get("trial_id") != trial_id:
        raise ValueError(f"{folder} holds trial {tree.get('trial_id')}, and the plan says {trial_id}")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); restore or delete it") from error


def _read_sweep_table(trials: pd.DataFrame, name: str, columns: Sequence[str]) -> pd.DataFrame:
    tables = []
    for trial in trials.itertuples():
        table = read_run_table(trial.folder, name, columns) if trial.folder else None
        if table is not None:
            for column in ("trial_id", "seed", "arm", "state"):
                value = pa.scalar(getattr(trial, column))
                table = table.add_column(0, column, pa.repeat(value, len(table)).dictionary_encode())
            tables.append(table)
    if tables:
        frame = pa.concat_tables(tables, promote_options="permissive").combine_chunks().to_pandas()
    else:
        frame = pd.DataFrame(columns=["state", "arm", "seed", "trial_id", *columns])
    frame["arm"] = pd.Categorical(frame["arm"].astype(object), categories=trials["arm"].cat.categories, ordered=True)
    frame["seed"] = frame["seed"].astype("int64")
    for column in ("state", "trial_id"):
        frame[column] = frame[column].astype("str")
    return frame


def read_run_table(folder: Path, name: str, columns: Sequence[str], *, tries: int = 5) -> pa.Table | None:
    """All parts of one table of one run, or None where it has none.

    Columns that an older run of the same schema version did not write are null, or a value of FILLS. The run may be
    alive: a part that vanishes or overlaps while it is being replaced is looked at again. Raises ValueError for rows
    with equal keys.
    """
    keys = list(schema.KEYS[name])
    needed = list(dict.fromkeys([*keys, *columns]))
    for attempt in range(tries):
        if attempt:
            time.sleep(0.05 * attempt)
        try:
            parts = [_read_part(path, name, needed) for path in sorted((folder / name).glob("part-*.parquet"))]
        except FileNotFoundError:
            continue
        if not parts:
            return None
        table = pa.concat_tables(parts)
        if not table.select(keys).to_pandas().duplicated().any():
            return table.select(list(columns))
    raise ValueError(f"{folder / name}: rows with equal keys ({', '.join(keys)}): two parts cover the same steps")


def _read_part(path: Path, name: str, columns: Sequence[str]) -> pa.Table:
    file = pq.ParquetFile(path)
    present = file.read(columns=[column for column in columns if column in file.schema_arrow.names])
    for column in columns:
        if column not in present.column_names:
            kind = TYPES[schema.TABLES[name][column]]
            fill = pa.scalar(FILLS.get((name, column)), kind)
            present = present.append_column(column, pa.repeat(fill, len(present)))
    return present.select(list(columns))
