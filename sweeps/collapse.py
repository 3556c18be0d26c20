"""Does entropy collapse under plain GRPO? A long run of the baseline alone; SaEI beside it only on request."""

from sweeps.definition import GRPO, Sweep

SWEEP = Sweep(
    question="How far does the policy's entropy fall under plain GRPO, and what becomes of accuracy meanwhile?",
    base={"steps": 400},
    arms={"grpo": GRPO, "saei": {}},
    on_request=("saei",),  # python sweeps/run.py collapse --only grpo --only saei
    seeds=3,
    baseline="grpo",
    primary_contrast=("saei", "grpo"),
)
