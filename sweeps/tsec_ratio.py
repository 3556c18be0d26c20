"""Which tokens should the attack act on? TsEC keeps the middle third; here the share and its place vary."""

from fractions import Fraction
from typing import Any

from sweeps.definition import GRPO, Sweep


def centred(share: str) -> dict[str, Any]:
    """Keep this share of each completion's tokens around its median entropy."""
    dropped = (1 - Fraction(share)) / 2
    return {"select.drop_low": dropped, "select.drop_high": dropped}


SWEEP = Sweep(
    question="Which share of the tokens, and which part of the entropy ranking, should the attack act on?",
    arms={
        "grpo": GRPO,
        "no_tsec": {"select.rule": "all"},
        "middle_3_5": centred("3/5"),
        "middle_1_2": centred("1/2"),
        "middle_1_3": {},  # the paper's TsEC
        "middle_1_5": centred("1/5"),
        "low_third": {"select.rule": "bottom"},
        "high_third": {"select.rule": "top"},
        "random_third": {"select.rule": "random"},
    },
    baseline="grpo",
    primary_contrast=("middle_1_3", "grpo"),
    demo_arms=("grpo", "no_tsec", "middle_1_3", "random_third"),
)
