"""A sweep's arms at the scale of a recipe: `run.py methods --recipe recipes/geo3k-7b-saei.toml`. No torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from saei.cli import BadInput
from saei.config import Config, with_overrides
from saei.presets import PRESETS
from saei.recipe import recipe_settings
from sweeps.definition import Sweep

THE_ARMS_OWN = ("rollout.n_clean", "rollout.n_view", "rollout.plan")
"""What a recipe says of its method, beside `view` and `select`: in a sweep the arms say that."""
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def on_recipe(sweep: Sweep, path: Path) -> Sweep:
    """The sweep with the recipe's settings over its base; arms that are presets get what their papers publish for them,
    or what a recipe for that preset on the same data says in its place.

    Raises BadInput for a recipe that cannot be read, or that changes the attack.
    """
    settings = recipe_settings(path)
    for name in ("preset", "seed", "out"):
        settings.pop(name, None)
    _refuse_another_attack(settings)
    host = {
        name: value
        for name, value in settings.items()
        if name not in THE_ARMS_OWN and not name.startswith(("view.", "select."))
    }
    beside = _methods_on(path, settings)
    published = {frozenset(row.settings.items()): row.published for row in PRESETS.values()}
    arms = {arm: {**own, **published.get(frozenset(own.items()), {})} for arm, own in sweep.arms.items()}
    for name, row in PRESETS.items():  # what a recipe has otherwise: NoisyRollout's noise is published by data set
        for arm, own in sweep.arms.items():
            if dict(own) == dict(row.settings):
                arms[arm] |= {setting: value for setting, value in beside.get(name, {}).items() if setting in arms[arm]}
    base = {**sweep.base, **host, "flavour": "published", "recipe": str(path)}
    return replace(sweep, base=base, arms=arms)


def _refuse_another_attack(settings: Mapping[str, Any]) -> None:
    """Arms that leave the attack open mean its defaults, and some are named for them (`middle_1_3`, `step_2`)."""
    view = Config().view.name
    if settings.get("view.name", view) != view:  # noise: the arms with the recipe's preset take it
        return
    named = {name: value for name, value in settings.items() if name.startswith(("view.", "select."))}
    for name, value in named.items():
        if with_overrides(Config(), {name: value}) != Config():
            raise BadInput(
                f"--recipe: it sets {name} to {value}, but in a sweep the arms say what the attack is, and its default "
                f"where they say nothing: take {name} out of the recipe, and give --set {name}={value} to a sweep "
                "whose arms do not set it"
            )


def _methods_on(path: Path, settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Preset -> settings of the recipe for it on the data of the one at `path`, which counts before the project's."""
    found: dict[str, Mapping[str, Any]] = {}
    for file in (path, *sorted(RECIPES.glob("*.toml"))):
        other = recipe_settings(file)
        if other.get("data.path") == settings.get("data.path") is not None:
            found.setdefault(str(other.get("preset", "saei")), other)
    return found
