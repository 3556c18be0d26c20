"""What an arm is, from its runs' settings, where it limits what may be said of it."""

from analysis.load import SweepData
from saei import schema


def reconstructions(data: SweepData) -> dict[str, list[str]]:
    """Arm -> sentences on what in it is our reconstruction of a method without published formulas."""
    found: dict[str, list[str]] = {}
    for tree in data.documents(schema.CONFIG_FILE):
        for sentence in tree.get("reconstructions") or []:
            known = found.setdefault(tree["arm"], [])
            if sentence not in known:
                known.append(sentence)
    return {arm: found[arm] for arm in data.arms if arm in found}
