"""The main figures as files, for papers and slides."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from analysis import (
    attacked,
    comparisons,
    costs,
    heat_maps,
    plots,
    settings,
    stats,
    style,
    swept_figures,
    training,
    trajectories,
)
from analysis.load import SweepData
from analysis.whole import whole_folder

Drawn = Figure | plots.Sentence

FIGURES: dict[str, Callable[[SweepData], Drawn]] = {
    "accuracy_by_arm": lambda data: plots.accuracy_by_arm(stats.final_scores(data.table("problems"), data.test_split)),
    "accuracy_over_steps": lambda data: plots.accuracy_over_steps(
        stats.scores(data.table("problems"), data.validation_split)
    ),
    "accuracy_over_tokens": lambda data: comparisons.accuracy_over_tokens(costs.accuracy_by_tokens(data)),
    "accuracy_by_setting": lambda data: swept_figures.accuracy_by_setting(
        stats.final_scores(data.table("problems"), data.test_split), settings.varied(data)
    ),
    "accuracy_by_two_settings": lambda data: heat_maps.accuracy_by_two_settings(
        stats.final_scores(data.table("problems"), data.test_split), settings.varied(data)
    ),
    "accuracy_over_time": lambda data: comparisons.accuracy_over_time(costs.accuracy_by_tokens(data)),
    "accuracy_against_entropy": lambda data: trajectories.accuracy_against_entropy(trajectories.evaluations(data)),
    "accuracy_under_attack": lambda data: comparisons.accuracy_under_attack(attacked.robustness(data)),
    "entropy_over_steps": lambda data: plots.entropy_over_steps(data.table("steps")),
    "entropy_over_tokens": lambda data: comparisons.entropy_over_tokens(costs.entropy_by_tokens(data)),
    "entropy_by_view": lambda data: plots.entropy_by_view(data.table("views")),
    "entropy_by_band": lambda data: plots.entropy_by_band(data.table("steps")),
    "attack_gain_over_steps": lambda data: plots.attack_gain_over_steps(data.table("steps")),
    "reward_over_steps": lambda data: plots.reward_over_steps(data.table("steps")),
    "clipping_over_steps": lambda data: training.clipping_over_steps(data.table("steps")),
    "length_over_steps": lambda data: plots.length_over_steps(data.table("steps")),
}
KINDS = ("png", "svg")


def save_figures(data: SweepData, folder: Path) -> None:
    """Write FIGURES as PNG and SVG in place of what was in `folder`; one without data is left out.

    Names of files are ours alone: nothing of the sweep is in them.
    """
    with whole_folder(folder) as fresh:
        for name, draw in FIGURES.items():
            figure = draw(data)
            if isinstance(figure, Figure):
                style.save(figure, fresh / name, KINDS)
