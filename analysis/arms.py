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


def filtering(data: SweepData) -> list[str]:
    """Arms that drop groups (`filter.rule`): a step of theirs samples more, so steps are no fair measure of them."""
    rules = {
        tree["arm"]: (tree.get("config") or {}).get("filter", {}).get("rule", "none")
        for tree in data.documents(schema.CONFIG_FILE)
    }
    for arm in data.plan["arms"]:  # a run that has not begun has only its plan
        rules.setdefault(arm["name"], (arm.get("overrides") or {}).get("filter.rule", "none"))
    return [arm for arm in data.arms if rules.get(arm, "none") != "none"]
