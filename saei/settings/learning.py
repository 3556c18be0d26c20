"""How a step learns: reward, advantage, loss, entropy control, optimizer."""

from dataclasses import dataclass, field
from typing import Literal

from saei.settings.rules import ADDED_LATER, NOT_HASHED, require


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    accuracy_weight: float = 0.9
    """Weight of a right answer."""
    format_weight: float = 0.1
    """Weight of the format `<think>...</think>...\\boxed{...}`."""
    overlong_buffer: int = 0
    """Tokens before rollout.max_new_tokens over which a penalty grows linearly (DAPO: 4096 of 20480); 0: none."""
    overlong_penalty: float = 1.0
    """Penalty at rollout.max_new_tokens, subtracted from the reward."""
    timeout_s: float = 2.0
    """Longest time one answer may be graded; longer counts as wrong, with grade_status `timeout`."""
    max_failure_share: float = 0.05
    """Stop the run when more than this share of a step's completions could not be graded."""
    workers: int = field(default=1, metadata=NOT_HASHED)
    """Grader processes (only for answers that need mathematics; numbers are graded in place)."""

    def __post_init__(self) -> None:
        for name in ("accuracy_weight", "format_weight"):
            require(getattr(self, name) >= 0, f"reward.{name} must be >= 0, got {getattr(self, name)}")
        require(self.accuracy_weight + self.format_weight > 0, "reward weights are both 0: no reward is left")
        require(self.overlong_buffer >= 0, f"reward.overlong_buffer must be >= 0, got {self.overlong_buffer}")
        require(self.overlong_penalty > 0, f"reward.overlong_penalty must be > 0, got {self.overlong_penalty}")
        require(
            self.overlong_buffer > 0 or self.overlong_penalty == 1.0,
            "reward.overlong_penalty does nothing without reward.overlong_buffer tokens",
        )
        require(self.timeout_s > 0, f"reward.timeout_s must be > 0, got {self.timeout_s}")
        require(
            0 <= self.max_failure_share <= 1,
            f"reward.max_failure_share must be in [0, 1], got {self.max_failure_share}",
        )
        require(self.workers >= 1, f"reward.workers must be at least 1, got {self.workers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvantageConfig:
    rule: str = "group_std"
    """Baseline and scale: `group_std` (GRPO), `group_mean` (Dr. GRPO: no std), `leave_one_out` (RLOO)."""
    epsilon: float = 1e-6
    """Added to the group's standard deviation (verl, EasyR1: 1e-6; TRL: 1e-4)."""
    shaping: str = "none"
    """Weight on a completion's advantage: `none`, `vppo` (by visual dependency), `ecvgpo` (positive ones, by
    self-information; a reconstruction), or `noise_prior` (NoisyGRPO: rewards fused with how clean the image was)."""
    shaping_strength: float = 0.1
    """VPPO: weights start at 1 - strength (paper 0.9). NoisyGRPO: R. ECVGPO: kappa in [-0.5, 0.5]; below 0 lowers
    entropy."""

    def __post_init__(self) -> None:
        require(self.epsilon > 0, f"advantage.epsilon must be > 0, got {self.epsilon}")
        require(
            -0.5 <= self.shaping_strength <= 0.5,
            f"advantage.shaping_strength must be in [-0.5, 0.5], got {self.shaping_strength:g}",
        )
        require(
            self.shaping != "vppo" or self.shaping_strength >= 0,
            f"advantage.shaping_strength must be >= 0 for vppo (weights start at 1 - strength), got "
            f"{self.shaping_strength:g}",
        )
        require(
            self.shaping != "none" or self.shaping_strength == 0.1,
            "advantage.shaping_strength does nothing with advantage.shaping none",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    name: str = "grpo"
    """Policy loss: a name of the table in `saei/losses/__init__.py`."""
    clip_low: float = 0.2
    """Importance ratios below 1 - clip_low are clipped."""
    clip_high: float = 0.2
    """Importance ratios above 1 + clip_high are clipped."""
    dual_clip: float = 0.0
    """Bound on the loss of a token of negative advantage, in units of the advantage (verl 3, DAPO 10); 0: none."""
    aggregation: str = "token_mean"
    """`token_mean`, `sequence_mean` or `constant_length` (divide by completions * max_new_tokens)."""
    agg_scope: Literal["update", "micro"] = "update"
    """Means over the whole update batch, or over each micro-batch, averaged (old EasyR1: depends on pack_tokens)."""
    train_view: Literal["clean", "as_sampled"] = "clean"
    """Image on which log-probs are conditioned: always the clean one, or the one each completion was sampled on."""
    kl_coef: float = 0.0
    """Weight of the KL to the reference policy; 0 loads no reference."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that KL."""
    nll_coef: float = 0.0
    """Weight of the mean negative log-prob of the sampled tokens, added to the loss (PAPO, VPPO: 0.03-0.06)."""
    token_share: float = 0.002
    """Share of tokens that kl_cov penalises (0.002), clip_cov detaches and the sent losses treat (0.0002)."""
    penalty: float = 1.0
    """Weight of |logprobs - old_logprobs| on the tokens that kl_cov and the sent losses pick."""
    cov_low: float = 1.0
    """clip_cov: only tokens whose covariance lies in (cov_low, cov_high) are eligible."""
    cov_high: float = 5.0
    """See cov_low."""
    pick_scope: Literal["update", "micro"] = "update"
    """Tokens are picked by covariance over the whole update batch, or in each micro-batch (the official codes)."""
    perception_coef: float = 0.02
    """papo: weight of the divergence from the masked image, which is maximised (PAPO-G 0.02, PAPO-D 0.01)."""
    engine_correction: Literal["none", "token_truncated"] = field(default="none", metadata=ADDED_LATER)
    """With a separate rollout engine: weigh each token's loss by min(p_trainer / p_engine, engine_cap), or not."""
    engine_cap: float = field(default=2.0, metadata=ADDED_LATER)
    """Largest such weight (Yao et al. 2; TRL 3)."""

    def __post_init__(self) -> None:
        require(0 <= self.clip_low <= 1, f"loss.clip_low must be in [0, 1], got {self.clip_low}")
        require(self.clip_high >= 0, f"loss.clip_high must be >= 0, got {self.clip_high}")
        require(self.kl_coef >= 0, f"loss.kl_coef must be >= 0, got {self.kl_coef}")
        require(
            self.dual_clip == 0 or self.dual_clip > 1,
            f"loss.dual_clip must be > 1 (a ratio), or 0 for none, got {self.dual_clip:g}",
        )
        require(self.nll_coef >= 0, f"loss.nll_coef must be >= 0, got {self.nll_coef}")
        require(0 < self.token_share <= 1, f"loss.token_share must be in (0, 1], got {self.token_share:g}")
        require(self.penalty >= 0, f"loss.penalty must be >= 0, got {self.penalty:g}")
        require(
            self.cov_low < self.cov_high,
            f"loss.cov_low must be < loss.cov_high, got {self.cov_low:g} and {self.cov_high:g}: no covariance lies "
            "between; lower cov_low or raise cov_high (published: 1 and 5)",
        )
        require(self.engine_cap >= 1, f"loss.engine_cap must be at least 1, got {self.engine_cap:g}: 1 is no mismatch")
        require(self.perception_coef >= 0, f"loss.perception_coef must be >= 0, got {self.perception_coef:g}")
        require(
            self.name != "sent_v1" or self.aggregation == "token_mean",
            f"loss.name sent_v1 is a mean over tokens and has no meaning with loss.aggregation {self.aggregation}",
        )
        for setting, (default, users) in _OWN_SETTINGS.items():
            value = getattr(self, setting)
            require(
                value == default or self.name in users,
                f"loss.{setting} ({value}) does nothing for loss.name {self.name}; it belongs to {', '.join(users)}",
            )


_PICKING = ("kl_cov", "clip_cov", "sent_v1", "sent_v2", "sent_paper")
_CLIPPING = ("grpo", "gspo", "cispo", "clip_cov", "papo")
_OWN_SETTINGS = {
    "clip_low": (0.2, _CLIPPING),
    "clip_high": (0.2, _CLIPPING),
    "token_share": (0.002, _PICKING),
    "penalty": (1.0, ("kl_cov", "sent_v1", "sent_v2", "sent_paper")),
    "cov_low": (1.0, ("clip_cov",)),
    "cov_high": (5.0, ("clip_cov",)),
    "pick_scope": ("update", _PICKING),
    "perception_coef": (0.02, ("papo",)),
    "dual_clip": (0.0, ("grpo", "papo")),
}
"""Setting of the loss -> (its default, the losses that read it)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlConfig:
    """Control of the policy's entropy through the loss: - coefficient * mean(token entropy)."""

    rule: str = "none"
    """`none`, `bonus` (constant), `skywork` (on and off around a target), `proportional`, `aer` (difficulty-aware, a
    reconstruction: the paper's formulas are not known)."""
    coef: float = 0.0
    """Coefficient of `bonus` (NoisyRollout and VEPO: 1e-3); where the others start."""
    target: float = 0.2
    """Entropy aimed at by `skywork` and `proportional`, in nats per token."""
    delta: float = 1e-4
    """Step of the coefficient: `skywork` per step, `aer` per step and nat."""
    coef_max: float = 0.005
    """Largest coefficient; the smallest is 0."""
    gain: float = 0.03
    """`proportional`: coefficient per nat below the target."""
    target_share: float = 0.4
    """`aer`: target as a share of the entropy of the first step."""
    difficulty: float = 0.5
    """`aer`: groups of accuracy below this get the bonus, the harder the more."""

    def __post_init__(self) -> None:
        for name in ("coef", "target", "delta", "coef_max", "gain", "target_share"):
            require(getattr(self, name) >= 0, f"control.{name} must be >= 0, got {getattr(self, name):g}")
        require(0 < self.difficulty <= 1, f"control.difficulty must be in (0, 1], got {self.difficulty:g}")
        for name, (default, users) in _CONTROL_SETTINGS.items():
            require(
                getattr(self, name) == default or self.rule in users,
                f"control.{name} ({getattr(self, name):g}) does nothing for control.rule {self.rule}; it belongs to "
                f"{', '.join(users)}",
            )
        require(
            self.rule not in ("skywork", "aer") or self.coef <= self.coef_max,
            f"control.coef ({self.coef:g}) must not exceed control.coef_max ({self.coef_max:g})",
        )
        require(self.rule != "bonus" or self.coef > 0, "control.rule bonus needs control.coef > 0, such as 1e-3")


_CONTROL_SETTINGS = {
    "coef": (0.0, ("bonus", "skywork", "aer")),
    "target": (0.2, ("skywork", "proportional")),
    "delta": (1e-4, ("skywork", "aer")),
    "coef_max": (0.005, ("skywork", "proportional", "aer")),
    "gain": (0.03, ("proportional",)),
    "target_share": (0.4, ("aer",)),
    "difficulty": (0.5, ("aer",)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    lr: float = 1e-4
    """Peak learning rate of AdamW (tiny model; the 7B recipes use 1e-6)."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    beta2: float = 0.95
    """Second-moment decay of AdamW."""
    warmup_steps: int = 5
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up."""
    max_grad_norm: float = 1.0
    """Gradient norm is clipped to this."""
    updates_per_step: int = 2
    """Optimizer updates per rollout batch; the step's problems are split among them (recipes: 4)."""
    pack_tokens: int = 6144
    """Token budget of one forward pass and of one packed row; cannot change results beyond rounding."""
    master_dtype: Literal["same", "float32"] = field(default="same", metadata=ADDED_LATER)
    """Type in which gradients add up and updates are applied: that of the weights, or `float32`, on master copies of
    bfloat16 weights, without which updates of 1e-6 are rounded away."""

    def __post_init__(self) -> None:
        require(self.lr >= 0, f"optim.lr must be >= 0, got {self.lr}")
        require(0 <= self.beta2 < 1, f"optim.beta2 must be in [0, 1), got {self.beta2}")
        require(self.warmup_steps >= 0, f"optim.warmup_steps must be >= 0, got {self.warmup_steps}")
        require(self.max_grad_norm > 0, f"optim.max_grad_norm must be > 0, got {self.max_grad_norm}")
        require(self.updates_per_step >= 1, f"optim.updates_per_step must be at least 1, got {self.updates_per_step}")
        require(self.pack_tokens >= 256, f"optim.pack_tokens must be at least 256, got {self.pack_tokens}")
