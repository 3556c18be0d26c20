"""How completions come about: the group plan, the views, the filter of groups."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from saei.settings.rules import ADDED_LATER, NOT_HASHED, require
from saei.units import check_grey_levels, grey_levels_argument, optional_grey_levels_argument

StepSize = Annotated[float, grey_levels_argument("view.step_size")]
ENGINE_OWN_OPTIONS = ("model", "tokenizer", "dtype", "logprobs_mode", "generation_config", "seed", "load_format")
"""Arguments of the engine that follow from other settings."""
Epsilon = Annotated[float | None, optional_grey_levels_argument("view.epsilon")]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    problems_per_step: int = 8
    """Problems of one step; each gets one group of completions."""
    n_clean: int = 6
    """Completions of each group sampled on the clean image (n1 of the paper; 12 for GRPO)."""
    n_view: int = 6
    """Completions of each group sampled on the image changed by `view.name` (n2 of the paper; 0 for GRPO)."""
    plan: tuple[str, ...] = ()
    """Group plan in list form, e.g. `clean:4 egas:4 random_sign:4`; replaces n_clean and n_view."""
    max_new_tokens: int = 64
    """Longest completion, in tokens; longer ones are cut and counted as truncated."""
    temperature: float = 1.0
    """Sampling temperature; log-probs and entropies of the update use it too."""
    top_p: float = 1.0
    """Nucleus sampling: smallest set of tokens with this probability; 1 keeps all."""
    batch_rows: int = 96
    """Completions decoded at a time; cannot change what is sampled beyond rounding."""
    engine: Literal["transformers", "vllm"] = field(default="transformers", metadata=ADDED_LATER)
    """What samples: `transformers` (in this process, under paired noise), or `vllm` (a process of its own; its seeds
    are per completion, so arms of a sweep are not paired token by token)."""
    engine_python: str = field(default="", metadata=NOT_HASHED)
    """Python of the environment that has the engine, such as /opt/vllm/bin/python; vllm needs it."""
    engine_options: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Arguments of `vllm.LLM`, e.g. `gpu_memory_utilization=0.4 max_model_len=4096`; values are JSON, or plain text."""
    engine_devices: tuple[str, ...] = field(default=(), metadata=NOT_HASHED)
    """CUDA_VISIBLE_DEVICES of the engine, one entry for each process of the trial; default: the trainer's own."""
    engine_folder: str = field(default="", metadata=NOT_HASHED)
    """Where weights are handed to the engine, such as /dev/shm/saei; default: the run directory. Cleared at the end."""
    engine_sync_every: int = field(default=1, metadata=ADDED_LATER)
    """Steps between hand-overs of the weights to the engine; above 1 it samples from older ones."""
    engine_timeout_s: float = field(default=900.0, metadata=NOT_HASHED)
    """Longest silence of the engine, its start included; it reports each finished completion."""
    engine_restarts: int = field(default=3, metadata=NOT_HASHED)
    """How often in a launch an engine that died or hangs is started again; the same requests are then sent again."""

    def __post_init__(self) -> None:
        self._check_engine()
        for name in ("problems_per_step", "max_new_tokens", "batch_rows"):
            require(getattr(self, name) >= 1, f"rollout.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("n_clean", "n_view"):
            require(getattr(self, name) >= 0, f"rollout.{name} must be >= 0, got {getattr(self, name)}")
        require(self.temperature > 0, f"rollout.temperature must be > 0, got {self.temperature}")
        require(0 < self.top_p <= 1, f"rollout.top_p must be in (0, 1], got {self.top_p}")
        for entry in self.plan:
            require(
                re.fullmatch(r"[a-z_0-9]+:[1-9]\d*", entry) is not None,
                f"rollout.plan entries read view:count with count >= 1, such as egas:6, got {entry!r}",
            )

    def _check_engine(self) -> None:
        require(
            self.engine == "transformers" or bool(self.engine_python),
            f"rollout.engine {self.engine} runs in an environment of its own: name its Python, as "
            "--rollout.engine-python /opt/vllm/bin/python",
        )
        require(
            self.engine_sync_every >= 1,
            f"rollout.engine_sync_every must be at least 1 step, got {self.engine_sync_every}",
        )
        require(self.engine_timeout_s > 0, f"rollout.engine_timeout_s must be > 0, got {self.engine_timeout_s:g}")
        require(self.engine_restarts >= 0, f"rollout.engine_restarts must be >= 0, got {self.engine_restarts}")
        for entry in self.engine_options:
            name, _, value = entry.partition("=")
            require(
                name.isidentifier() and bool(value),
                f"rollout.engine_options entries read name=value, such as gpu_memory_utilization=0.4, got {entry!r}",
            )
            require(
                name not in ENGINE_OWN_OPTIONS,
                f"rollout.engine_options may not set {name}: the trainer does, so that both compute the same",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    name: str = "egas"
    """How the input of the n_view completions is changed: a name of the table in `saei/views/__init__.py`."""
    step_size: StepSize = 2.0
    """Step of the attack in grey levels (2 or 2/255; the paper uses 2/255 and 3/255)."""
    iterations: int = 1
    """PGD iterations T; the paper uses 1."""
    epsilon: Epsilon = None
    """L-infinity budget around the clean image in grey levels; an attack on it must have one when iterations > 1."""
    direction: Literal["ascend", "descend"] = "ascend"
    """Move the image up (the paper's purpose) or down the entropy of the kept tokens."""
    objective: Literal["sequence_mean", "token_mean"] = "sequence_mean"
    """Mean over kept tokens in each completion, then over completions (the paper), or over all kept tokens."""
    momentum: float = 0.0
    """Decay of the accumulated gradient over iterations (MI-FGSM); 0: none, the paper. Needs iterations > 1."""
    adv_per: Literal["prompt", "response"] = "prompt"
    """One moved image for all completions of the view (the paper's sum over i), or one aimed at each completion."""
    norm: Literal["linf", "l2"] = "linf"
    """Signed step, or a step along the gradient itself, as long (L2) as the signed step of that size would be."""
    pixel_space: Literal["raw", "normalized"] = "raw"
    """step_size/255 of the [0, 1] range, or of the processor's normalised units (about half a grey level for 2)."""
    schedule: Literal["constant", "linear", "sigmoid", "power", "exponential"] = "constant"
    """Strength over training, from 1 to 0: times step_size, or times noise_level (NoisyRollout: sigmoid)."""
    schedule_midpoint: float = 2 / 3
    """Share of the run at which `sigmoid` is at one half (NoisyRollout: 40 of 60 steps on Geometry3K, 1/3 on K12)."""
    schedule_slope: float = 30.0
    """Steepness of `sigmoid` (NoisyRollout: 30, 60), exponent of `power`, rate of `exponential`, which is
    1 - exp(-slope * remaining share of the run)."""
    noise_level: int = 500
    """Diffusion step k of view `noise` at strength 1, of 1000 (NoisyRollout: 500 and 450)."""
    mask_share: float = 0.6
    """Share of 14-pixel blocks that view `mask` blackens (PAPO 0.6, VPPO 0.5)."""
    text_radius: float = 0.1
    """View `text_embedding`: L2 length of one step, and of the whole move, per question token, as a share of the mean
    length of the question's token embeddings."""
    only_mixed: bool = False
    """Change the image only where the earlier completions' rewards differ; elsewhere it stays clean (claims Q4)."""
    back_off: bool = False
    """Halve the strength whenever clean validation reward fell in two evaluations in a row (claims Q4)."""

    def __post_init__(self) -> None:
        check_grey_levels("view.step_size", self.step_size)
        if self.epsilon is not None:
            check_grey_levels("view.epsilon", self.epsilon)
            require(
                self.epsilon == 0 or self.epsilon >= 1,
                f"view.epsilon is {self.epsilon:g} grey levels: an image of whole levels cannot move within less than "
                "one; write 0 or at least 1",
            )
        require(0 <= self.momentum <= 1, f"view.momentum must be in [0, 1], got {self.momentum}")
        require(
            self.momentum == 0 or self.iterations > 1,
            f"view.momentum ({self.momentum:g}) accumulates over iterations and does nothing at view.iterations "
            f"{self.iterations}",
        )
        require(
            0 <= self.schedule_midpoint <= 1,
            f"view.schedule_midpoint is a share of the run in [0, 1], got {self.schedule_midpoint:g}",
        )
        require(self.schedule_slope > 0, f"view.schedule_slope must be > 0, got {self.schedule_slope:g}")
        require(0 <= self.noise_level < 1000, f"view.noise_level is a diffusion step 0-999, got {self.noise_level}")
        require(0 <= self.mask_share <= 1, f"view.mask_share must be in [0, 1], got {self.mask_share:g}")
        require(self.text_radius >= 0, f"view.text_radius must be >= 0, got {self.text_radius:g}")
        require(self.iterations >= 0, f"view.iterations must be >= 0, got {self.iterations}")
        require(
            self.epsilon is None or self.epsilon >= self.step_size or self.iterations > 1,
            f"view.epsilon ({self.epsilon:g} levels) is smaller than view.step_size ({self.step_size:g}): "
            "at one iteration the step would be cut to the ball; lower view.step_size instead"
            if self.epsilon is not None
            else "",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterConfig:
    rule: str = "none"
    """Groups that are trained on: `none` (all), `mixed_accuracy` (DAPO: neither all right nor all wrong), or
    `mixed_reward` (any difference, format included)."""
    max_batches: int = 4
    """Batches of problems sampled at most to fill a step with groups that pass (DAPO: 10)."""

    def __post_init__(self) -> None:
        require(self.max_batches >= 1, f"filter.max_batches must be at least 1, got {self.max_batches}")
