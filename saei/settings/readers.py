"""What reads a setting, as data: a setting that this run would not read may only have its default (`Config` refuses).

Two ways of not being read: none of the planned views reads it (`VIEW_READERS`), or another setting switches it off
(`IDLE`). Values that no table knows switch nothing off; `saei/options.py` refuses them by name.
"""

from dataclasses import fields
from typing import Any, NamedTuple

from saei.settings.tokens import SelectConfig

IMAGE_ATTACKS = ("egas", "random_sign", "gaussian", "error")
ATTACKS = (*IMAGE_ATTACKS, "text_embedding")
CHOOSING = tuple(view for view in ATTACKS if view != "error")
"""Attacks that choose tokens; `error` climbs all of them."""

VIEW_READERS: dict[str, tuple[str, ...]] = {
    "view.step_size": IMAGE_ATTACKS,
    "view.epsilon": IMAGE_ATTACKS,
    "view.norm": IMAGE_ATTACKS,
    "view.pixel_space": IMAGE_ATTACKS,
    "view.momentum": IMAGE_ATTACKS,
    "view.adv_per": IMAGE_ATTACKS,
    "view.iterations": ATTACKS,
    "view.direction": ATTACKS,
    "view.objective": ATTACKS,
    "view.only_mixed": ATTACKS,
    "view.noise_level": ("noise",),
    "view.mask_share": ("mask",),
    "view.text_radius": ("text_embedding",),
    **{f"select.{own.name}": CHOOSING for own in fields(SelectConfig)},
}
"""Setting -> the views that read it. What is not here, such as view.schedule, every view but `clean` reads."""


class Idle(NamedTuple):
    """`setting` does nothing while the setting `other` has one of `values`; `cure` names the values that read it."""

    setting: str
    other: str
    values: tuple[Any, ...]
    cure: str


_RANKING = "top, bottom, middle or a band"
_SELECTING = "a rule that selects"
_SHARES = "top, bottom, middle or random"

IDLE: tuple[Idle, ...] = (
    *(
        row
        for group in ("select", "policy_select")
        for row in (
            Idle(f"{group}.score", f"{group}.rule", ("all", "random"), _RANKING),
            Idle(f"{group}.count", f"{group}.rule", ("all", "band", "mass", "otsu", "quantile"), _SHARES),
            Idle(f"{group}.scope", f"{group}.rule", ("all",), _SELECTING),
            Idle(f"{group}.denominator", f"{group}.rule", ("all",), _SELECTING),
        )
    ),
    Idle("select.refresh", "select.rule", ("all",), _SELECTING),
    Idle("select.refresh", "view.iterations", (0, 1), "more than 1"),
    # a random rule needs no scores, and while the weights move it has no stream to draw from
    Idle("policy_select.weights", "policy_select.rule", ("all", "random"), _RANKING),
    Idle("policy_select.denominator", "loss.aggregation", ("constant_length",), "token_mean or sequence_mean"),
    Idle("view.schedule_midpoint", "view.schedule", ("constant", "linear", "power", "exponential"), "sigmoid"),
    Idle("view.schedule_slope", "view.schedule", ("constant", "linear"), "sigmoid, power or exponential"),
    Idle("loss.kl_estimator", "loss.kl_coef", (0.0,), "more than 0"),
    Idle("filter.max_batches", "filter.rule", ("none",), "mixed_accuracy or mixed_reward"),
    Idle("advantage.epsilon", "advantage.rule", ("group_mean", "leave_one_out"), "group_std"),
    Idle("advantage.epsilon", "advantage.shaping", ("noise_prior",), "none, vppo or ecvgpo"),
    Idle("advantage.rule", "advantage.shaping", ("noise_prior",), "none, vppo or ecvgpo"),
    Idle("score.noise_level", "score.view", ("mask", "no_image"), "noise"),
    Idle("score.mask_share", "score.view", ("noise", "no_image"), "mask"),
    Idle("score.per", "score.view", ("no_image",), "noise or mask"),
    Idle("loss.engine_cap", "loss.engine_correction", ("none",), "token_truncated"),
    *(
        Idle(setting, "rollout.engine", ("transformers",), "vllm")
        for setting in ("loss.engine_correction", "rollout.engine_sync_every", "rollout.engine_options", "eval.engine")
    ),
)

ALPHA_READERS = ("vepo", "vepo_no_coupling", "vepo_c", "vepo_f", "vepo_h")
"""Scores that read `score.alpha`."""
