"""How is the mixed group turned into a gradient? Advantage, aggregation, and the image that log-probs are given."""

from typing import Any

from saei.presets import PRESETS
from sweeps.definition import GRPO, Sweep


def saei(**more: Any) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in more.items()}


SWEEP = Sweep(
    question="How should a group of clean and moved completions be credited: baseline, scale, mean, image of the loss?",
    arms={
        "grpo": GRPO,
        "saei": {},
        "as_sampled": saei(loss__train_view="as_sampled"),
        "no_std": saei(advantage__rule="group_mean"),
        "leave_one_out": saei(advantage__rule="leave_one_out"),
        "sequence_mean": saei(loss__aggregation="sequence_mean"),
        "constant_length": saei(loss__aggregation="constant_length"),
        "clip_higher": saei(loss__clip_high=0.28),
        "noisyrollout": PRESETS["noisyrollout"].settings,
        "noisygrpo": {
            **PRESETS["noisyrollout"].settings,
            "advantage.shaping": "noise_prior",
        },  # 2 of its 4 noise levels
        "grpo_no_std": {**GRPO, "advantage.rule": "group_mean"},
        "accuracy_only": saei(reward__format_weight=0.0),
    },
    baseline="grpo",
    primary_contrast=("as_sampled", "saei"),
)
