"""Which tokens should the policy loss learn from? Entropy, vision, both, or chance, and over which pool they rank."""

from fractions import Fraction
from typing import Any

from saei.presets import PRESETS
from sweeps.definition import GRPO, Sweep

VEPO = PRESETS["vepo"].settings


def top_fifth(**more: Any) -> dict[str, Any]:
    """GRPO on a fifth of the tokens."""
    changed = {name.replace("__", "."): value for name, value in more.items()}
    return {**GRPO, "policy_select.rule": "top", "policy_select.share": Fraction(1, 5), **changed}


SWEEP = Sweep(
    question="Which completion tokens should the policy loss keep, by which score, ranked over what, divided by what?",
    arms={
        "all_tokens": GRPO,
        "entropy_response": top_fifth(),  # VEPO without vision: its entropy-only row
        "entropy_batch": top_fifth(policy_select__scope="batch"),  # 80/20, the paper
        "entropy_micro_batch": top_fifth(  # 80/20, the code
            policy_select__scope="micro_batch", policy_select__weights="current", loss__agg_scope="micro"
        ),
        "entropy_over_all": top_fifth(policy_select__scope="batch", policy_select__denominator="all"),
        "random_fifth": top_fifth(policy_select__rule="random"),
        "bottom_four_fifths": top_fifth(policy_select__rule="bottom", policy_select__share=Fraction(4, 5)),
        "middle_third": {**GRPO, "policy_select.rule": "band"},
        "vepo": VEPO,
        "vepo_no_coupling": {**VEPO, "policy_select.score": "vepo_no_coupling"},
        "vppo_dependency": {**VEPO, "policy_select.score": "dependency", "score.view": "mask", "score.mask_share": 0.5},
        "saei_vepo": {  # the attack's tokens and the loss's tokens are two settings
            name: value for name, value in VEPO.items() if not name.startswith("rollout.")
        },
    },
    baseline="all_tokens",
    primary_contrast=("vepo", "entropy_response"),
)
