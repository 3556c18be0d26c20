"""What an arm is, from its runs' settings and the plan, where it limits what may be said of it."""

from analysis.load import SweepData
from saei import schema

EARLIER_NOTE = "earlier definition"


def reconstructions(data: SweepData) -> dict[str, list[str]]:
    """Arm -> sentences on what in it is our reconstruction of a method without published formulas."""
    found: dict[str, list[str]] = {}
    for tree in data.documents(schema.CONFIG_FILE):
        for sentence in tree.get("reconstructions") or []:
            known = found.setdefault(tree["arm"], [])
            if sentence not in known:
                known.append(sentence)
    return {arm: found[arm] for arm in data.arms if arm in found}


def limits(data: SweepData) -> list[str]:
    """Sentences on arms that have changed since they were launched, and on those that a search gave up."""
    sentences = []
    for arm, against in data.earlier.items():
        base = arm.partition(schema.EARLIER)[0]
        compared = f" and is compared with {against}" if against not in ("", arm) else ""
        sentences.append(
            f"{arm} holds trials of an earlier definition of {base}; it is kept apart from the {base} of now{compared}."
        )
    if data.pruned:
        sentences.append(
            f"{len(data.pruned)} {'arm' if len(data.pruned) == 1 else 'arms'} given up by the search on the validation "
            f"split {'has' if len(data.pruned) == 1 else 'have'} no row among the verdicts: {', '.join(data.pruned)}."
        )
    return sentences
