"""Settings of a probe, and the training step whose groups it looks at."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from saei.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    SelectConfig,
    ViewConfig,
)
from saei.probe.conditions import CONDITIONS
from saei.units import check_grey_levels, grey_levels_argument

SHOWN = tuple(name for name in CONDITIONS if name != "descend")
_LEAST = {"problems": 0, "completions": 2, "gradient_problems": 0, "chunk": 1, "seed": 0, "threads": 1}
_ATTACK_SETTINGS = ("step_size", "iterations", "epsilon", "objective", "momentum", "adv_per", "norm", "pixel_space")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Settings of a probe."""

    model: str = "tiny"
    """Policy: `tiny`, a folder in Hugging Face format (such as a run's `model`), or a hub id."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of weights and activations."""
    problems: int = 200
    """Problems, the first ones of `data.train_split` (0: all): what is tuned by a probe may not read other splits."""
    completions: int = 6
    """Clean completions of each problem, and completions under each condition."""
    conditions: tuple[str, ...] = SHOWN
    """What is compared with `clean_again`; `descend` (EgAS down the entropy) is there too."""
    step_sizes: tuple[Annotated[float, grey_levels_argument("step_sizes")], ...] = ()
    """Attack steps in grey levels, each measured in turn; none: view.step_size alone."""
    gradient_problems: int = 128
    """Problems, the first ones, whose GRPO gradients are measured too, one gradient a chunk; 0: none."""
    chunk: int = 16
    """Problems handled at a time, and those that share a gradient; an interval takes at least two chunks."""
    max_new_tokens: int = 64
    """Longest completion, in tokens."""
    temperature: float = 1.0
    """Sampling temperature; entropies use it too."""
    batch_rows: int = 96
    """Completions decoded at a time."""
    pack_tokens: int = 6144
    """Token budget of one forward pass."""
    seed: int = 0
    """Seed of the sampling noise and of the random images."""
    threads: int = 1
    """CPU threads of torch."""
    out: str = "results/manual/probe"
    """Folder for problems.parquet, gradients.parquet, differences.parquet, probe.png and settings.json."""
    view: ViewConfig = field(default_factory=ViewConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        unknown = [name for name in self.conditions if name not in CONDITIONS]
        if unknown:
            raise ValueError(f"conditions are of {', '.join(CONDITIONS)}, got {', '.join(unknown)}")
        for levels in self.step_sizes:
            check_grey_levels("step_sizes", levels)
        for own in dataclasses.fields(ViewConfig):
            if own.name not in _ATTACK_SETTINGS and getattr(self.view, own.name) != own.default:
                raise ValueError(f"view.{own.name} has no effect in a probe, which sets the conditions itself")
        if self.select.score != "entropy" or self.select.rule == "quantile":
            raise ValueError("a probe ranks tokens by entropy, problem by problem: select.score entropy, no quantile")

    def base(self) -> Config:
        """The settings of a training step with these groups."""
        return Config(
            seed=self.seed,
            model=ModelConfig(path=self.model, dtype=self.dtype),
            data=self.data,
            rollout=RolloutConfig(
                n_clean=self.completions,
                n_view=self.completions,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                batch_rows=self.batch_rows,
            ),
            view=self.view,
            select=self.select,
            reward=self.reward,
            optim=OptimConfig(pack_tokens=self.pack_tokens),
        )

    def sizes(self) -> tuple[float, ...]:
        """The attack steps, in grey levels."""
        return self.step_sizes or (self.view.step_size,)

    def own(self) -> dict[str, Any]:
        """The settings that are the probe's own, as plain values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if not dataclasses.is_dataclass(value)}
