"""One frozen tree of settings: a run is this tree and nothing else.

The docstring under a field is its `--help` text. A combination that could not work, or a setting that could not have
an effect, is refused here, before a model is loaded. No torch, so sweeps and status commands start fast.

Units: pixel sizes (`view.step_size`, `view.epsilon`) are 8-bit grey levels, written `2` or `2/255`; shares of tokens
are exact fractions, written `1/3`.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import cattrs

from saei.units import SHARE, check_grey_levels, grey_levels_argument, optional_grey_levels_argument

NOT_HASHED = {"hashed": False}
"""Metadata of a field that says where or how a run is kept, and cannot change a number in it."""


Share = Annotated[Fraction, SHARE]
StepSize = Annotated[float, grey_levels_argument("view.step_size")]
Epsilon = Annotated[float | None, optional_grey_levels_argument("view.epsilon")]


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


class PlannedView(NamedTuple):
    """One entry of the group plan: `count` completions of every problem are sampled under `view`."""

    view: str
    count: int


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
        _require(bool(self.path), "model.path must name a model: tiny, a folder or a hub id")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    source: str = "digits"
    """Where problems come from: `digits` (embedded handwritten digits) or `local` (a JSONL + images folder)."""
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

    def __post_init__(self) -> None:
        _require(
            self.source != "local" or bool(self.path),
            "data.path must name a folder when data.source is local: --data.path DIR",
        )
        for name in ("train_size", "validation_size", "test_size", "shifted_size"):
            _require(getattr(self, name) >= 1, f"data.{name} must be at least 1, got {getattr(self, name)}")
        _require(
            0 < self.min_pixels <= self.max_pixels,
            f"data.min_pixels must be in (0, data.max_pixels], got {self.min_pixels} and {self.max_pixels}",
        )


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

    def __post_init__(self) -> None:
        for name in ("problems_per_step", "max_new_tokens", "batch_rows"):
            _require(getattr(self, name) >= 1, f"rollout.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("n_clean", "n_view"):
            _require(getattr(self, name) >= 0, f"rollout.{name} must be >= 0, got {getattr(self, name)}")
        _require(self.temperature > 0, f"rollout.temperature must be > 0, got {self.temperature}")
        _require(0 < self.top_p <= 1, f"rollout.top_p must be in (0, 1], got {self.top_p}")
        for entry in self.plan:
            _require(
                re.fullmatch(r"[a-z_0-9]+:[1-9]\d*", entry) is not None,
                f"rollout.plan entries read view:count with count >= 1, such as egas:6, got {entry!r}",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    name: str = "egas"
    """How the image of the n_view completions is changed: `egas`, `random_sign`, `clean`."""
    step_size: StepSize = 2.0
    """Step of the attack in grey levels (2 or 2/255; the paper uses 2/255 and 3/255)."""
    iterations: int = 1
    """PGD iterations T; the paper uses 1."""
    epsilon: Epsilon = None
    """L-infinity budget around the clean image in grey levels; must be given when iterations > 1."""
    direction: Literal["ascend", "descend"] = "ascend"
    """Move the image up (the paper's purpose) or down the entropy of the kept tokens."""
    objective: Literal["sequence_mean", "token_mean"] = "sequence_mean"
    """Mean over kept tokens in each completion, then over completions (the paper), or over all kept tokens."""

    def __post_init__(self) -> None:
        check_grey_levels("view.step_size", self.step_size)
        if self.epsilon is not None:
            check_grey_levels("view.epsilon", self.epsilon)
            _require(
                self.epsilon == 0 or self.epsilon >= 1,
                f"view.epsilon is {self.epsilon:g} grey levels: an image of whole levels cannot move within less than "
                "one; write 0 or at least 1",
            )
        _require(self.iterations >= 0, f"view.iterations must be >= 0, got {self.iterations}")
        _require(
            self.iterations <= 1 or self.epsilon is not None,
            f"view.epsilon must be given when view.iterations > 1 (got {self.iterations}): the paper sets no ball for "
            f"T > 1; write --view.epsilon {self.step_size:g} (= step) or --view.epsilon "
            f"{self.step_size * self.iterations:g} (= T * step)",
        )
        _require(
            self.epsilon is None or self.epsilon >= self.step_size or self.iterations > 1,
            f"view.epsilon ({self.epsilon:g} levels) is smaller than view.step_size ({self.step_size:g}): "
            "at one iteration the step would be cut to the ball; lower view.step_size instead"
            if self.epsilon is not None
            else "",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    rule: str = "band"
    """Tokens in the attack's objective: `band` (TsEC: drop_low, drop_high), or `all, top, bottom, middle, random`."""
    drop_low: Share = Fraction(1, 3)
    """Share of lowest-entropy tokens that `band` drops (TsEC: 1/3)."""
    drop_high: Share = Fraction(1, 3)
    """Share of highest-entropy tokens that `band` drops (TsEC: 1/3)."""
    share: Share = Fraction(1, 3)
    """Share of tokens kept by `top`, `bottom`, `middle` and `random`."""
    scope: Literal["response", "group"] = "response"
    """Rank tokens within each completion, or over all completions of the problem."""
    refresh: Literal["once", "each_iteration"] = "once"
    """Choose the tokens on the clean image only, or again on every iterate (matters when view.iterations > 1)."""

    def __post_init__(self) -> None:
        for name in ("drop_low", "drop_high"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"select.{name} is a share in [0, 1), got {value}")
        _require(
            self.drop_low + self.drop_high < 1,
            "select.drop_low + select.drop_high must be < 1 or no token is kept, got "
            f"{self.drop_low} + {self.drop_high}",
        )
        _require(0 < self.share <= 1, f"select.share must be in (0, 1], got {self.share}")
        third = Fraction(1, 3)
        if self.rule == "band":
            _require(
                self.share == third,
                f"select.share is {self.share}, but rule band keeps what drop_low and drop_high leave; set those, or "
                "choose select.rule top, bottom, middle or random",
            )
        else:
            _require(
                (self.drop_low, self.drop_high) == (third, third),
                f"select.drop_low and select.drop_high belong to rule band and do nothing for {self.rule}; "
                "set select.share, or choose select.rule band",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    accuracy_weight: float = 0.9
    """Weight of a right answer."""
    format_weight: float = 0.1
    """Weight of the format `<think>...</think>...\\boxed{...}`."""
    timeout_s: float = 2.0
    """Longest time one answer may be graded; longer counts as wrong, with grade_status `timeout`."""
    max_failure_share: float = 0.05
    """Stop the run when more than this share of a step's completions could not be graded."""
    workers: int = field(default=1, metadata=NOT_HASHED)
    """Grader processes (only for answers that need mathematics; numbers are graded in place)."""

    def __post_init__(self) -> None:
        for name in ("accuracy_weight", "format_weight"):
            _require(getattr(self, name) >= 0, f"reward.{name} must be >= 0, got {getattr(self, name)}")
        _require(self.accuracy_weight + self.format_weight > 0, "reward weights are both 0: no reward is left")
        _require(self.timeout_s > 0, f"reward.timeout_s must be > 0, got {self.timeout_s}")
        _require(
            0 <= self.max_failure_share <= 1,
            f"reward.max_failure_share must be in [0, 1], got {self.max_failure_share}",
        )
        _require(self.workers >= 1, f"reward.workers must be at least 1, got {self.workers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdvantageConfig:
    rule: str = "group_std"
    """Baseline and scale: `group_std` (GRPO), `group_mean` (Dr. GRPO: no std), `leave_one_out` (RLOO)."""
    epsilon: float = 1e-6
    """Added to the group's standard deviation (verl, EasyR1: 1e-6; TRL: 1e-4)."""

    def __post_init__(self) -> None:
        _require(self.epsilon > 0, f"advantage.epsilon must be > 0, got {self.epsilon}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    name: str = "grpo"
    """Policy loss."""
    clip_low: float = 0.2
    """Importance ratios below 1 - clip_low are clipped."""
    clip_high: float = 0.2
    """Importance ratios above 1 + clip_high are clipped."""
    aggregation: str = "token_mean"
    """`token_mean`, `sequence_mean` or `constant_length` (divide by completions * max_new_tokens)."""
    train_view: Literal["clean", "as_sampled"] = "clean"
    """Image on which log-probs are conditioned: always the clean one, or the one each completion was sampled on."""
    kl_coef: float = 0.0
    """Weight of the KL to the reference policy; 0 loads no reference."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that KL."""

    def __post_init__(self) -> None:
        _require(0 <= self.clip_low <= 1, f"loss.clip_low must be in [0, 1], got {self.clip_low}")
        _require(self.clip_high >= 0, f"loss.clip_high must be >= 0, got {self.clip_high}")
        _require(self.kl_coef >= 0, f"loss.kl_coef must be >= 0, got {self.kl_coef}")


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

    def __post_init__(self) -> None:
        _require(self.lr >= 0, f"optim.lr must be >= 0, got {self.lr}")
        _require(0 <= self.beta2 < 1, f"optim.beta2 must be in [0, 1), got {self.beta2}")
        _require(self.warmup_steps >= 0, f"optim.warmup_steps must be >= 0, got {self.warmup_steps}")
        _require(self.max_grad_norm > 0, f"optim.max_grad_norm must be > 0, got {self.max_grad_norm}")
        _require(self.updates_per_step >= 1, f"optim.updates_per_step must be at least 1, got {self.updates_per_step}")
        _require(self.pack_tokens >= 256, f"optim.pack_tokens must be at least 256, got {self.pack_tokens}")


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

    def __post_init__(self) -> None:
        for name in ("every", "test_problems", "shifted_problems"):
            _require(getattr(self, name) >= 0, f"eval.{name} must be >= 0, got {getattr(self, name)}")
        _require(self.problems >= 1, f"eval.problems must be at least 1, got {self.problems}")
        _require(self.samples >= 1, f"eval.samples must be at least 1, got {self.samples}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    every: int = field(default=25, metadata=NOT_HASHED)
    """Steps between checkpoints; a killed run loses at most these."""
    keep: int = field(default=2, metadata=NOT_HASHED)
    """Newest checkpoints kept."""

    def __post_init__(self) -> None:
        _require(self.every >= 1, f"checkpoint.every must be at least 1, got {self.every}")
        _require(self.keep >= 1, f"checkpoint.keep must be at least 1, got {self.keep}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordConfig:
    strips_per_step: int = field(default=1, metadata=NOT_HASHED)
    """Image strips (clean | moved | amplified difference) kept of a recorded step."""
    strips_every: int = field(default=10, metadata=NOT_HASHED)
    """Steps between recorded strips."""
    fresh_every: int = 10
    """Steps between measurements of the attack on fresh completions (0: never); costs one more sampling."""

    def __post_init__(self) -> None:
        for name in ("strips_per_step", "fresh_every"):
            _require(getattr(self, name) >= 0, f"record.{name} must be >= 0, got {getattr(self, name)}")
        _require(self.strips_every >= 1, f"record.strips_every must be at least 1, got {self.strips_every}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that defines a run. The defaults are the `saei` preset on the shipped tiny model."""

    preset: str = field(default="saei", metadata=NOT_HASHED)
    """Named method whose settings are the defaults of all others here; `--list-presets` shows them."""
    steps: int = 150
    """Rollout batches to train for."""
    seed: int = 0
    """Training seed: order of problems, sampling noise, random controls."""
    threads: int = 1
    """CPU threads of torch; tiny runs are fastest with 1, and results depend on it in the last bit."""
    out: str = field(default="results/manual/run", metadata=NOT_HASHED)
    """Run directory."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    record: RecordConfig = field(default_factory=RecordConfig)

    def __post_init__(self) -> None:
        _require(self.steps >= 0, f"steps must be >= 0, got {self.steps}")
        _require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")
        _require(self.threads >= 1, f"threads must be at least 1, got {self.threads}")
        splits = (self.data.train_split, self.data.validation_split, self.data.test_split)
        _require(
            len(set(splits)) == 3,
            f"data.train_split, data.validation_split and data.test_split must differ, got {', '.join(splits)}: "
            "what is reported may not be trained on or chosen by",
        )
        plan = self.group_plan()
        _require(
            bool(plan) and plan[0].view == "clean",
            "the group plan must start with clean completions: --rollout.n-clean 6 (later views read them), got "
            f"{[tuple(entry) for entry in plan]}",
        )
        _require(
            len({entry.view for entry in plan}) == len(plan),
            f"a view may stand once in the group plan, got {[entry.view for entry in plan]}",
        )
        group_size = sum(entry.count for entry in plan)
        _require(
            group_size >= 2,
            f"a group needs at least 2 completions to have an advantage, got {group_size}: raise rollout.n_clean",
        )
        _require(
            self.rollout.problems_per_step % self.optim.updates_per_step == 0,
            f"rollout.problems_per_step ({self.rollout.problems_per_step}) must be a multiple of "
            f"optim.updates_per_step ({self.optim.updates_per_step})",
        )

    def group_plan(self) -> tuple[PlannedView, ...]:
        """The ordered (view, count) list of a group, e.g. (clean, 6), (egas, 6); counts of 0 are left out."""
        if self.rollout.plan:
            entries = [entry.split(":") for entry in self.rollout.plan]
            return tuple(PlannedView(view, int(count)) for view, count in entries)
        plan = (PlannedView("clean", self.rollout.n_clean), PlannedView(self.view.name, self.rollout.n_view))
        return tuple(entry for entry in plan if entry.count)

    @property
    def group_size(self) -> int:
        return sum(entry.count for entry in self.group_plan())


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(Fraction, str)
    # by way of text: 0.2 read from JSON is one fifth, not the nearest binary fraction
    converter.register_structure_hook(Fraction, lambda value, _: Fraction(str(value)))
    return converter


_converter = _make_converter()


def to_dict(config: Config) -> dict[str, Any]:
    """The tree as plain JSON types (fractions as "1/3")."""
    return json.loads(json.dumps(_converter.unstructure(config)))


def from_dict(tree: dict[str, Any]) -> Config:
    """The inverse of `to_dict`. Raises ValueError naming the field for unknown or ill-typed entries."""
    _refuse_unknown_fields(tree, Config, "")
    try:
        return _converter.structure(tree, Config)
    except Exception as error:  # cattrs wraps each field's error in an exception group
        problems = cattrs.transform_error(error, format_exception=_describe)
        raise ValueError("config: " + "; ".join(problems)) from error


def typed_value(name: str, value: Any) -> Any:
    """A JSON value as the type of one dotted setting. Whether it fits the other settings is for the config to say."""
    group, _, leaf = name.rpartition(".")
    kind = {f.name: f.type for f in dataclasses.fields(getattr(Config(), group) if group else Config)}[leaf]
    try:
        return _converter.structure(value, kind)  # pyright: ignore[reportArgumentType]
    except Exception as error:
        raise ValueError(f"{name} cannot be {value!r}: {_describe(error, None)}") from error


def _describe(error: BaseException, type_: type | None) -> str:
    """A validation sentence as it is; anything else in cattrs' own words."""
    if type(error) is ValueError and str(error):
        return str(error)
    return cattrs.v.format_exception(error, type_)


def _refuse_unknown_fields(tree: dict[str, Any], of: type, prefix: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(of)}
    for name, value in tree.items():
        if name not in fields:
            raise unknown_field(prefix + name)
        nested = fields[name].type
        if dataclasses.is_dataclass(nested):
            _require(isinstance(value, dict), f"config: {prefix}{name} must be a table of settings, got {value!r}")
            _refuse_unknown_fields(value, nested, f"{prefix}{name}.")  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1)
def field_names() -> tuple[str, ...]:
    """Every setting as a dotted name: `steps`, `view.step_size`, ..."""
    names: list[str] = []
    for f in dataclasses.fields(Config):
        if dataclasses.is_dataclass(f.type):
            names += [f"{f.name}.{inner.name}" for inner in dataclasses.fields(f.type)]
        else:
            names.append(f.name)
    return tuple(names)


def unknown_field(name: str) -> ValueError:
    """The error for a setting that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, field_names(), n=1, cutoff=0.5)
    cure = f"did you mean {near[0]}?" if near else "python -m saei.train --help lists all settings"
    return ValueError(f"unknown setting {name}: {cure}")


def with_overrides(config: Config, overrides: dict[str, Any]) -> Config:
    """A copy with dotted settings replaced at once, so that only the final combination is checked."""
    nested: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in field_names():
            raise unknown_field(name)
        group, _, leaf = name.rpartition(".")
        if group:
            nested.setdefault(group, {})[leaf] = value
        else:
            top[leaf] = value
    for group, values in nested.items():
        top[group] = dataclasses.replace(getattr(config, group), **values)
    return dataclasses.replace(config, **top)


def identity(config: Config) -> dict[str, Any]:
    """Every setting that can change a number, as plain JSON types: what a trial's hash is made of.

    Where no planned view changes the image, the attack's settings cannot matter and are left out, so that the GRPO
    baseline of every sweep is one and the same trial.
    """
    tree = to_dict(config)
    for f in dataclasses.fields(Config):
        if not f.metadata.get("hashed", True):
            del tree[f.name]
        elif dataclasses.is_dataclass(f.type):
            for inner in dataclasses.fields(f.type):
                if not inner.metadata.get("hashed", True):
                    del tree[f.name][inner.name]
    tree["rollout"]["plan"] = [list(entry) for entry in config.group_plan()]
    del tree["rollout"]["n_clean"], tree["rollout"]["n_view"], tree["view"]["name"]
    if all(entry.view == "clean" for entry in config.group_plan()):
        del tree["view"], tree["select"], tree["record"]["fresh_every"]
    return tree


def content_hash(tree: dict[str, Any]) -> str:
    """sha256 of canonical JSON, 12 hex digits."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
