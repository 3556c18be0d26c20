"""What the plan says of the points of a search: they were chosen along the way, and some were given up."""

from collections.abc import Mapping
from pathlib import Path

from saei import schema
from saei.atomic import write_json
from sweeps.locks import hold
from sweeps.trial import read_json


def mark_points(folder: Path, is_pruned: Mapping[str, bool]) -> None:
    """Mark the entries of these arms in `plan.json` as exploratory, and as pruned where they are.

    A pruned arm has fewer seeds than it was meant to have, and has them because it did badly: no verdict is given.
    """
    with hold(folder / ".plan.lock", wait=True):
        plan = read_json(folder / schema.PLAN_FILE)
        if not plan:
            return
        for entry in plan["trials"]:
            if entry["arm"] in is_pruned:
                entry |= {"exploratory": True, "pruned": is_pruned[entry["arm"]]}
        write_json(folder / schema.PLAN_FILE, plan)
