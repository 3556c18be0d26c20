"""How many of a group's 12 completions should see the moved image?"""

from sweeps.definition import GRPO, Sweep

SWEEP = Sweep(
    question="How many of the 12 completions of a group should be sampled on the moved image?",
    arms={
        "split_12_0": GRPO,
        "split_10_2": {"rollout.n_clean": 10, "rollout.n_view": 2},
        "split_8_4": {"rollout.n_clean": 8, "rollout.n_view": 4},
        "split_6_6": {},  # the paper
        "split_4_8": {"rollout.n_clean": 4, "rollout.n_view": 8},
        "split_2_10": {"rollout.n_clean": 2, "rollout.n_view": 10},
    },
    baseline="split_12_0",
    primary_contrast=("split_6_6", "split_12_0"),
)
