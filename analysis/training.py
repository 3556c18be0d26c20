"""What the updates were given and did over the steps: the parts of the reward, and the tokens that were clipped."""

# pandas carries no types that a checker can follow
# pyright: reportGeneralTypeIssues=false

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.curves import parts_over_steps
from analysis.style import Sentence

NO_STEP = "yet: no run has recorded a step."


def reward_parts_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: accuracy and format of the training rollouts before they are weighted, and the overlong penalty.

    The penalty has a panel only where a run has one.
    """
    parts = {"reward_accuracy": "accuracy", "reward_format": "format"}
    if (steps["overlong_penalty"] > 0).any():
        parts["overlong_penalty"] = "overlong penalty"
    return parts_over_steps(steps, parts, "mean over rollouts", f"No parts of the reward {NO_STEP}")


def clipping_over_steps(steps: pd.DataFrame) -> Figure | Sentence:
    """`steps` table: share of the completion tokens whose ratio was clipped, over all updates of the step, by side."""
    parts = {"clip_low_share": "at the low end", "clip_high_share": "at the high end"}
    form = PercentFormatter(1.0)
    return parts_over_steps(steps, parts, "completion tokens clipped", f"No clipped tokens {NO_STEP}", form)
