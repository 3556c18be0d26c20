"""A recipe: a file of settings that stands in the place of a preset, for runs that are too large to be typed.

    python -m saei.train --recipe recipes/geo3k-7b-saei.toml [any setting of the trainer]

`preset` and `flavour` in the file set the defaults of all others, as they do on the command line; every other key is a
setting, in the table of its group. No torch.
"""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from saei.cli import BadInput
from saei.config import Config, field_names, typed_value, unknown_field, with_overrides
from saei.presets import preset
from saei.units import parse_grey_levels

GREY_LEVELS = ("view.step_size", "view.epsilon")
"""Settings that may be written as `2/255`."""


def read_recipe(path: Path) -> Config:
    """The settings of the recipe at `path`; runs go to `results/manual/<its name>` where it says nothing else.

    Raises BadInput naming the file and the key for a file that is not there or no TOML, an unknown setting, a value of
    the wrong type, or a combination that the config refuses.
    """
    settings = recipe_settings(path)
    try:
        named = settings.pop("preset", "saei"), settings.pop("flavour", "tiny")
        config = with_overrides(preset(*named), settings)
    except ValueError as error:
        raise error if isinstance(error, BadInput) else BadInput(f"--recipe {path}: {error}") from error
    out = config.out if "out" in settings else f"results/manual/{path.stem}"
    return replace(config, recipe=str(path), out=out)


def recipe_settings(path: Path) -> dict[str, Any]:
    """What the file says, as dotted settings with values of their types. Raises BadInput naming file and key."""
    try:
        tree = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"--recipe: there is no file {path}; recipes/ holds those that come with the project") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"--recipe {path} cannot be read: {error}") from error
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    try:
        return {name: _value(name, value) for name, value in flat.items()}
    except ValueError as error:
        raise BadInput(f"--recipe {path}: {error}") from error


def _value(name: str, value: Any) -> Any:
    """One setting, strictly: `1.5` is no whole number, and `"false"` not false."""
    if name not in field_names() or name == "recipe":
        raise unknown_field(name)
    if name in GREY_LEVELS and isinstance(value, str):
        return parse_grey_levels(value, name)
    group, _, leaf = name.rpartition(".")
    default = getattr(getattr(Config(), group) if group else Config(), leaf)
    for kind, wanted, words in (
        (bool, bool, "true or false"),
        (int, int, "a whole number"),
        (float, (int, float), "a number"),
        (str, str, "a text in quotes"),
        (tuple, list, "a list"),
    ):
        if isinstance(default, kind):
            right = isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))
            if not right:
                raise ValueError(f"{name} is {words}, got {value!r}")
            break
    return typed_value(name, value)
