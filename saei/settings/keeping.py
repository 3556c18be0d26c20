"""What is measured and kept: evaluation, checkpoints, records."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from saei.settings.rules import ADDED_LATER, NOT_HASHED, require
from saei.units import check_grey_levels, grey_levels_argument

Level = Annotated[float, grey_levels_argument("eval.attack_levels")]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    every: int = 25
    """Evaluate on the validation split before step 0 and every this many steps; 0: only at the end."""
    problems: int = 128
    """Validation problems of each evaluation (the first ones of the split)."""
    samples: int = 8
    """Completions per problem at temperature 1; their mean accuracy is the primary metric, mean@8."""
    test_problems: int = 256
    """Test problems of the final evaluation (the first ones of the split); 0: all."""
    shifted_problems: int = 64
    """Problems of each shifted test set at the end; 0 leaves the shifted sets out."""
    transfer: tuple[str, ...] = ()
    """Test sets of other sources at the end, as SOURCE/SPLIT or local/SPLIT/FOLDER, e.g. `shapes/test`."""
    attacks: tuple[str, ...] = ()
    """Views under which the test split is evaluated at the end, e.g. `egas error gaussian`."""
    attack_levels: tuple[Level, ...] = (2.0, 8.0)
    """Step sizes of those attacks, in grey levels."""
    attack_problems: int = 64
    """Test problems of each such evaluation."""
    engine: Literal["transformers", "vllm"] = field(default="transformers", metadata=ADDED_LATER)
    """What samples in evaluations: `transformers`, or rollout.engine's `vllm` (evaluations are then not paired)."""

    def __post_init__(self) -> None:
        for name in ("every", "test_problems", "shifted_problems"):
            require(getattr(self, name) >= 0, f"eval.{name} must be >= 0, got {getattr(self, name)}")
        for entry in self.transfer:
            require(
                entry.count("/") >= 1 and all(entry.split("/", 2)),
                f"eval.transfer entries read SOURCE/SPLIT or local/SPLIT/FOLDER, got {entry!r}",
            )
        require(
            bool(self.attacks) or (self.attack_levels, self.attack_problems) == ((2.0, 8.0), 64),
            "eval.attack_levels and eval.attack_problems do nothing without eval.attacks: name some, as egas error",
        )
        require(self.attack_problems >= 1, f"eval.attack_problems must be at least 1, got {self.attack_problems}")
        for levels in self.attack_levels:
            check_grey_levels("eval.attack_levels", levels)
        require(self.problems >= 1, f"eval.problems must be at least 1, got {self.problems}")
        require(self.samples >= 1, f"eval.samples must be at least 1, got {self.samples}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    every: int = field(default=25, metadata=NOT_HASHED)
    """Steps between checkpoints; a killed run loses at most these."""
    keep: int = field(default=2, metadata=NOT_HASHED)
    """Newest checkpoints kept."""

    def __post_init__(self) -> None:
        require(self.every >= 1, f"checkpoint.every must be at least 1, got {self.every}")
        require(self.keep >= 1, f"checkpoint.keep must be at least 1, got {self.keep}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordConfig:
    strips_per_step: int = field(default=1, metadata=NOT_HASHED)
    """Image strips (clean | moved | amplified difference) kept of a recorded step."""
    strips_every: int = field(default=10, metadata=NOT_HASHED)
    """Steps between recorded strips."""
    fresh_every: int = 10
    """Steps between measurements of the attack on fresh completions (0: never); costs one more sampling."""
    trackers: tuple[str, ...] = field(default=(), metadata=NOT_HASHED)
    """Dashboards that are told of every step and evaluation too, such as `tensorboard`; the tables stay the truth."""

    def __post_init__(self) -> None:
        for name in ("strips_per_step", "fresh_every"):
            require(getattr(self, name) >= 0, f"record.{name} must be >= 0, got {getattr(self, name)}")
        require(self.strips_every >= 1, f"record.strips_every must be at least 1, got {self.strips_every}")
        require(
            len(set(self.trackers)) == len(self.trackers),
            f"record.trackers names an entry twice: {', '.join(self.trackers)}",
        )
