"""Does training on attacked or noisy images make the policy hard to attack? Test accuracy under four attacks."""

from saei.presets import PRESETS
from sweeps.definition import GRPO, Sweep

SWEEP = Sweep(
    question="How far does the accuracy of a trained policy fall under attacks of 0 to 16 grey levels?",
    base={
        "eval.attacks": ("egas", "random_sign", "gaussian", "error"),
        "eval.attack_levels": (0.0, 1.0, 2.0, 4.0, 8.0, 16.0),
    },
    arms={"grpo": GRPO, "saei": {}, "noisyrollout": PRESETS["noisyrollout"].settings},
    baseline="grpo",
    primary_contrast=("saei", "grpo"),
)
