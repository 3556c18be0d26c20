"""A sweep in memory: its plan, the state of its trials, and its tables, read when first asked for."""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd

from analysis.sweep_tables import all_columns, read_sweep_table
from analysis.trials import MISSING, read_json
from saei import schema

REPORT_FOLDER = "report"
"""In a sweep's folder: what is derived from its runs and can be made again."""
STRIP = re.compile(r"step-(?P<step>[0-9]{1,12})-(?P<view>[^-]+)-(?P<problem>.+)", re.DOTALL)
"""step-000010-egas-<problem id, percent-quoted>"""
ARM_FACTS = ("in_contrast", "drops_groups")
"""Columns of every table that say of a row's arm whether it is one of the planned pair, and `SweepData.filtering`."""

TRIAL_COLUMNS = (
    "trial_id", "arm", "seed", "exploratory", "pruned", "state", "step", "steps", "message", "folder", "same_as",
    "finished",
)  # fmt: skip


@dataclass(kw_only=True)
class SweepData:
    """A sweep's plan, the state of its trials, and its tables, read when first asked for.

    `trials` has one row per planned (arm, seed) with TRIAL_COLUMNS; `folder` is where the rows really are (behind
    SAME_AS), None for a missing trial; `finished` is when it ended or was last heard of, seconds since 1970 or NaN.
    Arms are ordered, the baseline first, in every frame.
    """

    plan: dict[str, Any]
    trials: pd.DataFrame
    results: tuple[Path, ...] = ()
    in_several: int = 0
    """Trials that more than one of the results folders holds."""
    selection_note: str = ""
    """What this is a selection of, in sentences; "" for the whole sweep."""
    selection_options: tuple[str, ...] = ()
    """The selection as options of `analysis.report`."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """config.json of the trials that have begun, by trial id."""
    _tables: dict[tuple, pd.DataFrame] = field(default_factory=dict, repr=False)
    _documents: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    _reckoned: dict[str, Any] = field(default_factory=dict, repr=False)

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
        return list(self.trials.loc[self.trials["pruned"].astype(bool), "arm"].sort_values().astype(str).unique())

    @property
    def earlier(self) -> dict[str, str]:
        """Arms of an earlier definition, `<arm>@<hash>`, and the baseline that each was launched with."""
        return {arm["name"]: arm.get("against", "") for arm in self.plan["arms"] if schema.EARLIER in arm["name"]}

    def state(self, state: str) -> pd.DataFrame:
        """The trials in one state."""
        return self.trials[self.trials["state"] == state]

    @property
    def merged_note(self) -> str:
        """Which folders this was merged from, in a sentence; "" for one folder."""
        if len(self.results) < 2:
            return ""
        places = ", ".join(map(str, self.results))
        return f"Merged from {places}; {self.in_several} of the trials are in more than one and count once."

    @property
    def borrowed_note(self) -> str:
        """How many trials are runs of other sweeps that are not here, in a sentence; "" for none."""
        lost = self.trials[(self.trials["state"] == MISSING) & (self.trials["message"] != "")]
        if lost.empty:
            return ""
        first = lost.iloc[0]
        return (
            f"{len(lost)} of {len(self.trials)} trials were run in another sweep, whose rows are not here. "
            f"Of {first['trial_id']}: {first['message']}."
        )

    def table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        trials: Sequence[str] | None = None,
        newest: bool = False,
    ) -> pd.DataFrame:
        """Rows of one table of all trials, with `arm`, `seed`, `trial_id`, `state` and ARM_FACTS.

        `columns` limits what is read; without it, everything but the completions' texts. `trials` (ids) limits the
        trials, `newest` the rows to those of each run's newest part, where its last evaluation is.
        `problems` has one row per evaluation and problem where `eval` has one per completion: a tenth of the rows,
        which is what large sweeps can afford. Raises ValueError for duplicate keys.
        """
        wanted = tuple(columns) if columns else all_columns(name)
        key = (name, wanted, None if trials is None else tuple(trials), newest)
        if key not in self._tables:
            rows = self.trials if trials is None else self.trials[self.trials["trial_id"].isin(trials)]
            whole = trials is None and not newest
            frame = read_sweep_table(rows, name, wanted, self._kept if whole else None, newest=newest)
            facts = {"in_contrast": self.plan.get("primary_contrast") or [], "drops_groups": self.filtering}
            self._tables[key] = frame.assign(**{fact: frame["arm"].isin(facts[fact]) for fact in ARM_FACTS})
        return self._tables[key]

    @property
    def _kept(self) -> Path | None:
        """Folder of the joined tables of finished runs."""
        return self.results[0] / self.name / REPORT_FOLDER / "tables" if self.results else None

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made at the first call with this name: some answers take seconds and are asked often."""
        if name not in self._reckoned:
            self._reckoned[name] = make()
        return self._reckoned[name]

    def documents(self, file: str) -> list[dict[str, Any]]:
        """The JSON file `file` of every trial that has it, in trial order, with `trial_id`, `arm` and `seed` added."""
        if file not in self._documents:
            self._documents[file] = []
            for trial in self.trials.itertuples():
                tree = self.configs.get(trial.trial_id) if file == schema.CONFIG_FILE else None
                if tree is None and trial.folder:
                    tree = read_json(trial.folder / file)
                if tree is not None:
                    own = {"trial_id": trial.trial_id, "arm": str(trial.arm), "seed": trial.seed}
                    self._documents[file].append({**tree, **own})
        return self._documents[file]

    def strips(self) -> pd.DataFrame:
        """Image strips (clean | moved | amplified difference): arm, seed, step, view, problem_id, path."""
        rows = []
        for trial in self.trials.itertuples():
            images = sorted((trial.folder / schema.IMAGES_FOLDER).glob("step-*-*-*.png")) if trial.folder else []
            for path, name in ((path, STRIP.fullmatch(path.stem)) for path in images):
                if name:  # a file that someone else put there is none of ours
                    row = {"arm": trial.arm, "seed": trial.seed, "step": int(name["step"]), "view": name["view"]}
                    rows.append({**row, "problem_id": unquote(name["problem"]), "path": path})
        return pd.DataFrame(rows, columns=["arm", "seed", "step", "view", "problem_id", "path"])


def trial_frame(rows: list[dict[str, Any]], arms: list[str]) -> pd.DataFrame:
    """TRIAL_COLUMNS of the rows, by arm and seed. Raises ValueError for a seed of an arm, or one trial, twice."""
    frame = pd.DataFrame(rows, columns=list(TRIAL_COLUMNS))
    twice = frame[frame.duplicated(["arm", "seed"])]
    if len(twice):
        raise ValueError(f"plan.json plans {twice.iloc[0]['arm']} seed {twice.iloc[0]['seed']} twice")
    twice = frame[frame.duplicated("trial_id", keep=False)].sort_values("trial_id", kind="stable")
    if len(twice):
        first, second = twice["arm"].iloc[:2]
        raise ValueError(
            f"trial {twice['trial_id'].iloc[0]} is planned as {first} and as {second}: an arm was renamed between two "
            "launches, and would be compared with itself; report on the folders one by one, or give it one name in "
            "both plan.json"
        )
    frame["arm"] = pd.Categorical(frame["arm"], categories=arms, ordered=True)
    return frame.sort_values(["arm", "seed"], ignore_index=True)
