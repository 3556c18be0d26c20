"""The table of named methods: each is a set of settings and nothing else (DESIGN 4.3).

A preset names the source of its settings and where they differ from the published recipe. Adding a method is adding a
row; the trainer never sees the name. Two flavours: `tiny` runs on a laptop on the shipped model; `published` has the
method's own settings on NoisyRollout's 7B recipe (methods.md section 2: model, batch, rates, lengths), one host for all
so that methods differ by the method. Where a method's own paper had another host, `host` says which.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from saei.config import Config, with_overrides


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """`settings` are dotted overrides of the default `Config` (which is SaEI on the tiny model); `published` what the
    published flavour changes beyond `RECIPE_7B`; `host` the recipe of the method's own paper where it was another.
    """

    settings: Mapping[str, Any]
    source: str
    differs: str
    published: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""


RECIPE_7B: dict[str, Any] = {
    "model.path": "Qwen/Qwen2.5-VL-7B-Instruct",
    "model.dtype": "bfloat16",
    "model.freeze_vision": True,
    "data.source": "local",
    "data.path": "data/geometry3k",
    "data.min_pixels": 262144,
    "data.max_pixels": 1000000,
    "data.system_prompt": (
        "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. "
        "The reasoning process MUST BE enclosed within <think> </think> tags. "
        "The final answer MUST BE put in \\boxed{}."
    ),
    "steps": 60,
    "rollout.problems_per_step": 512,
    "rollout.max_new_tokens": 2048,
    "optim.lr": 1e-6,
    "optim.weight_decay": 0.01,
    "optim.warmup_steps": 0,
    "optim.beta2": 0.999,
    "optim.updates_per_step": 4,
    "optim.pack_tokens": 16384,
    "optim.master_dtype": "float32",  # open: bfloat16 weights alone lose updates of 1e-6
}
"""NoisyRollout's recipe (methods.md section 2, first column): what SaEI's group size and data sets point to."""

SCALE = "tiny: lr 1e-4, 8 problems and 2 updates a step; published flavour: lr 1e-6, 512 problems and 4 updates a step"
"""What every preset's `differs` leaves out because all share it."""
_CLEAN = {"rollout.n_clean": 12, "rollout.n_view": 0}
"""12 clean completions: the group of the paper's GRPO; every rival that does not change the input has it too."""

_NOISY_SCHEDULE = {
    "view.name": "noise",
    "view.noise_level": 500,
    "view.schedule": "sigmoid",
    "view.schedule_midpoint": 2 / 3,
    "view.schedule_slope": 30.0,
}
_FIFTH = Fraction(1, 5)
_DAPO = {
    "loss.clip_high": 0.28,
    "loss.dual_clip": 10.0,
    "loss.aggregation": "token_mean",
    "filter.rule": "mixed_accuracy",
    "reward.overlong_buffer": 16,
}

PRESETS: dict[str, Preset] = {
    "saei": Preset(
        settings={},
        source="arXiv 2512.10414: n1 = n2 = 6, T = 1, step 2/255, middle third of tokens (TsEC)",
        differs="what the paper leaves open stands in docs/decisions",
    ),
    "grpo": Preset(
        settings=_CLEAN,
        source="arXiv 2402.03300 with the group size of the paper's comparison, 12",
        differs="token-mean aggregation, no KL (NoisyRollout's GRPO baseline, without its entropy bonus)",
    ),
    "dr_grpo": Preset(
        settings={**_CLEAN, "advantage.rule": "group_mean", "loss.aggregation": "constant_length"},
        source="arXiv 2503.20783: no std in the advantage, token sum over a constant length",
        differs="also divided by the number of completions (TRL; verl is not)",
    ),
    "dapo": Preset(
        settings={**_CLEAN, **_DAPO},
        source="arXiv 2503.14476: clip 0.2/0.28, token mean, dynamic sampling on accuracy, overlong penalty, dual clip",
        differs="at most 4 batches a step (10), buffer 16 of 64 tokens (4096 of 20480), reward 0.9/0.1 (+-1)",
        published={"reward.overlong_buffer": 512, "filter.max_batches": 10},
        host="Qwen2.5-32B on text, 16 completions, response of 20480 tokens",
    ),
    "gspo": Preset(
        settings={
            **_CLEAN,
            "loss.name": "gspo",
            "loss.clip_low": 3e-4,
            "loss.clip_high": 4e-4,
            "loss.aggregation": "sequence_mean",
        },
        source="arXiv 2507.18071: sequence importance ratio, clip 3e-4/4e-4",
        differs="nothing beyond the scale",
    ),
    "cispo": Preset(
        settings={**_CLEAN, "loss.name": "cispo", "loss.clip_low": 1.0, "loss.clip_high": 0.28},
        source="arXiv 2506.13585: the clipped ratio weighs the log-prob's gradient, no token is dropped",
        differs="upper bound 0.28 is ours (the paper tunes it and does not print it), no lower bound (paper)",
    ),
    "kl_cov": Preset(
        settings={**_CLEAN, "loss.name": "kl_cov", "loss.token_share": 0.002, "loss.penalty": 1.0},
        source="arXiv 2505.22617, official 7B script: k 0.2 %, beta 1, no clip",
        differs="tokens are picked over the update batch (official: each micro-batch); no dynamic sampling",
        host="Qwen2.5-7B on text, 256 problems x 8, mini-batch 32, lr 5e-7, dynamic sampling",
    ),
    "clip_cov": Preset(
        settings={
            **_CLEAN,
            "loss.name": "clip_cov",
            "loss.token_share": 0.0002,
            "loss.clip_low": 1.0,
            "loss.clip_high": 1.0,
        },
        source="arXiv 2505.22617, official scripts: r 0.02 %, covariance in (1, 5), clip 1/1",
        differs="tokens are picked over the update batch (official: each micro-batch); no dynamic sampling",
        host="Qwen2.5-7B on text, 256 problems x 8, mini-batch 32, lr 5e-7, dynamic sampling",
    ),
    "noisyrollout": Preset(
        settings=_NOISY_SCHEDULE,
        source="arXiv 2504.13055: 6 + 6, diffusion noise of step 500, sigmoid decay (slope 30, midpoint 2/3)",
        differs="no entropy bonus (1e-3 in its config, not in the paper), rounding to 8 bits (truncation)",
        published={"control.rule": "bonus", "control.coef": 1e-3},
    ),
    "top_entropy": Preset(
        settings={
            **_CLEAN,
            **{name: value for name, value in _DAPO.items() if name != "filter.rule"},
            "policy_select.rule": "top",
            "policy_select.share": _FIFTH,
            "policy_select.scope": "batch",
        },
        source="arXiv 2506.01939 (80/20): top 20 % of the batch's tokens by entropy, DAPO's clips",
        differs="entropies of the old policy over the update batch (code: current policy, micro-batch); no "
        "dynamic sampling, so that it is compared by steps",
        published={"reward.overlong_buffer": 512},
        host="Qwen3 on text with DAPO, 512 problems x 16, mini-batch 32, 10 warm-up steps, weight decay 0.1",
    ),
    "vepo": Preset(
        settings={
            **_CLEAN,
            "policy_select.rule": "top",
            "policy_select.share": _FIFTH,
            "policy_select.score": "vepo",
            "score.view": "noise",
            "score.noise_level": 500,
        },
        source="arXiv 2606.03937: top 20 % of each completion's tokens by score D (alpha 0.7), diffusion step 500",
        differs="the paper's noise on [0, 1] pixels (the code's accumulates on normalised ones); no bonus 1e-3",
        published={"control.rule": "bonus", "control.coef": 1e-3},
    ),
    "vppo": Preset(
        settings={
            **_CLEAN,
            **_DAPO,
            "policy_select.rule": "top",
            "policy_select.share": Fraction(2, 5),
            "policy_select.score": "dependency",
            "policy_select.denominator": "all",
            "score.view": "mask",
            "score.mask_share": 0.5,
            "score.per": "response",
            "advantage.shaping": "vppo",
            "loss.nll_coef": 0.06,
        },
        source="arXiv 2510.09285: top 40 % of tokens by visual dependency, shaped advantages, DAPO host, penalty 0.06",
        differs="12 completions (8); weights over the update batch (code: device and micro-batch); at most 4 "
        "batches a step (20); reward 0.9/0.1 as in every arm (accuracy only)",
        published={
            "rollout.n_clean": 8,
            "reward.overlong_buffer": 512,
            "filter.max_batches": 10,
            "reward.format_weight": 0.0,
        },
        host="EasyR1 on ViRL39K, trainable vision tower",
    ),
    "papo": Preset(
        settings={
            **_CLEAN,
            "loss.name": "papo",
            "loss.clip_high": 0.3,
            "loss.dual_clip": 3.0,
            "loss.kl_coef": 0.01,
            "loss.nll_coef": 0.05,
            "loss.perception_coef": 0.02,
            "score.view": "mask",
            "score.mask_share": 0.6,
        },
        source="arXiv 2507.06448 (PAPO-G, 7B): gamma 0.02, masks of 60 % of the blocks, eta 0.05, KL 0.01",
        differs="12 completions (5); the block mask is drawn on the resized image (original resolution)",
        published={
            "rollout.n_clean": 5,
            "rollout.problems_per_step": 384,
            "optim.updates_per_step": 3,
            "rollout.top_p": 0.99,
            "data.min_pixels": 200704,
            "data.max_pixels": 1003520,
            "model.freeze_vision": False,
        },
        host="EasyR1 on ViRL39K, 2 epochs; no KL clamp at 10 here",
    ),
    "sent": Preset(
        settings={
            **_CLEAN,
            "loss.name": "sent_v2",
            "loss.token_share": 0.0002,
            "loss.kl_coef": 0.001,
            "data.curriculum": "semantic_entropy",
        },
        source="arXiv 2512.04359, official code (v2): weights 2 and 0.5 at the covariance ends of low-entropy tokens",
        differs="the curriculum's semantic entropy is a reconstruction (not in the code); sent_v1 and "
        "sent_paper are the other readings of the loss",
        host="Qwen2.5-Math-7B on text, 256 problems x 8, mini-batch 128",
    ),
    "entropy_bonus": Preset(
        settings={**_CLEAN, "control.rule": "bonus", "control.coef": 1e-3},
        source="the plain bonus with NoisyRollout's and VEPO's coefficient 1e-3",
        differs="nothing beyond the scale",
    ),
    "adaptive_entropy": Preset(
        settings={**_CLEAN, "control.rule": "skywork", "control.target": 0.2},
        source="arXiv 2505.22312 (Skywork-OR1): steps of 1e-4 in [0, 0.005] towards an entropy of 0.2",
        differs="nothing beyond the scale",
        host="text, 256 problems x 16",
    ),
    "proportional_entropy": Preset(
        settings={**_CLEAN, "control.rule": "proportional", "control.target": 0.2, "control.coef_max": 0.03},
        source="arXiv 2606.00096 (secondary source): coefficient 0.03 times what is missing to the target",
        differs="target 0.2 nats for the tiny model (0.9)",
        published={"control.target": 0.9},
    ),
    "aer": Preset(
        settings={
            **_CLEAN,
            "control.rule": "aer",
            "control.delta": 0.05,
            "control.coef_max": 0.01,
            "control.target_share": 0.8,
        },
        source="arXiv 2510.10959: difficulty-aware coefficients towards 0.4 of the initial entropy",
        differs="RECONSTRUCTION: the paper's formulas are not known to us; target 0.8 of the initial entropy and "
        "faster steps, for the tiny model never falls to 0.4 of it and the arm would be GRPO",
        published={"control.delta": 1e-3, "control.target_share": 0.4},
    ),
    "ecvgpo": Preset(
        settings={**_CLEAN, "advantage.shaping": "ecvgpo", "advantage.shaping_strength": -0.3},
        source="arXiv 2512.06726: positive advantages re-weighted by self-information",
        differs="RECONSTRUCTION: the paper's function is not known to us, and its task is grounding",
    ),
    "egas_all_tokens": Preset(
        settings={"select.rule": "all"},
        source="arXiv 2512.10414, ablation without TsEC: every completion token is in the objective",
        differs="nothing beyond the scale",
    ),
    "random_third": Preset(
        settings={"select.rule": "random", "select.share": Fraction(1, 3)},
        source="control: a random third of the tokens in place of the middle third",
        differs="nothing beyond the scale",
    ),
    "random_sign": Preset(
        settings={"view.name": "random_sign"},
        source="control: EgAS's own perturbation with its signs drawn at random, pixel by pixel (methods.md 3.6)",
        differs="nothing beyond the scale",
    ),
    "gaussian": Preset(
        settings={"view.name": "gaussian"},
        source="control: Gaussian noise of the L2 norm of EgAS's own perturbation (methods.md 3.6)",
        differs="nothing beyond the scale",
    ),
    "step_zero": Preset(
        settings={"view.step_size": 0.0},
        source="control: two sampling phases on the same clean image (methods.md 3.6)",
        differs="nothing beyond the scale",
    ),
    "text_embedding": Preset(
        settings={"view.name": "text_embedding"},
        source="OURS, no paper: EgAS on the question's token embeddings (claims Q2)",
        differs="there is no published recipe",
    ),
}


def preset(name: str, flavour: str = "tiny") -> Config:
    """The config of a named preset. Raises ValueError naming the nearest preset, or for an unknown flavour."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        cure = f"did you mean {near[0]}?" if near else "--list-presets shows all"
        raise ValueError(f"unknown preset {name}: {cure} Presets: {', '.join(PRESETS)}")
    if flavour not in ("tiny", "published"):
        raise ValueError(f"flavour is tiny or published, got {flavour}")
    row = PRESETS[name]
    settings = dict(row.settings)
    if flavour == "published":
        settings = {**RECIPE_7B, **settings, **row.published}
    return with_overrides(Config(), {**settings, "preset": name, "flavour": flavour})
