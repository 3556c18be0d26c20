"""Is the equal three-way split the right one? Bands whose edges follow the entropies themselves (claims.md Q1)."""

from sweeps.definition import GRPO, Sweep

SWEEP = Sweep(
    question="Do bands that adapt to the entropies beat the fixed middle third as the attack's objective?",
    arms={
        "grpo": GRPO,
        "thirds": {},  # the paper
        "thirds_of_group": {"select.scope": "group"},
        "entropy_mass": {"select.rule": "mass"},
        "otsu": {"select.rule": "otsu"},
        "otsu_of_group": {"select.rule": "otsu", "select.scope": "group"},
        "running_quantiles": {"select.rule": "quantile"},
        "vepo_band": {"select.score": "vepo", "score.view": "noise"},  # thirds by vision and entropy
        "vepo_top": {"select.rule": "top", "select.score": "vepo", "score.view": "noise"},
        "random_third": {"select.rule": "random"},
    },
    baseline="grpo",
    primary_contrast=("otsu", "thirds"),
)
