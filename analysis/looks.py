"""How often was the plan added to? Whoever adds seeds or arms after the first launch may have seen results before."""

# pandas carries no types that a checker can follow
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from analysis.coverage import peeking_sentence
from analysis.load import SweepData
from analysis.verdicts import Looks


def looks(data: SweepData, arm: str, against: str) -> Looks:
    """Launches after the first that added to a comparison: trials of the arm, or of its partners with the same seeds.

    Plans written before launches were numbered only say whether there was any.
    """
    entries = data.plan.get("trials", [])
    seeds = {entry["seed"] for entry in entries if entry["arm"] == arm}
    added = [
        entry.get("launch")
        for entry in entries
        if entry.get("exploratory") and (entry["arm"] == arm or (entry["arm"] == against and entry["seed"] in seeds))
    ]
    return Looks(count=len(set(added)), at_least=None in added)


def price(data: SweepData) -> str:
    """What looking and adding costs, as simulated, where trials were added to the plan; else ""."""
    added = any(entry.get("exploratory") for entry in data.plan.get("trials", []))
    return peeking_sentence() if added else ""


def other_settings(data: SweepData) -> str:
    """A sentence on earlier plans of the sweep with other settings, "" without any: they too were chances to choose."""
    count = len(data.plan.get("earlier_plans", []))
    if not count:
        return ""
    plans = "plan" if count == 1 else "plans"
    return (
        f"The sweep was also launched with other settings ({count} earlier {plans} in plan.json): which of them is "
        "shown was chosen afterwards, and no p value accounts for that."
    )
