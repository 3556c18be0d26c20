"""In which settings do two trees of settings differ? For commands that compare runs, and for errors that name them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ABSENT = "(not there)"
"""Stands for the value of a setting that one of the trees does not have: another version of the code wrote it."""


class Difference(NamedTuple):
    """A dotted setting with its value in the first tree and in the second."""

    name: str
    first: Any
    second: Any


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """The leaves in which two nested mappings differ, by dotted name, in the order of the first."""
    flat, other = flattened(first), flattened(second)
    names = [*flat, *(name for name in other if name not in flat)]
    pairs = [Difference(name, flat.get(name, ABSENT), other.get(name, ABSENT)) for name in names]
    return [pair for pair in pairs if pair.first != pair.second]


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value; lists count as values."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def shown_differences(first: Mapping[str, Any], second: Mapping[str, Any], most: int = 4) -> str:
    """The first differences of two trial identities (`identity.trial_identity`) in words; "" where there are none.

    `first` is called "there", `second` "here".
    """
    found = [pair._replace(name=pair.name.removeprefix("settings.")) for pair in differences(first, second)]
    texts = [f"{pair.name} ({shown(pair.first)} there, {shown(pair.second)} here)" for pair in found[:most]]
    more = len(found) - most
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def shown(value: Any) -> str:
    """A value of a setting as people write it."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, list | tuple):
        return (
            " ".join(":".join(map(str, item)) if isinstance(item, list | tuple) else str(item) for item in value)
            or "()"
        )
    return str(value) or '""'
