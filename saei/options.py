"""The command line of the trainer: a preset, then every setting of the config tree by its dotted name."""

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from saei.advantage import ADVANTAGES
from saei.cli import BadInput, bad_input, checked_command_line
from saei.config import Config, SelectConfig, ViewConfig
from saei.control import CONTROLS
from saei.data import SOURCES
from saei.data.catalog import check_answer_place
from saei.filters import GROUP_FILTERS
from saei.identity import model_source
from saei.losses import AGGREGATIONS, LOSSES
from saei.presets import PRESETS, RECIPE_7B, SCALE, preset
from saei.recipe import read_recipe
from saei.score_views import SCORE_VIEWS
from saei.select import RULES
from saei.shaping import SHAPINGS
from saei.token_scores import SCORES
from saei.views import VIEWS

_ALIASES = {"--checkpoint-every": "--checkpoint.every"}


def check_names(config: Config) -> None:
    """Refuse names that are in no table, and a model that is not there. Raises BadInput naming the setting and what
    it may be.
    """
    named = [
        ("data.source", config.data.source, SOURCES),
        ("filter.rule", config.filter.rule, GROUP_FILTERS),
        ("select.rule", config.select.rule, RULES),
        ("select.score", config.select.score, SCORES),
        ("policy_select.rule", config.policy_select.rule, RULES),
        ("policy_select.score", config.policy_select.score, SCORES),
        ("score.view", config.score.view, {"none": None, **SCORE_VIEWS}),
        ("advantage.shaping", config.advantage.shaping, SHAPINGS),
        ("control.rule", config.control.rule, CONTROLS),
        ("advantage.rule", config.advantage.rule, ADVANTAGES),
        ("loss.name", config.loss.name, LOSSES),
        ("loss.aggregation", config.loss.aggregation, AGGREGATIONS),
        *(("view.name or rollout.plan", entry.view, VIEWS) for entry in config.group_plan()),
    ]
    for setting, value, table in named:
        if value not in table:
            near = difflib.get_close_matches(value, table, n=1, cutoff=0.5)
            cure = f": did you mean {near[0]}?" if near else ""
            raise BadInput(f"{setting} is one of {', '.join(table)}, got {value}{cure}")
    # imported where they are asked for: they load transformers, and a plan of a hundred trials does without
    with bad_input():
        check_answer_place(config.data)
        model_source(config.model.path)
        if config.record.trackers:
            from saei.trackers import check_trackers

            check_trackers(config.record.trackers)
        if config.eval.attacks:
            from saei.robustness import check_attacks

            check_attacks(config.eval.attacks, config.eval.attack_levels)


def train_command_line(arguments: Sequence[str] | None = None, *, prog: str = "python -m saei.train") -> Config | None:
    """The config that the arguments ask for; None after `--list-presets`.

    `--preset NAME` and `--flavour published`, or `--recipe FILE`, set the defaults of all other settings, wherever they
    stand. `prog` is the command whose help an error names.
    """
    words = [_unalias(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    if "--list-presets" in words:
        list_presets(_value_of("--preset", words, ""))
        return None
    default = _named_default(words)
    config = checked_command_line(Config, words, prog=prog, default=default)
    check_names(config)
    _refuse_idle_view(config)
    return replace(config, preset=default.preset, flavour=default.flavour)


def _named_default(words: Sequence[str]) -> Config:
    """What a recipe, or a preset in its flavour, sets. Raises BadInput for both at once."""
    recipe = _value_of("--recipe", words, "")
    if not recipe:
        return preset_or_refusal(_value_of("--preset", words, Config().preset), _value_of("--flavour", words, "tiny"))
    for flag in ("--preset", "--flavour"):
        if _value_of(flag, words, ""):
            raise BadInput(f"{flag} and --recipe both set the defaults of all settings: give one of them")
    return read_recipe(Path(recipe))


def _refuse_idle_view(config: Config) -> None:
    """A sweep may set the attack for all its arms, GRPO's too; who sets it for one clean run means something else."""
    if config.changes_inputs:
        return
    for group, given, plain in (("view", config.view, ViewConfig()), ("select", config.select, SelectConfig())):
        for field in dataclasses.fields(given):
            value = getattr(given, field.name)
            if value != getattr(plain, field.name):
                raise BadInput(
                    f"{group}.{field.name} ({value}) does nothing: every completion of this run sees the clean input; "
                    "give a view completions with --rollout.n-view 6, or choose another preset"
                )


def _unalias(word: str) -> str:
    name, equals, value = word.partition("=")
    return _ALIASES.get(name, name) + equals + value


def _value_of(flag: str, words: Sequence[str], default: str) -> str:
    for position, word in enumerate(words):
        if word.startswith(flag + "="):
            return word.partition("=")[2]
        if word == flag:
            if position + 1 == len(words):
                raise BadInput(f"{flag} needs a name" + ("" if flag == "--recipe" else "; --list-presets shows all"))
            return words[position + 1]
    return default


def list_presets(name: str = "") -> None:
    """Print a line for every preset, or all about the one called `name`. Raises BadInput for an unknown name."""
    console = Console()
    if not name:
        table = Table("preset", "source", title=f"Presets ({SCALE})", box=box.SIMPLE)
        for preset_name, row in PRESETS.items():
            table.add_row(preset_name, row.source)
        table.columns[0].no_wrap = True
        console.print(table)
        console.print(
            "--list-presets --preset NAME shows the settings of one, and how it differs from what was published"
        )
        return
    if name not in PRESETS:
        preset_or_refusal(name)
    row = PRESETS[name]
    facts = {"source": row.source, "differs from it": row.differs, "its own host": row.host, "scale": SCALE}
    table = Table("", name, box=box.SIMPLE)
    for fact, words in facts.items():
        table.add_row(fact, words or "the common one")
    for label, settings in (("settings", row.settings), ("published flavour", {**RECIPE_7B, **row.published})):
        lines = "\n".join(f"{setting} = {_shown(value)}" for setting, value in settings.items())
        table.add_row(label, lines or "(the defaults)")
    console.print(table)


def preset_or_refusal(name: str, flavour: str = "tiny") -> Config:
    """`presets.preset`, its refusal as BadInput."""
    try:
        return preset(name, flavour)
    except ValueError as error:
        raise BadInput(str(error)) from error


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
