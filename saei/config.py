"""One frozen tree of settings: a run is this tree and nothing else.

The groups of settings are in `saei/settings/`; here they come together. The docstring under a field is its `--help`
text. A combination that could not work, or a setting that could not have an effect, is refused here, before a model is
loaded. No torch, so sweeps and status commands start fast.

Units: pixel sizes (`view.step_size`, `view.epsilon`) are 8-bit grey levels, written `2` or `2/255`; shares of tokens
are exact fractions, written `1/3`.
"""

import dataclasses
import difflib
import hashlib
import json
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import cattrs

from saei.settings.devices import DistributedConfig
from saei.settings.keeping import CheckpointConfig, EvalConfig, RecordConfig
from saei.settings.learning import AdvantageConfig, ControlConfig, LossConfig, OptimConfig, RewardConfig
from saei.settings.material import DataConfig, ModelConfig
from saei.settings.readers import ALPHA_READERS, IDLE, IMAGE_ATTACKS, VIEW_READERS
from saei.settings.rules import NOT_HASHED, require
from saei.settings.sampling import FilterConfig, RolloutConfig, ViewConfig
from saei.settings.tokens import PolicySelectConfig, ScoreConfig, SelectConfig, TokenRule

__all__ = [
    "AdvantageConfig", "CheckpointConfig", "Config", "ControlConfig", "DataConfig", "DistributedConfig", "EvalConfig",
    "FilterConfig", "LossConfig", "ModelConfig", "OptimConfig", "PlannedView", "PolicySelectConfig", "RecordConfig",
    "RewardConfig", "RolloutConfig", "ScoreConfig", "SelectConfig", "TokenRule", "ViewConfig", "content_hash",
    "field_names", "from_dict", "identity", "to_dict", "typed_value", "unknown_field", "with_overrides",
]  # fmt: skip

ONE_UPDATE_IS_INERT = ("kl_cov", "sent_v1", "sent_v2", "sent_paper")
"""Losses that are another loss when the importance ratio is 1 throughout."""


class PlannedView(NamedTuple):
    """One entry of the group plan: `count` completions of every problem are sampled under `view`."""

    view: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that defines a run. The defaults are the `saei` preset on the shipped tiny model.

    In place of settings, --from RUN_DIRECTORY [--out DIR] runs a recorded trial once more.
    """

    preset: str = field(default="saei", metadata=NOT_HASHED)
    """Named method whose settings are the defaults of all others here; `--list-presets` shows them."""
    flavour: Literal["tiny", "published"] = field(default="tiny", metadata=NOT_HASHED)
    """Scale of the preset: the shipped tiny model, or the published 7B recipe (methods' own model, data and rates)."""
    recipe: str = field(default="", metadata=NOT_HASHED)
    """File of settings that stands in the place of a preset, such as `recipes/geo3k-7b-saei.toml`."""
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
    filter: FilterConfig = field(default_factory=FilterConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    policy_select: PolicySelectConfig = field(default_factory=PolicySelectConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig, metadata=NOT_HASHED)

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps must be >= 0, got {self.steps}")
        require(self.seed >= 0, f"seed must be >= 0, got {self.seed}")
        require(self.threads >= 1, f"threads must be at least 1, got {self.threads}")
        splits = (self.data.train_split, self.data.validation_split, self.data.test_split)
        require(
            len(set(splits)) == 3,
            f"data.train_split, data.validation_split and data.test_split must differ, got {', '.join(splits)}: "
            "what is reported may not be trained on or chosen by",
        )
        plan = self.group_plan()
        require(
            bool(plan) and plan[0].view == "clean",
            "the group plan must start with clean completions: --rollout.n-clean 6 (later views read them), got "
            f"{[tuple(entry) for entry in plan]}",
        )
        require(
            len({entry.view for entry in plan}) == len(plan),
            f"a view may stand once in the group plan, got {[entry.view for entry in plan]}",
        )
        group_size = sum(entry.count for entry in plan)
        require(
            group_size >= 2,
            f"a group needs at least 2 completions to have an advantage, got {group_size}: raise rollout.n_clean",
        )
        require(
            self.rollout.problems_per_step % self.optim.updates_per_step == 0,
            f"rollout.problems_per_step ({self.rollout.problems_per_step}) must be a multiple of "
            f"optim.updates_per_step ({self.optim.updates_per_step})",
        )
        require(
            self.model.lora_rank == 0 or self.distributed.strategy == "replicate",
            "model.lora_rank needs distributed.strategy replicate: every process holds the frozen weights, and an "
            "adapter's gradients and optimizer are too small to be worth splitting",
        )
        self._check_view_settings()
        self._check_idle_settings()
        self._check_score_views()
        require(
            self.policy_select.weights == "old"
            or self.policy_select.denominator == "all"
            or self.loss.aggregation == "constant_length"
            or self.loss.agg_scope == "micro",
            "policy_select.weights current knows how many tokens it selects only within a micro-batch: set "
            "loss.agg_scope micro, or policy_select.denominator all",
        )
        require(
            self.advantage.shaping != "noise_prior" or any(view.view == "noise" for view in plan),
            "advantage.shaping noise_prior weighs noise levels, and no planned view has any: set --view.name noise",
        )
        require(
            self.select.rule != "quantile" or self.select.score == "entropy",
            f"select.rule quantile runs over entropies, got select.score {self.select.score}",
        )
        require(
            self.loss.name not in ONE_UPDATE_IS_INERT or self.optim.updates_per_step > 1,
            f"loss.name {self.loss.name} acts on importance ratios, which are all 1 with optim.updates_per_step 1: it "
            "would be another method under its name; use at least 2 (recipes: 4)",
        )
        require(
            not self.reward.overlong_buffer or self.reward.overlong_buffer < self.rollout.max_new_tokens,
            f"reward.overlong_buffer ({self.reward.overlong_buffer}) must be shorter than rollout.max_new_tokens "
            f"({self.rollout.max_new_tokens})",
        )
        require(
            not self.view.back_off or self.eval.every > 0,
            "view.back_off reads evaluations during training: set eval.every above 0",
        )
        if self.rollout.engine != "transformers":
            self._check_engine()

    def _check_engine(self) -> None:
        """What a rollout engine in another process cannot do."""
        name, rollout = self.rollout.engine, self.rollout
        require(
            "text_embedding" not in self._planned_views(),
            f"rollout.engine {name} is given images and token ids, and text_embedding in the group plan moves "
            "embeddings: use rollout.engine transformers",
        )
        require(
            self.model.dtype != "float64",
            f"rollout.engine {name} does not compute in model.dtype float64: use float32 or bfloat16",
        )
        require(
            self.eval.engine == "transformers" or rollout.engine_sync_every == 1,
            f"eval.engine {name} evaluates the weights of now, which rollout.engine_sync_every "
            f"{rollout.engine_sync_every} hands over later: set one of them back to its default",
        )
        require(
            self.loss.engine_correction == "none" or rollout.temperature == 1 or rollout.top_p == 1,
            f"loss.engine_correction would correct for rollout.top_p {rollout.top_p:g} too: at a temperature other "
            f"than 1 (got {rollout.temperature:g}) {name} gives log-probs after top-p only; set rollout.top_p 1",
        )

    def _check_view_settings(self) -> None:
        """Refuse settings that no planned view reads; without any such view all are left alone (see `identity`)."""
        planned = self._planned_views()
        for setting, readers in VIEW_READERS.items():
            value, default = self._value_and_default(setting)
            require(
                not planned or value == default or bool(planned & set(readers)),
                f"{setting} ({value}) does nothing for {', '.join(sorted(planned))}; leave it at {default}: it belongs "
                f"to {', '.join(readers)}",
            )
        require(
            self.view.adv_per == "prompt" or self.select.scope == "response",
            f"view.adv_per response aims an image at one completion, so select.scope {self.select.scope} has nothing "
            "to rank it among; use select.scope response",
        )
        require(
            self.view.adv_per == "prompt" or "text_embedding" not in planned,
            f"view.adv_per {self.view.adv_per} aims an input at each completion, but text_embedding in the group plan "
            "has one move per problem: set view.adv_per prompt, or leave text_embedding out",
        )
        step, iterations = self.view.step_size, self.view.iterations
        require(
            iterations <= 1 or self.view.epsilon is not None or not planned & set(IMAGE_ATTACKS),
            f"view.epsilon must be given when view.iterations > 1 (got {iterations}): the paper sets no ball for "
            f"T > 1; write --view.epsilon {step:g} (= step) or --view.epsilon {step * iterations:g} (= T * step)",
        )

    def _check_idle_settings(self) -> None:
        """Refuse settings that another one switches off; those of the attack only where a view is planned."""
        planned = self._planned_views()
        for setting, other, values, cure in IDLE:
            value, default = self._value_and_default(setting)
            chosen, _ = self._value_and_default(other)
            require(
                value == default or chosen not in values or (setting.startswith(("view.", "select.")) and not planned),
                f"{setting} ({value}) does nothing with {other} {chosen}; leave it at {default}, or set {other} to "
                f"{cure}",
            )

    def _planned_views(self) -> set[str]:
        return {entry.view for entry in self.group_plan()} - {"clean"}

    def _value_and_default(self, name: str) -> tuple[Any, Any]:
        """Of a dotted setting with a plain default."""
        group, leaf = name.split(".")
        settings = getattr(self, group)
        return getattr(settings, leaf), settings.__dataclass_fields__[leaf].default

    def score_view_users(self) -> tuple[str, ...]:
        """The settings of this run that read a score view."""
        users = {
            f"select.score {self.select.score}": self.select.score != "entropy" and self.changes_inputs,
            f"policy_select.score {self.policy_select.score}": self.policy_select.score != "entropy",
            f"loss.name {self.loss.name}": self.loss.name == "papo",
            f"advantage.shaping {self.advantage.shaping}": self.advantage.shaping == "vppo",
        }
        return tuple(name for name, reads in users.items() if reads)

    def _check_score_views(self) -> None:
        users = self.score_view_users()
        require(
            not users or self.score.view != "none",
            f"{' and '.join(users)} compares with another image: set score.view noise, mask or no_image",
        )
        require(
            bool(users) or self.score == ScoreConfig(),
            "score.* is set but nothing reads it: choose a score, loss or shaping that compares with another image",
        )
        scores = {self.policy_select.score} | ({self.select.score} if self.changes_inputs else set())
        require(
            self.score.alpha == ScoreConfig().alpha or bool(scores & set(ALPHA_READERS)),
            f"score.alpha ({self.score.alpha:g}) does nothing for {' and '.join(users)}; leave it at "
            f"{ScoreConfig().alpha:g}, or set select.score or policy_select.score to one of {', '.join(ALPHA_READERS)}",
        )

    @property
    def changes_inputs(self) -> bool:
        """Does any planned view change what the policy sees?"""
        return bool(self._planned_views())

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
            require(isinstance(value, dict), f"config: {prefix}{name} must be a table of settings, got {value!r}")
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
            group = getattr(config, f.name)
            for inner in dataclasses.fields(f.type):
                later = inner.metadata.get("added_later", False) and getattr(group, inner.name) == inner.default
                if later or not inner.metadata.get("hashed", True):
                    del tree[f.name][inner.name]
    tree["rollout"]["plan"] = [list(entry) for entry in config.group_plan()]
    del tree["rollout"]["n_clean"], tree["rollout"]["n_view"], tree["view"]["name"]
    if not config.eval.attacks:
        del tree["eval"]["attack_levels"], tree["eval"]["attack_problems"]
    if not config.changes_inputs:
        del tree["view"], tree["select"], tree["record"]["fresh_every"]
    return tree


def content_hash(tree: dict[str, Any]) -> str:
    """sha256 of canonical JSON, 12 hex digits."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]
