"""What the attack gained and what it spent: one number per run from its `attacks` table.

*Same completions*: entropy of the kept tokens on the moved image minus that on the clean one, of the completions that
the attack was computed from. *Fresh*: entropy of fresh completions on the moved image minus that of fresh clean ones
with the same noise, all tokens, at the steps at which it was measured. Means over a run's images, all its steps.

The size is the realised one, the largest change of a pixel channel after rounding, averaged over images: a schedule or
a ball that holds several iterations back makes it smaller than the settings say.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false

import math

import pandas as pd

from analysis.load import ARM_FACTS, SweepData
from analysis.settings import by_arm, varied
from analysis.stats import t_interval
from saei.schema import FINISHED

SIZES = ("view.step_size", "view.epsilon")
"""Settings that say how far an image may move; arms that differ in these alone make a curve."""
GAINS = {"same": "same completions, kept tokens", "fresh": "fresh completions, all tokens"}
GAIN_COLUMNS = (
    "arm",
    "seed",
    "family",
    "levels",
    "same",
    "fresh",
    "images",
    "measured",
    "text",
    "finished",
    *ARM_FACTS,
)


def gains(data: SweepData) -> pd.DataFrame:
    """GAIN_COLUMNS, a row per run that has attacked: nats, grey levels, and how many images each mean is over.

    `family`: the settings but SIZES in which the attacking arms differ, as text; "" where there are none. `text`: the
    run moved text embeddings, and its levels are no measure of that. `same` is NaN for views that read no entropy.
    """
    rows = data.table("attack_means")
    if rows.empty:
        return pd.DataFrame(columns=list(GAIN_COLUMNS)).astype({"arm": rows["arm"].dtype})
    named = rows.assign(finished=rows["state"] == FINISHED, text=rows["moves_text"])
    families = _families(data, {str(arm) for arm in named["arm"]})
    return named.assign(family=named["arm"].astype(str).map(families))[list(GAIN_COLUMNS)]


def _families(data: SweepData, arms: set[str]) -> dict[str, str]:
    """Attacking arm -> in what but the size it differs from the others, such as `view.iterations 2`."""
    settings = by_arm(varied(data))
    settings = settings.loc[[arm for arm in settings.index if arm in arms]]
    names = [name for name in settings if name not in SIZES and settings[name].nunique(dropna=False) > 1]
    return {
        str(arm): ", ".join(f"{name} {_shown(row[name])}" for name in names)
        for arm, row in zip(settings.index, settings.to_dict("records"), strict=True)
    }


def _shown(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "without effect"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


MEANS = (
    "levels",
    "l2",
    "moved",
    "touched_share",
    "zero_gradient_share",
    "clipped_share",
    "tokens_kept",
    "tokens_total",
)


def spent(data: SweepData) -> pd.DataFrame:
    """A row per attacking arm, as text: what its images and its gradients went into, and what came of it.

    Means over runs; a gain has its 95 % t interval over seeds from two seeds on.
    """
    rows = data.table("attack_means")
    if rows.empty:
        return pd.DataFrame({"arm": ["no run with a changed input has recorded a step"]})
    runs = gains(data)
    table = []
    for arm, own in rows.groupby("arm", observed=True):
        means = own[list(MEANS)].mean()
        gained = runs[runs["arm"] == arm]
        table.append(
            {
                "arm": str(arm),
                "seeds": len(gained),
                "images": f"{own['images'].sum():,}",
                "moved": _percent(means["moved"]),
                "L∞ (grey levels)": _number(means["levels"]),
                "L2 (full range 1)": _number(means["l2"]),
                "pixels touched": _percent(means["touched_share"]),
                "zero gradient": _percent(means["zero_gradient_share"]),
                "clipped": _percent(means["clipped_share"]),
                "tokens kept": _percent(means["tokens_kept"] / means["tokens_total"]) if means["tokens_kept"] else "–",
                "gain, same completions (nats)": _gain(gained["same"]),
                "gain, fresh completions (nats)": _gain(gained["fresh"]),
            }
        )
    return pd.DataFrame(table)


def _gain(values: pd.Series) -> str:
    interval = t_interval(values.dropna().tolist())
    if not interval.count:
        return "–"
    mean, low, high = (
        f"{round(value, 4) + 0.0:+.4f}".replace("-", "−") for value in (interval.mean, interval.low, interval.high)
    )
    return mean if interval.count == 1 else f"{mean} ({low} to {high})"


def _percent(share: float) -> str:
    if math.isnan(share):
        return "–"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
