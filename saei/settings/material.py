"""What a run starts from: the model and the problems."""

from dataclasses import dataclass, field
from typing import Literal

from saei.settings.rules import NOT_HASHED, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    path: str = "tiny"
    """Policy: `tiny` (shipped with the package), a folder in Hugging Face format, or a hub id."""
    revision: str = "main"
    """Hub revision, when `path` is a hub id."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of weights and activations; log-probs and entropies are always computed in float32 or wider."""
    device: str = field(default="auto", metadata=NOT_HASHED)
    """`auto` (cuda where there is one), `cpu`, `cuda`, `cuda:1`."""
    freeze_vision: bool = False
    """Keep the vision tower's weights fixed (gradients still reach the pixels)."""

    def __post_init__(self) -> None:
        require(bool(self.path), "model.path must name a model: tiny, a folder or a hub id")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    source: str = "digits"
    """Problem source: `digits` (handwritten digits), `shapes` (drawn), or `local` (a JSONL + images folder)."""
    path: str = ""
    """Folder of the `local` source: one `<split>.jsonl` a split, image paths relative to the folder."""
    train_split: str = "train"
    """Split trained on."""
    validation_split: str = "validation"
    """Split that search, pruning and every choice read."""
    test_split: str = "test"
    """Split of the reported figure; read once, at the end."""
    shifted_splits: tuple[str, ...] | None = None
    """Shifted test sets evaluated at the end; default: all that the source has."""
    train_size: int = 20000
    """Problems in the generated training split (`digits`)."""
    validation_size: int = 256
    """Problems in the generated validation split (`digits`)."""
    test_size: int = 512
    """Problems in the generated test split (`digits`)."""
    shifted_size: int = 128
    """Problems in each generated shifted test split (`digits`)."""
    seed: int = 0
    """Seed of the generated problems; the same for every training seed, so that arms meet the same problems."""
    min_pixels: int = 784
    """Smallest image area after the resize, in pixels; smaller images are enlarged."""
    max_pixels: int = 28224
    """Largest image area after the resize, in pixels (28224 = 168 x 168; the 7B recipes use 1000000)."""
    system_prompt: str = ""
    """System message put before every problem; empty: none."""
    prompt_suffix: str = ""
    """Text appended to every question in the user turn (EasyR1 and verl put the format instruction there)."""
    curriculum: Literal["none", "semantic_entropy"] = "none"
    """Training problems as drawn, or in stages of rising semantic entropy of the initial policy (SENT)."""
    curriculum_stages: int = 2
    """Stages of that curriculum; within a stage the order is as drawn."""
    curriculum_samples: int = 8
    """Answers sampled from each problem to measure its semantic entropy, before the first step."""

    def __post_init__(self) -> None:
        require(
            self.source != "local" or bool(self.path),
            "data.path must name a folder when data.source is local: --data.path DIR",
        )
        for name in ("train_size", "validation_size", "test_size", "shifted_size", "curriculum_stages"):
            require(getattr(self, name) >= 1, f"data.{name} must be at least 1, got {getattr(self, name)}")
        require(
            self.curriculum_samples >= 2,
            f"data.curriculum_samples must be at least 2 for answers to differ, got {self.curriculum_samples}",
        )
        require(
            self.curriculum != "none" or (self.curriculum_stages, self.curriculum_samples) == (2, 8),
            "data.curriculum_stages and data.curriculum_samples do nothing without a curriculum: set --data.curriculum "
            "semantic_entropy",
        )
        require(
            0 < self.min_pixels <= self.max_pixels,
            f"data.min_pixels must be in (0, data.max_pixels], got {self.min_pixels} and {self.max_pixels}",
        )
