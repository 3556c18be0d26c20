"""Is it the direction? The same size of change with the direction taken away, under both conditionings of the loss."""

from typing import Any

from sweeps.definition import GRPO, Sweep

CONTROLS: dict[str, dict[str, Any]] = {
    "step_zero": {"view.step_size": 0.0},
    "random_sign": {"view.name": "random_sign"},
    "gaussian": {"view.name": "gaussian"},
    "descend": {"view.direction": "descend"},
    "egas": {},
}

SWEEP = Sweep(
    question="Does EgAS's direction matter, or would any change of its size do, and on which image should one train?",
    arms={
        "none": GRPO,
        **CONTROLS,
        **{
            f"{name}_as_sampled": {**settings, "loss.train_view": "as_sampled"}
            for name, settings in CONTROLS.items()
            if name != "step_zero"  # one image: both conditionings are one
        },
    },
    baseline="none",
    primary_contrast=("egas", "random_sign"),
)
