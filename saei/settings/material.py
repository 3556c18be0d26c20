"""What a run starts from: the model and the problems."""

from dataclasses import dataclass, field
from typing import Literal

from saei.settings.rules import ADDED_LATER, NOT_HASHED, require

COLUMN_ROLES = ("id", "image", "question", "answer", "choices", "kind")
"""What a column of a data set can be to a problem."""


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
    freeze_projector: bool = field(default=False, metadata=ADDED_LATER)
    """Keep fixed what carries image features into the text decoder (in Qwen models a part of the vision tower)."""
    gradient_checkpointing: bool = field(default=False, metadata=NOT_HASHED)
    """Compute every layer again in the backward pass in place of keeping it: less memory, the same numbers."""
    attention: str = field(default="sdpa", metadata=ADDED_LATER)
    """Attention of the text decoder: `sdpa`, `eager` (plain, slow: to compare with) or `flex` (block masks, GPU)."""
    lora_rank: int = field(default=0, metadata=ADDED_LATER)
    """Train an adapter of this rank (LoRA) in place of the weights, which stay fixed; 0: none."""
    lora_alpha: int = field(default=32, metadata=ADDED_LATER)
    """The adapter's contribution is scaled by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Linears of the text decoder that get an adapter, such as q_proj v_proj; default: all, attention and MLP."""
    lora_dropout: float = field(default=0.0, metadata=ADDED_LATER)
    """Can only be 0: what is sampled and what is scored must agree."""

    def __post_init__(self) -> None:
        require(bool(self.path), "model.path must name a model: tiny, a folder or a hub id")
        require(
            not self.attention.startswith("flash"),
            f"model.attention {self.attention} cannot take the mask of packed rows, in which completions share a "
            "prefix: use sdpa, or flex on a GPU",
        )
        require(
            self.attention in ("sdpa", "eager", "flex"),
            f"model.attention must be sdpa, eager or flex, got {self.attention!r}",
        )
        require(self.lora_rank >= 0, f"model.lora_rank must be >= 0 (0: no adapter), got {self.lora_rank}")
        require(self.lora_alpha >= 1, f"model.lora_alpha must be at least 1, got {self.lora_alpha}")
        require(
            self.lora_dropout == 0,
            f"model.lora_dropout must be 0, got {self.lora_dropout:g}: importance ratios compare log-probs of two "
            "passes, which dropout would make differ by chance",
        )
        require(
            self.lora_rank > 0 or (self.lora_alpha == 32 and not self.lora_targets),
            "model.lora_alpha and model.lora_targets do nothing without an adapter: set --model.lora-rank, such as 32",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    source: str = "digits"
    """Problem source: `digits` (handwritten digits), `shapes` (drawn), `local` (a JSONL + images folder), or `hub` (a
    data set of the Hugging Face hub, or local files with its columns)."""
    path: str = ""
    """Of source `local`: a folder with one `<split>.jsonl` a split, image paths relative to it. Of source `hub`: a hub
    id such as hiyouga/geometry3k, or a folder or file of parquet, JSONL, or images with metadata."""
    dataset: str = field(default="", metadata=ADDED_LATER)
    """Source `hub`: the set in saei/data/catalog.toml whose columns `path` has; found by itself for its hub id."""
    revision: str = field(default="", metadata=ADDED_LATER)
    """Source `hub`: branch, tag or commit of a hub id; empty: that of the catalogue, else main."""
    config: str = field(default="", metadata=ADDED_LATER)
    """Source `hub`: configuration of a hub id; empty: that of the catalogue, else the set's default."""
    columns: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Source `hub`: which column plays which role, e.g. `image=figure question=q answer=a`; the roles are id, image,
    question, answer, choices, kind. A set that is not in the catalogue needs at least question and answer."""
    text_only: Literal["skip", "white", "keep"] = field(default="skip", metadata=ADDED_LATER)
    """Source `hub`, rows without an image: counted and left out, given MM-Eureka's white 224 x 224 dummy, or kept as
    they are (for a model that takes prompts without one)."""
    drop_shared_figures: bool = field(default=False, metadata=ADDED_LATER)
    """Source `hub`: leave out training problems whose figure also stands in the test split; never the reverse, which
    would change an official test set."""
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
    prompt: str = field(default="", metadata=ADDED_LATER)
    """A published prompt of saei/data/prompts.toml by name, such as easyr1 or noisyrollout, in place of system_prompt
    and prompt_suffix."""
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
            self.source not in ("local", "hub") or bool(self.path),
            f"data.path must name a folder{' or a hub id' if self.source == 'hub' else ''} when data.source is "
            f"{self.source}: --data.path DIR",
        )
        self._check_hub_settings()
        require(
            not self.prompt or not (self.system_prompt or self.prompt_suffix),
            f"data.prompt {self.prompt} is a whole prompt; leave data.system_prompt and data.prompt_suffix empty, or "
            "write them out and leave data.prompt empty",
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

    def _check_hub_settings(self) -> None:
        plain = ("dataset", "revision", "config", "columns", "drop_shared_figures")
        for name in plain:
            require(
                self.source == "hub" or not getattr(self, name),
                f"data.{name} belongs to data.source hub and does nothing for {self.source}",
            )
        require(
            self.source == "hub" or self.text_only == "skip",
            f"data.text_only belongs to data.source hub and does nothing for {self.source}",
        )
        for entry in self.columns:
            role, equals, column = entry.partition("=")
            require(
                bool(equals and column) and role in COLUMN_ROLES,
                f"data.columns entries read role=column with a role of {', '.join(COLUMN_ROLES)}, got {entry!r}",
            )
        roles = [entry.partition("=")[0] for entry in self.columns]
        require(len(set(roles)) == len(roles), f"data.columns names a role twice: {' '.join(self.columns)}")
