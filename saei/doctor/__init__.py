"""Checks before a run, or an array of runs, is queued: one short file each, and this table.

A check takes a `Patient` and returns a `Finding`; it raises NotHere where it cannot be made. To add one, write a file,
give it a row, and plant a fault in `tests/test_doctor.py` that turns it red.
"""

from collections.abc import Callable

from saei.doctor.attack import check_attack
from saei.doctor.budget import check_budget
from saei.doctor.cluster import check_cluster
from saei.doctor.codec import check_codec
from saei.doctor.disk import check_disk
from saei.doctor.finding import Finding
from saei.doctor.gold import check_gold
from saei.doctor.memory import check_memory
from saei.doctor.model import check_model
from saei.doctor.overlap import check_overlap
from saei.doctor.packed import check_packed
from saei.doctor.patient import Patient
from saei.doctor.placeholders import check_placeholders
from saei.doctor.problems import check_problems
from saei.doctor.resume import check_resume
from saei.doctor.sampler import check_sampler
from saei.doctor.token_types import check_token_types

CHECKS: dict[str, Callable[[Patient], Finding]] = {
    "model": check_model,
    "data": check_problems,
    "gold": check_gold,
    "overlap": check_overlap,
    "placeholders": check_placeholders,
    "token_types": check_token_types,
    "codec": check_codec,
    "packed": check_packed,
    "sampler": check_sampler,
    "attack": check_attack,
    "budget": check_budget,
    "resume": check_resume,
    "disk": check_disk,
    "memory": check_memory,
    "cluster": check_cluster,
}
"""In the order in which they are made: what others rest on first, `memory` after those that use the device."""

__all__ = ["CHECKS", "Finding", "Patient"]
