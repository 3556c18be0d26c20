"""How our runs differ from the papers' recipes, setting by setting, and what SaEI leaves open.

What SaEI states of its recipe is little; its group size and data sets point to NoisyRollout's (arXiv 2504.13055), which
is then presumed and marked so. Ours is read from a run's own `config.json`.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.card_words import LINE
from analysis.claims import SAEI, VEPO
from analysis.load import SweepData
from analysis.tables import EMPTY
from saei import schema

UNRECORDED = "not recorded"
STATED, PRESUMED, IN_CODE = "stated", "presumed: NoisyRollout's", "stated or in its code"
TINY = "tiny"
TINY_WORDS = "tiny (2M parameters)"

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A setting as a paper has it. `same` are the values of `path` that agree with it."""

    setting: str
    path: str
    told: str
    same: tuple[Any, ...]
    basis: str = PRESUMED
    brief: bool = False
    """Is it named in the card's own row?"""


_SEVEN_B = "Qwen/Qwen2.5-VL-7B-Instruct"
_HOST: tuple[Published, ...] = (
    Published(setting="model", path="model.path", told="Qwen2.5-VL-7B-Instruct", same=(_SEVEN_B,), brief=True),
    Published(setting="vision tower frozen", path="model.freeze_vision", told="yes", same=(True,)),
    Published(setting="problems a step", path="rollout.problems_per_step", told="512", same=(512,), brief=True),
    Published(setting="updates a step", path="optim.updates_per_step", told="4", same=(4,)),
    Published(setting="learning rate", path="optim.lr", told="1e-6", same=(1e-6,), brief=True),
    Published(setting="weight decay", path="optim.weight_decay", told="0.01", same=(0.01,)),
    Published(setting="warm-up steps", path="optim.warmup_steps", told="0", same=(0,)),
    Published(setting="longest completion (tokens)", path="rollout.max_new_tokens", told="2048", same=(2048,)),
    Published(setting="fewest pixels", path="data.min_pixels", told="262144", same=(262144,)),
    Published(setting="most pixels", path="data.max_pixels", told="1000000", same=(1000000,)),
    Published(setting="clip", path="loss.clip_low", told="0.2", same=(0.2,)),
    Published(setting="clip above", path="loss.clip_high", told="0.2", same=(0.2,)),
    Published(setting="KL to a reference", path="loss.kl_coef", told="0", same=(0, 0.0)),
    Published(setting="completions a problem in the test", path="eval.samples", told="1, greedy", same=(1,)),
)
_ATTACK: tuple[Published, ...] = (
    Published(setting="n1 (clean)", path="rollout.n_clean", told="6", same=(6,), basis=STATED, brief=True),
    Published(setting="n2 (adversarial)", path="rollout.n_view", told="6", same=(6,), basis=STATED, brief=True),
    Published(setting="T", path="view.iterations", told="1", same=(1,), basis=STATED, brief=True),
    Published(
        setting="step (grey levels)", path="view.step_size", told="2 or 3", same=(2, 3), basis=STATED, brief=True
    ),
    Published(setting="tokens of the attack", path="select.rule", told="band", same=("band",), basis=STATED),
    Published(setting="dropped below", path="select.drop_low", told="1/3", same=("1/3",), basis=STATED),
    Published(setting="dropped above", path="select.drop_high", told="1/3", same=("1/3",), basis=STATED),
)
_DATA = Published(
    setting="data", path="data.source", told="Geometry3K, MM-Eureka", same=("local", "hub"), basis=STATED, brief=True
)
RECIPES: dict[str, tuple[Published, ...]] = {
    SAEI: (
        _HOST[0],
        _DATA,
        Published(setting="steps", path="steps", told="60 on Geometry3K", same=(60,), brief=True),
        *_ATTACK,
        *_HOST[1:],
    ),
    VEPO: tuple(
        replace(one, basis=IN_CODE)
        for one in (
            _HOST[0],
            replace(_DATA, told="Geometry3K and about 2,100 of MMK12"),
            Published(setting="completions a group", path="rollout.n_clean", told="12", same=(12,), brief=True),
            Published(setting="share of tokens", path="policy_select.share", told="1/5", same=("1/5",)),
            *_HOST[1:],
        )
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """A question that the SaEI paper leaves open; `path` is our setting, or `ours` what the code always does."""

    question: str
    path: str = ""
    ours: str = ""


OPEN: tuple[Open, ...] = (
    Open(question="sign of the step (the paper prints −2/255)", path="view.direction"),
    Open(question="which data set uses 2/255, which 3/255 (grey levels)", path="view.step_size"),
    Open(question="step on raw or normalised pixels", path="view.pixel_space"),
    Open(question="clipped to valid pixels", ours="yes, always"),
    Open(question="ball around the clean image (grey levels), random start", path="view.epsilon"),
    Open(question="sign of the gradient, or its size", path="view.norm"),
    Open(question="tokens ranked within", path="select.scope"),
    Open(question="rounding of the thirds", ours="floor(n/3) dropped at either end, ties by position"),
    Open(question="mean over kept or over all tokens", path="select.denominator"),
    Open(question="entropy over the full vocabulary, or of the sampled token", ours="full vocabulary, always"),
    Open(question="end of text counted as a token", ours="yes, always"),
    Open(question="temperature of the attack's logits", path="rollout.temperature"),
    Open(question="a moved image per", path="view.adv_per"),
    Open(question="image of the adversarial completions' log-probs", path="loss.train_view"),
    Open(question="base model", path="model.path"),
    Open(question="which MM-Eureka test set", path="data.source"),
    Open(question="attack annealed over training", path="view.schedule"),
    Open(question="several images in a problem", ours="all are moved"),
    Open(question="KL to a reference", path="loss.kl_coef"),
    Open(question="entropy term", path="control.rule"),
    Open(question="clip below", path="loss.clip_low"),
    Open(question="clip above", path="loss.clip_high"),
    Open(question="train or evaluation mode while attacking", ours="evaluation mode"),
)


def config_of(data: SweepData, arm: str) -> Config:
    """The settings of the first run of `arm` that has any; {} where none has begun."""
    found = (tree["config"] for tree in data.documents(schema.CONFIG_FILE) if tree["arm"] == arm)
    return next(found, {})


def value_at(config: Config, path: str) -> Any:
    """The setting at a dotted path, or UNRECORDED (older runs, runs of other tools)."""
    value: Any = config
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return UNRECORDED
        value = value[name]
    return value


def differences(config: Config, paper: str) -> pd.DataFrame:
    """Settings in which a run differs from the paper's recipe: setting, paper, basis, ours, brief."""
    rows = []
    plain = value_at(config, "rollout.n_view") == 0  # GRPO and rivals in the loss: there is no attack to differ
    for one in RECIPES[paper]:
        value = value_at(config, one.path)
        if _same(value, one.same) or (plain and one in _ATTACK):
            continue
        rows.append(
            {"setting": one.setting, "paper": one.told, "basis": one.basis, "ours": told(value), "brief": one.brief}
        )
    return pd.DataFrame(rows, columns=["setting", "paper", "basis", "ours", "brief"])


def _same(value: Any, wanted: tuple[Any, ...]) -> bool:
    # True == 1, and one is no answer where the other is asked for
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)


def left_open(config: Config) -> pd.DataFrame:
    """What the SaEI paper leaves open, what our run took, and which setting changes it."""
    rows = [
        {
            "the paper leaves open": one.question,
            "ours": one.ours or told(value_at(config, one.path)),
            "setting": one.path or EMPTY,
        }
        for one in OPEN
    ]
    return pd.DataFrame(rows)


def in_brief(config: Config, paper: str) -> str:
    """The differences that matter most, a line each, and how many more there are."""
    if not config:
        return EMPTY
    frame = differences(config, paper)
    lines = [f"{row['setting']}: {row['ours']}, not {row['paper']}" for row in frame.to_dict("records") if row["brief"]]
    more = int((~frame["brief"].astype(bool)).sum())
    return LINE.join([*lines, f"and {more} more"] if more else lines) or "none in the settings known"


def scale(config: Config) -> str:
    """Whose scale a run is, in words, where it is not the papers': "the tiny model and digits", or ""."""
    model = value_at(config, "model.path")
    source = value_at(config, "data.source")
    synthetic = source in ("digits", "shapes")
    named = ["the tiny model"] * (model == TINY) + [f"{source}"] * synthetic
    return " and ".join(named)


_TOLD: dict[str, Callable[[Any], str]] = {
    "bool": lambda value: "yes" if value else "no",
    "NoneType": lambda value: "none",
    "float": lambda value: (
        np.format_float_scientific(value, trim="-", exp_digits=1) if 0 < abs(value) < 1e-3 else f"{value:g}"
    ),
}


def told(value: Any) -> str:
    """A setting as a person reads it."""
    if value == TINY:
        return TINY_WORDS
    return _TOLD.get(type(value).__name__, str)(value)
