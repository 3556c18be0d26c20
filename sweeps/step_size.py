"""How far should the image move? 0 isolates "two sampling phases"; the paper uses 2 and 3 grey levels."""

from sweeps.definition import GRPO, Sweep

SWEEP = Sweep(
    question="How far, and in which direction, should the attack move the image?",
    arms={
        "grpo": GRPO,
        "step_0": {"view.step_size": 0.0},
        "step_1": {"view.step_size": 1.0},
        "step_2": {},  # the paper
        "step_3": {"view.step_size": 3.0},
        "step_4": {"view.step_size": 4.0},
        "step_8": {"view.step_size": 8.0},
        "descend_2": {"view.direction": "descend"},
    },
    baseline="grpo",
    primary_contrast=("step_2", "step_0"),
)
