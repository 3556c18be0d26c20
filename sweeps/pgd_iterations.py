"""Is one step of PGD enough? More iterations, in the ball of one step or in one that grows with them."""

from typing import Any

from sweeps.definition import GRPO, Sweep


def pgd(iterations: int, epsilon: float, **more: Any) -> dict[str, Any]:
    """`iterations` steps of 2 grey levels in a ball of `epsilon` grey levels."""
    return {"view.iterations": iterations, "view.epsilon": epsilon, **more}


SWEEP = Sweep(
    question="Do more attack iterations help beyond the larger distance that they allow?",
    arms={
        "grpo": GRPO,
        "once": {},  # the paper: T = 1, step 2
        "twice_same_ball": pgd(2, 2.0),
        "twice_wide_ball": pgd(2, 4.0),
        "thrice_same_ball": pgd(3, 2.0),
        "thrice_wide_ball": pgd(3, 6.0),
        "thrice_refreshed": pgd(3, 6.0, **{"select.refresh": "each_iteration"}),
        "once_step_6": {"view.step_size": 6.0},  # the distance of thrice_wide_ball in one step
    },
    baseline="grpo",
    primary_contrast=("thrice_wide_ball", "once_step_6"),
)
