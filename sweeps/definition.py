"""A sweep is a question: its arms differ in named settings, and it says beforehand what is compared with what.

A definition is a file `sweeps/<name>.py` that sets `SWEEP`; the file name is the sweep's name. No torch.
"""

import dataclasses
import difflib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saei.config import Config, field_names, typed_value, unknown_field, with_overrides
from saei.presets import PRESETS
from saei.units import parse_grey_levels
from sweeps.space import Space

FOLDER = Path(__file__).resolve().parent
RESERVED = ("status", "logs", "cancel", "why", "diff")
"""Words kept for commands of the runner; no sweep may have such a name."""

GRPO = PRESETS["grpo"].settings
"""The baseline of most sweeps: 12 clean completions, no attack."""

GRPO_MATCHED = {**GRPO, "rollout.n_clean": 19}
"""GRPO with as many clean completions as cost what SaEI's 6 + 6 and the attack cost, in token positions through
forward and backward passes, sampling included. For the tiny model on digits: `python -m sweeps.match`."""

DEMO = {
    "steps": 60,
    "eval.every": 20,
    "eval.problems": 32,
    "eval.test_problems": 64,
    "eval.shifted_problems": 0,
    "record.fresh_every": 20,
}
"""Settings of `--demo`: enough to see every part work within minutes, far too little to be evidence."""
DEMO_SEEDS = 2
DEMO_NOTE = "demo budget: it shows the machinery, not evidence"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """`arms` maps the name of an arm to the dotted settings in which it differs from `base` (itself on a preset).

    `primary_contrast` (arm, reference arm) is the one comparison planned beforehand; everything else is secondary.
    Arms in `on_request` are launched only by `--only`. A search has a `space`: its points become further arms.
    """

    question: str
    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    primary_contrast: tuple[str, str]
    seeds: int = 5
    base: Mapping[str, Any] = field(default_factory=dict)
    demo_arms: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    space: Space | None = None

    def __post_init__(self) -> None:
        for arm in self.arms:
            if not re.fullmatch(r"[a-z0-9_]+", arm):
                raise ValueError(f"arms: {arm!r} must be lower-case letters, digits and underscores")
        for name in (self.baseline, *self.primary_contrast, *self.demo_arms, *self.on_request):
            if name not in self.arms:
                raise ValueError(f"{name!r} is not an arm of this sweep; arms: {', '.join(self.arms)}")
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {self.seeds}")


def sweep_names() -> list[str]:
    """Names of the definitions: the files here that set SWEEP. Nothing is imported."""
    found = [path.stem for path in FOLDER.glob("*.py") if re.search(r"^SWEEP = ", path.read_text(), re.MULTILINE)]
    return sorted(name for name in found if name not in RESERVED)


def load_sweep(name: str) -> Sweep:
    """The definition called `name`. Raises ValueError with the nearest names, or for a reserved word."""
    names = sweep_names()
    listed = f"Sweeps: {', '.join(names)}"
    if not name:
        raise ValueError(f"which sweep? python sweeps/run.py NAME. {listed}")
    if name in RESERVED:
        raise ValueError(f"{name!r} is reserved for a command of the runner and is never the name of a sweep. {listed}")
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        raise ValueError(f"there is no sweep {name!r}{f': did you mean {near[0]}?' if near else '.'} {listed}")
    return importlib.import_module(f"sweeps.{name}").SWEEP


def select_arms(sweep: Sweep, only: Sequence[str], *, demo: bool) -> list[str]:
    """The arms of this launch, in the order of the definition. Raises ValueError for unknown names."""
    for arm in only:
        if arm not in sweep.arms:
            near = difflib.get_close_matches(arm, sweep.arms, n=1, cutoff=0.4)
            cure = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"--only: there is no arm {arm!r}: {cure}Arms: {', '.join(sweep.arms)}")
    if demo and not sweep.demo_arms:
        raise ValueError("--demo: this sweep has no demo; tsec_ratio has one")
    default = sweep.demo_arms if demo else [arm for arm in sweep.arms if arm not in sweep.on_request]
    wanted = set(only) or set(default)
    return [arm for arm in sweep.arms if arm in wanted]


def arm_config(sweep: Sweep, arm: str, seed: int, settings: Mapping[str, Any]) -> Config:
    """The settings of one trial: base, then the arm's, then those of the launch.

    Raises ValueError when the launch sets what an arm is about, or a combination that the config refuses.
    """
    for name, value in settings.items():
        if name in sweep.arms[arm]:
            raise ValueError(
                f"{name} is what arm {arm} sets ({sweep.arms[arm][name]}); it cannot be set to {value} too"
            )
    overrides = {**sweep.base, **sweep.arms[arm], **settings, "seed": seed}
    own = dict(sweep.arms[arm])
    preset = next(
        (name for name, row in PRESETS.items() if own in (dict(row.settings), {**row.settings, **row.published})),
        arm if arm in PRESETS and own.keys() >= PRESETS[arm].settings.keys() else "saei",
    )
    return with_overrides(Config(), {**overrides, "preset": preset})


def parse_setting(text: str) -> tuple[str, Any]:
    """`view.step_size=3/255` -> ("view.step_size", 3.0), checked against the config. Raises ValueError."""
    name, equals, raw = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes FIELD=VALUE, such as optim.lr=1e-4, got {text!r}")
    if name not in field_names():
        raise unknown_field(name)
    if name in ("seed", "out", "preset", "steps"):
        raise ValueError(f"--set: {name} is the runner's own; see --seeds, --steps and --results")
    if name in ("view.step_size", "view.epsilon"):
        return name, None if raw == "none" else parse_grey_levels(raw, name)
    try:
        value = json.loads(raw)
    except json.JSONDecodeError:
        value = raw
    group, _, leaf = name.rpartition(".")
    kind = {f.name: f.type for f in dataclasses.fields(getattr(Config(), group) if group else Config)}[leaf]
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} is true or false, got {raw!r}")
    if isinstance(value, str) and "tuple" in str(kind):
        value = value.split()  # words, as on the trainer's command line; a bare text would fall into its letters
    return name, typed_value(name, value)
