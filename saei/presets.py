"""The table of named methods: each is a set of settings and nothing else (DESIGN 4.3).

A preset names the source of its settings and where they differ from the published recipe. Adding a method is adding a
row; the trainer never sees the name.
"""

import difflib
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from saei.config import Config, with_overrides


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """`settings` are dotted overrides of the default `Config` (which is SaEI on the tiny model)."""

    settings: dict[str, Any]
    source: str
    differs: str


_TINY = "tiny model: lr 1e-4, 8 problems and 2 updates a step instead of 512 problems and 4 updates at lr 1e-6"

PRESETS: dict[str, Preset] = {
    "saei": Preset(
        settings={},
        source="arXiv 2512.10414: n1 = n2 = 6, T = 1, step 2/255, middle third of tokens (TsEC)",
        differs=_TINY + "; what the paper leaves open stands in docs/decisions",
    ),
    "grpo": Preset(
        settings={"rollout.n_clean": 12, "rollout.n_view": 0},
        source="arXiv 2402.03300 with the group size of the paper's comparison, 12",
        differs=_TINY + "; token-mean aggregation, no KL (NoisyRollout's GRPO baseline)",
    ),
    "egas_all_tokens": Preset(
        settings={"select.rule": "all"},
        source="arXiv 2512.10414, ablation without TsEC: every completion token is in the objective",
        differs=_TINY,
    ),
    "random_third": Preset(
        settings={"select.rule": "random", "select.share": Fraction(1, 3)},
        source="control: a random third of the tokens in place of the middle third",
        differs=_TINY,
    ),
    "random_sign": Preset(
        settings={"view.name": "random_sign"},
        source="control: EgAS's own perturbation with its signs drawn at random, pixel by pixel (methods.md 3.6)",
        differs=_TINY,
    ),
    "step_zero": Preset(
        settings={"view.step_size": 0.0},
        source="control: two sampling phases on the same clean image (methods.md 3.6)",
        differs=_TINY,
    ),
}


def preset(name: str) -> Config:
    """The config of a named preset. Raises ValueError naming the nearest preset."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        cure = f"did you mean {near[0]}?" if near else "--list-presets shows all"
        raise ValueError(f"unknown preset {name}: {cure} Presets: {', '.join(PRESETS)}")
    return with_overrides(Config(), {**PRESETS[name].settings, "preset": name})
