"""In which settings do the arms of a sweep differ? From the runs' own `config.json`; of runs not begun, from the plan.

A setting counts where it can change a number of the run: what `identity` in `config.json` leaves out (places, how often
to save, the attack's settings of an arm without an attack) is null for that run, and no difference to other arms.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import pandas as pd

from analysis.load import SweepData
from saei import schema

PLANNED = ("rollout.n_clean", "rollout.n_view", "rollout.plan", "view.name")
"""Settings that an identity tells in another form, as one list of views and counts."""
NO_DIFFERENCE = ("seed", "out", "preset", "flavour")
"""What a config without an identity says of the run itself, not of its arm."""
_SHARE = re.compile(r"-?\d{1,9}(/0*[1-9]\d{0,8})?")

Cell = str | float | int | bool | None


def varied(data: SweepData) -> pd.DataFrame:
    """A row per planned (arm, seed), a column per dotted setting that differs between arms, in the config's order.

    Numbers are numbers, exact shares such as 1/3 too; pixel sizes are grey levels; lists are text. An arm of which no
    run has begun has what its plan says, and else what the arms have that do not name the setting. Null where a setting
    has no effect or no value is known.
    """
    known = _of_runs(data)
    arms = {arm: known[arm] if arm in known else _of_plan(data, arm, known) for arm in data.arms}
    names = list(dict.fromkeys(name for tree in arms.values() for name in tree))
    differing = [name for name in names if len({_key(tree[name]) for tree in arms.values() if name in tree}) > 1]
    rows = [
        {"arm": trial.arm, "seed": trial.seed, **{name: arms[trial.arm].get(name) for name in differing}}
        for trial in data.trials.itertuples()
    ]
    frame = pd.DataFrame(rows, columns=["arm", "seed", *differing])
    frame["arm"] = pd.Categorical(frame["arm"], categories=data.arms, ordered=True)
    for name in differing:
        if all(is_number(value) for value in frame[name] if value is not None):
            frame[name] = pd.to_numeric(frame[name])
    return frame


def is_number(value: object) -> bool:
    """Numbers proper: True and False are no amounts."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def by_arm(frame: pd.DataFrame) -> pd.DataFrame:
    """`varied` with one row per arm, indexed by its name: the settings of an arm are the same for all its seeds."""
    own = frame.drop(columns="seed").drop_duplicates("arm")
    return own.assign(arm=own["arm"].astype(str)).set_index("arm")


def _of_runs(data: SweepData) -> dict[str, dict[str, Cell]]:
    """Arm -> setting -> value, from the arm's first run that has a config."""
    trees: dict[str, dict[str, Any]] = {}
    for tree in data.documents(schema.CONFIG_FILE):
        trees.setdefault(tree["arm"], tree)
    felt = {arm: dict(_leaves((tree.get("identity") or {}).get("settings"))) for arm, tree in trees.items()}
    found = {}
    for arm, tree in trees.items():
        leaves, own = dict(_leaves(tree.get("config"))), felt[arm]
        if not own:  # older runs, whose config tells nothing of what has an effect
            found[arm] = {name: value for name, value in leaves.items() if name not in NO_DIFFERENCE}
            continue
        sections = {name.partition(".")[0] for name in own}
        found[arm] = {
            # places (data.path) are blank in the identity, so that other machines are no other arms
            name: value if name in PLANNED else own[name]
            for name, value in leaves.items()
            if (name in own and name not in NO_DIFFERENCE) or (name in PLANNED and name.partition(".")[0] in sections)
        }
    return found


def _of_plan(data: SweepData, arm: str, known: Mapping[str, Mapping[str, Cell]]) -> dict[str, Cell]:
    overrides = {one["name"]: one.get("overrides") or {} for one in data.plan["arms"]}
    tree: dict[str, Cell] = {}
    for other, settings in known.items():
        unnamed = {name: value for name, value in settings.items() if name not in overrides.get(other, {})}
        tree = {**unnamed, **tree}
    return {**tree, **{name: _cell(value) for name, value in overrides.get(arm, {}).items()}}


def _leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, Cell]]:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if isinstance(value, Mapping):
                yield from _leaves(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", _cell(value)


def _cell(value: object) -> Cell:
    """One value as a cell: shares written as text are numbers, lists are text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value) or None
    text = str(value)
    return float(Fraction(text)) if _SHARE.fullmatch(text) else text


def _key(value: Cell) -> tuple[str, Cell]:
    # 1 and True are one key in a set, and one setting may say either
    return ("bool" if isinstance(value, bool) else "value", value)
