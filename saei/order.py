"""Which problems does step s train on? A function of (seed, step) and the size of the split, so there is no cursor
to save: epochs are permutations, and no problem stands twice in one step, not even where two epochs meet.
"""

from functools import lru_cache

from saei.seeding import stream


def problem_indices(seed: int, step: int, per_step: int, size: int) -> list[int]:
    """Indices of the problems of `step`, in order.

    Raises ValueError when the split is smaller than one step.
    """
    if per_step > size:
        raise ValueError(
            f"rollout.problems_per_step is {per_step}, but the training split has {size} problems; lower the former"
        )
    first = step * per_step
    return [_epoch(seed, i // size, per_step, size)[i % size] for i in range(first, first + per_step)]


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, per_step: int, size: int) -> tuple[int, ...]:
    """The order of one epoch. Where a step straddles two epochs, its problems of the first are moved back in the
    second, behind that step.
    """
    order = stream(seed, "data", epoch).permutation(size).tolist()
    straddling = epoch * size % per_step
    if straddling == 0:
        return tuple(order)
    already = set(_epoch(seed, epoch - 1, per_step, size)[-straddling:])
    head = [i for i in order if i not in already][: per_step - straddling]
    taken = set(head)
    return tuple(head + [i for i in order if i not in taken])
