"""What goes wrong in a run, told while it goes wrong: each detector names the step and the setting to look at.

A detector reads the rows recorded so far and fires at the first step of an episode: at no row does it look ahead, so an
alarm never changes when later rows arrive. It fires again only after its sign was absent for `WINDOW` rows. Values that
are missing or not finite are left out of means; where under half of a window is known, nothing fires. No detector on a
mean can fire in fewer than `WINDOW` steps. An alarm is a hint and stops nothing.

The signs are the failure signatures of adversarial sampling (arXiv 2512.10414: collapse in spite of the attack, loss
spikes, falling clean accuracy) and those of reinforcement learning with verifiable rewards in general. The thresholds
are ours: shares and factors that six healthy runs of 200 steps on the shipped model stay clear of.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from saei.alarms import START, WINDOW, Alarm, History, Row, Series, mean, number, raise_alarms, recent, start

SPIKE_WINDOW = 20
"""Steps before a spike whose median is the usual size; at least WINDOW of them must be known."""
COLLAPSED_SHARE = 0.3
"""Entropy below this share of its start is collapse. Healthy tiny runs end at 0.4 to 0.6 after 200 steps."""
EXPLODED_FACTOR, EXPLODED_NATS = 3.0, 0.3
"""Entropy above this factor of its start, and this much above it: from 0.01 to 0.03 nats is no explosion."""
SPIKE_FACTOR = 20.0
"""Times the usual size. Healthy tiny runs reach 10: a step with one informative group among silent ones."""
SPIKE_GRADIENT, SPIKE_LOSS = 1.0, 0.5
"""Smaller values are no spike, whatever was usual: such a gradient is not even clipped by default (1.0), and a policy
loss over advantages of unit variance stays under 0.1 in healthy runs."""
FALLEN_TRAINING, FALLEN_EVALUATION = 0.15, 0.05
"""Clean accuracy this much below its best earlier level: mean of WINDOW training steps (standard error about 0.045), or
of one evaluation, which repeats the same problems with the same noise."""
RISEN_FACTOR = 1.1
"""Entropy of the moved view against what it was when clean accuracy was best."""
LARGE_LEVELS = 8.0
"""Grey levels of perturbation from which moved images may no longer show the problem (paper: 2 and 3 work)."""
UNREADABLE_SHARE = 0.5
"""Accuracy on such images below this share of the clean view's, and at least FALLEN_TRAINING below it: the completions
no longer answer the question. Where clean ones do not either (0.025 against 0), the images are not to blame."""
SILENT_SHARE = 0.8
"""Mean share of groups without signal: a step of 8 groups then learns from one or two. Healthy: up to 0.7."""
LENGTH_FACTOR, TRUNCATED_RISE = 2.0, 0.3
"""Mean completion length against its start; share of cut completions above its start."""
REWARD_GAIN, ACCURACY_PART = 0.03, 0.25
"""Reward risen by this much, accuracy by at most this part of it. Where both are noise they move together."""


Detector = Callable[[History], list[Alarm]]


def detect(steps: Sequence[Row], views: Sequence[Row], evaluations: Sequence[Row]) -> list[Alarm]:
    """All alarms of a run so far, by step.

    `steps` and `views` are rows of these tables; an evaluation is `{step, split, decoding, accuracy}` with `accuracy`
    the mean over its completions and `step` the training steps done before it. Columns may be missing.
    """
    history = History(sorted(steps, key=_step), sorted(views, key=_step), sorted(evaluations, key=_step))
    alarms = [alarm for detector in DETECTORS.values() for alarm in detector(history)] if history.steps else []
    return sorted(alarms, key=lambda alarm: (alarm.step, alarm.detector))


def _step(row: Row) -> int:
    return int(row["step"])


def _stays(values: Series, holds: Callable[[Series], Any]) -> list[bool]:
    """At each row: does every known value of the last WINDOW ones hold? False before START + WINDOW rows."""
    flags = []
    for i in range(len(values)):
        known = values[max(0, i + 1 - WINDOW) : i + 1]
        known = known[np.isfinite(known)]
        enough = i + 1 >= START + WINDOW and 2 * len(known) >= WINDOW
        flags.append(bool(enough and np.all(holds(known))))
    return flags


def entropy_collapse(history: History) -> list[Alarm]:
    """F1: entropy falls below COLLAPSED_SHARE of its start and stays there."""
    values = history.column("entropy")
    first, means = start(values), recent(values)
    setting, cure = "control.coef", "nothing holds it up: look at control.coef (with control.rule)"
    if history.changes_inputs:
        setting = "view.step_size"
        cure = "the changed view is too weak to hold it up: look at view.step_size (and view.iterations above 0)"
    return raise_alarms(
        history,
        "entropy_collapse",
        _stays(values, lambda known: known < COLLAPSED_SHARE * first),
        setting,
        lambda i: (
            f"entropy has stayed below {COLLAPSED_SHARE:.0%} of its start for {WINDOW} steps (mean "
            f"{means[i]:.3g} of {first:.3g} nats); {cure}"
        ),
    )


def entropy_explosion(history: History) -> list[Alarm]:
    """Entropy rises above EXPLODED_FACTOR of its start and stays there: the policy comes apart.

    The start is the calmest of the first START steps: a far too large learning rate destroys a policy within them, and
    their mean would then be the exploded entropy itself.
    """
    values = history.column("entropy")
    first, means = float(np.min(values[:START], initial=np.inf, where=np.isfinite(values[:START]))), recent(values)
    limit = max(EXPLODED_FACTOR * first, first + EXPLODED_NATS)
    setting = "view.step_size" if history.changes_inputs else "optim.lr"
    if (history.column("control_coef")[:START] > 0).any():
        setting = "control.coef"
    return raise_alarms(
        history,
        "entropy_explosion",
        _stays(values, lambda known: known > limit),
        setting,
        lambda i: (
            f"entropy has stayed above {limit:.3g} nats for {WINDOW} steps (mean {means[i]:.3g}, at the start "
            f"{first:.3g}): something pushes it up without bound; look at {setting}"
        ),
    )


def loss_spike(history: History) -> list[Alarm]:
    """F2: gradient norm or |loss| jumps to SPIKE_FACTOR times the median of the steps before it."""
    setting = "view.step_size" if history.changes_inputs else "optim.lr"
    series = {
        "gradient norm": (history.column("grad_norm"), SPIKE_GRADIENT),
        "loss": (np.abs(history.column("loss")), SPIKE_LOSS),
    }
    usual = {name: _usual(values) for name, (values, _) in series.items()}
    jumped = [
        [name for name, (values, least) in series.items() if values[i] > max(least, SPIKE_FACTOR * usual[name][i])]
        for i in range(len(history.steps))
    ]

    def figures(i: int) -> str:
        return " and ".join(f"{name} {series[name][0][i]:.3g} (usual {usual[name][i]:.3g})" for name in jumped[i])

    flags = [bool(names) for names in jumped]
    return raise_alarms(history, "loss_spike", flags, setting, lambda i: f"a spike, {figures(i)}; look at {setting}")


def _usual(values: Series) -> list[float]:
    """At each row the median of the SPIKE_WINDOW ones before it; infinite where under WINDOW of them are known."""
    medians = []
    for i in range(len(values)):
        before = values[max(0, i - SPIKE_WINDOW) : i]
        before = before[np.isfinite(before)]
        medians.append(float(np.median(before)) if len(before) >= WINDOW else float("inf"))
    return medians


def attack_too_strong(history: History) -> list[Alarm]:
    """F3: clean accuracy falls while the moved view's entropy rises, or far-moved images are no longer answered."""
    moved, linf = recent(history.of_views("entropy_sampled_image", clean=False)), history.column("attack_linf")
    signs = _unreadable(history, linf) | _fallen_in_evaluation(history, moved) | _fallen_in_training(history, moved)

    def size(i: int) -> str:
        return f", which moves pixels by {255 * linf[i]:.3g} levels" if np.isfinite(linf[i]) else ""

    return raise_alarms(
        history,
        "attack_too_strong",
        [i in signs for i in range(len(history.steps))],
        "view.step_size",
        lambda i: f"{signs[i]}; look at view.step_size{size(i)}",
    )


def _fallen_in_training(history: History, moved: Series) -> dict[int, str]:
    clean = recent(history.of_views("reward_accuracy", clean=True))
    signs = {}
    for i in range(len(clean)):
        best = _best(clean[: i + 1])
        if clean[best] - clean[i] >= FALLEN_TRAINING and moved[i] >= RISEN_FACTOR * moved[best]:
            fall = f"clean accuracy fell from {clean[best]:.3f} (step {history.step(best)}) to {clean[i]:.3f}"
            signs[i] = f"{fall} {_rise(moved[best], moved[i])}"
    return signs


def _fallen_in_evaluation(history: History, moved: Series) -> dict[int, str]:
    """An evaluation stands at the row of the last step before it."""
    signs = {}
    numbers = [history.step(i) for i in range(len(history.steps))]
    for split in dict.fromkeys(row["split"] for row in history.evaluations):
        rows = [row for row in history.evaluations if row["split"] == split and row["decoding"] == "sampled"]
        accuracy = np.array([number(row["accuracy"]) for row in rows], dtype=float)
        at = [max(0, int(np.searchsorted(numbers, int(row["step"]))) - 1) for row in rows]
        for k in range(len(rows)):
            best = _best(accuracy[: k + 1])
            # the first full window stands for what comes before it
            then, now = moved[max(at[best], min(WINDOW, len(moved)) - 1)], moved[at[k]]
            if accuracy[best] - accuracy[k] >= FALLEN_EVALUATION and now >= RISEN_FACTOR * then:
                before = f"{accuracy[best]:.3f} (after {int(rows[best]['step'])} steps)"
                signs[at[k]] = f"accuracy on {split} fell from {before} to {accuracy[k]:.3f} {_rise(then, now)}"
    return signs


def _unreadable(history: History, linf: Series) -> dict[int, str]:
    clean = recent(history.of_views("reward_accuracy", clean=True))
    other = recent(history.of_views("reward_accuracy", clean=False))
    return {
        i: f"accuracy on moved images is {other[i]:.3f}, on clean ones {clean[i]:.3f}: they may no longer show the "
        "problem"
        for i in range(len(linf))
        if np.round(255 * linf[i]) >= LARGE_LEVELS
        and other[i] < UNREADABLE_SHARE * clean[i]
        and clean[i] - other[i] >= FALLEN_TRAINING
    }


def _best(values: Series) -> int:
    return int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))


def _rise(before: float, now: float) -> str:
    return f"while the moved view's entropy rose from {before:.3g} to {now:.3g} nats"


def zero_signal(history: History) -> list[Alarm]:
    """Most groups have equal rewards: they cost sampling and teach nothing."""
    means = recent(history.column("zero_signal_share"))
    return raise_alarms(
        history,
        "zero_signal",
        means >= SILENT_SHARE,
        "filter.rule",
        lambda i: (
            f"over the last {WINDOW} steps {means[i]:.0%} of the groups had equal rewards and taught nothing; "
            "look at filter.rule, or take harder (or easier) problems"
        ),
    )


def length_runaway(history: History) -> list[Alarm]:
    """Completions grow without end, or into the limit."""
    length, cut = history.column("completion_length"), history.column("truncated_share")
    lengths, cuts = recent(length), recent(cut)
    return raise_alarms(
        history,
        "length_runaway",
        (lengths >= LENGTH_FACTOR * start(length)) | (cuts >= start(cut) + TRUNCATED_RISE),
        "reward.overlong_buffer",
        lambda i: (
            f"completions have {lengths[i]:.3g} tokens (at the start {start(length):.3g}) and {cuts[i]:.0%} of "
            f"them are cut (at the start {start(cut):.0%}); look at reward.overlong_buffer, loss.aggregation and "
            "rollout.max_new_tokens"
        ),
    )


def format_only(history: History) -> list[Alarm]:
    """Reward rises and accuracy does not: the policy learns the form of an answer.

    The reward is taken before the overlong penalty: completions that grow shorter gain by it, and not by form.
    """
    reward, accuracy = history.column("reward"), history.column("reward_accuracy")
    penalty = np.nan_to_num(history.column("overlong_penalty"))
    reward, name = reward + penalty, "reward before the overlong penalty" if penalty.any() else "reward"
    before = mean(reward[:WINDOW]), mean(accuracy[:WINDOW])
    now = recent(reward), recent(accuracy)
    gained = now[0] - before[0]
    flags = (gained >= REWARD_GAIN) & (now[1] - before[1] <= ACCURACY_PART * gained)
    flags[: 2 * WINDOW - 1] = False  # the two windows may not overlap
    return raise_alarms(
        history,
        "format_only",
        flags,
        "reward.format_weight",
        lambda i: (
            f"{name} rose from {before[0]:.3f} to {now[0][i]:.3f} while accuracy went from {before[1]:.3f} to "
            f"{now[1][i]:.3f}: the gain is one of format; look at reward.format_weight"
        ),
    )


def skipped_updates(history: History) -> list[Alarm]:
    """An update had a gradient that was not finite and was left out."""
    values = history.column("skipped_updates")
    return raise_alarms(
        history,
        "skipped_updates",
        values > 0,
        "optim.lr",
        lambda i: (
            f"updates left out because their gradient was not finite: {values[i]:.0f}; look at optim.lr and model.dtype"
        ),
    )


def unmatched_control(history: History) -> list[Alarm]:
    """A control's perturbation is not as large as the attack's that it should match."""
    values = history.column("attack_unmatched_share")
    return raise_alarms(
        history,
        "unmatched_control",
        values > 0,
        "view.step_size",
        lambda i: (
            f"{values[i]:.0%} of the control's images are more than 2% off the attack's L2, so this arm is no "
            "fair control; look at view.step_size (and view.epsilon)"
        ),
    )


def score_degenerate(history: History) -> list[Alarm]:
    """The image that tokens are scored against changes nothing: all score alike, and the selection is arbitrary."""
    values = history.column("score_degenerate_share")
    return raise_alarms(
        history,
        "score_degenerate",
        values > 0,
        "score.view",
        lambda i: (
            f"for {values[i]:.0%} of the completions the score view changed nothing, so their tokens cannot be ranked; "
            "look at score.view (and score.noise_level, score.mask_share)"
        ),
    )


DETECTORS: dict[str, Detector] = {
    detector.__name__: detector
    for detector in (
        entropy_collapse,
        entropy_explosion,
        loss_spike,
        attack_too_strong,
        zero_signal,
        length_runaway,
        format_only,
        skipped_updates,
        unmatched_control,
        score_degenerate,
    )
}
"""Name -> the alarms of a history."""
