"""Further problems for a step whose group filter dropped some of its own (dynamic sampling).

A function of its arguments, as `saei.order` is: nothing to save, and arms that drop different groups stay paired up to
the first difference.
"""

from collections.abc import Collection

from saei.seeding import stream


def refill_indices(seed: int, step: int, batch: int, per_step: int, size: int, used: Collection[int]) -> list[int]:
    """Indices of `per_step` problems for batch `batch` (1, 2, ...) of `step`, none of `used`, none twice.

    Drawn from the whole split, whatever its order (a curriculum too). Fewer where the split has no more.
    """
    assert batch >= 1, f"batch 0 of a step is its own problems; refills count from 1, got {batch}"
    taken = set(used)
    order = stream(seed, "data", "refill", step, batch).permutation(size).tolist()
    return [i for i in order if i not in taken][:per_step]
