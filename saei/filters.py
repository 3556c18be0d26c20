"""Which groups are trained on (DAPO's dynamic sampling, arXiv 2503.14476; methods.md 4.3)."""

from collections.abc import Callable, Sequence

GroupFilter = Callable[[Sequence[float], Sequence[float]], bool]


def keep_all(accuracies: Sequence[float], rewards: Sequence[float]) -> bool:
    """Every group."""
    return True


def mixed_accuracy(accuracies: Sequence[float], rewards: Sequence[float]) -> bool:
    """Neither all right nor all wrong: DAPO. A difference in format alone is not enough."""
    return len(set(accuracies)) > 1


def mixed_reward(accuracies: Sequence[float], rewards: Sequence[float]) -> bool:
    """Any difference in reward, of format or length too: every group whose advantages are not all zero."""
    return len(set(rewards)) > 1


GROUP_FILTERS: dict[str, GroupFilter] = {
    "none": keep_all,
    "mixed_accuracy": mixed_accuracy,
    "mixed_reward": mixed_reward,
}
"""`filter.rule` -> its function of (accuracies, 0 or 1; rewards) of a group's completions: True to train on it."""
