"""Every preset against GRPO: is it SaEI, or would any noise do, or any entropy control?

The default budget is to see every method run (three seeds take a two-core machine about an hour); `--steps 200` and
more seeds are for evidence. Arms that filter groups use more completions a step and are compared on the token axis.
"""

from saei.presets import PRESETS
from sweeps.definition import GRPO_MATCHED, Sweep

SWEEP = Sweep(
    question="Does SaEI beat plain GRPO, rivals in sampling, in the loss and in entropy control, and GRPO at its cost?",
    base={
        "steps": 40,
        "eval.every": 20,
        "eval.problems": 64,
        "eval.test_problems": 128,
        "eval.shifted_problems": 0,
        "record.fresh_every": 20,
    },
    arms={
        "grpo": PRESETS["grpo"].settings,
        "grpo_matched": GRPO_MATCHED,
        **{name: row.settings for name, row in PRESETS.items() if name != "grpo"},
        "saei_step_8": {"view.step_size": 8.0},  # at 2/255 the attack hardly moves the tiny model's entropy
    },
    baseline="grpo",
    primary_contrast=("saei", "grpo"),
)
