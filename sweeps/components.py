"""Which component of SaEI does the work? Each arm takes one away or puts a control in its place."""

from sweeps.definition import GRPO, GRPO_MATCHED, Sweep

SWEEP = Sweep(
    question="Which component of SaEI does the work: two phases, a moved image, its direction, or the chosen tokens?",
    arms={
        "grpo": GRPO,
        "grpo_matched": GRPO_MATCHED,  # at SaEI's cost
        "step_zero": {"view.step_size": 0.0},  # two sampling phases, one image
        "no_tsec": {"select.rule": "all"},
        "saei": {},
        "random_sign": {"view.name": "random_sign"},  # same size and touched pixels, no direction
        "middle_third": {"select.rule": "middle"},  # like saei, but a count rounded once in place of two cuts
        "top_third": {"select.rule": "top"},
        "bottom_third": {"select.rule": "bottom"},
        "random_third": {"select.rule": "random"},
    },
    baseline="grpo",
    primary_contrast=("saei", "grpo"),
)
