"""When does the attack become too strong, and do the two mitigations help? (claims.md C6, Q4, F2, F3)"""

from typing import Any

from sweeps.definition import GRPO, Sweep


def attack(step: float, iterations: int = 1, epsilon: float | None = None, **more: Any) -> dict[str, Any]:
    """Step in grey levels, iterations T, ball in grey levels."""
    changed = {name.replace("__", "."): value for name, value in more.items()}
    ball = {} if epsilon is None else {"view.epsilon": epsilon}
    return {"view.step_size": step, "view.iterations": iterations, **ball, **changed}


STEPS, ITERATIONS = (2.0, 4.0, 8.0, 16.0), (2, 4)

SWEEP = Sweep(
    question="At which step size and T do clean accuracy fall and losses spike, and do the mitigations prevent it?",
    arms={
        "grpo": GRPO,
        **{f"step_{step:g}": attack(step) for step in STEPS},
        **{f"step_{step:g}_t{t}_ball": attack(step, t, step) for step in STEPS for t in ITERATIONS},
        **{f"step_{step:g}_t{t}_wide": attack(step, t, t * step) for step in STEPS for t in ITERATIONS},
        "step_32": attack(32.0),
        "step_32_only_mixed": attack(32.0, view__only_mixed=True),
        "step_32_back_off": attack(32.0, view__back_off=True),
        "step_32_annealed": attack(32.0, view__schedule="sigmoid"),
        "step_16_t4_wide_only_mixed": attack(16.0, 4, 64.0, view__only_mixed=True),
        "step_16_t4_wide_back_off": attack(16.0, 4, 64.0, view__back_off=True),
        "step_16_t4_wide_annealed": attack(16.0, 4, 64.0, view__schedule="sigmoid"),
    },
    baseline="grpo",
    primary_contrast=("step_32_back_off", "step_32"),
)
