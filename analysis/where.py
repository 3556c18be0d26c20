"""Which trials of a sweep a report is about: `--since 6h`, `--where "view.step_size > 1"`.

A condition is SETTING OPERATOR VALUE. Settings are the dotted ones of a trial's config.json, and `arm`; values are
compared in the unit that the config stores: pixel sizes in grey levels (`2` or `2/255`), shares as exact fractions.
Nothing is evaluated: a value is a number, a fraction, `true`, `false`, `none`, a word, or a list of them for `in`.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

GREY_LEVELS = ("view.step_size", "view.epsilon")
"""Settings that are numbers of 8-bit grey levels."""

ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(==|!=|<=|>=|<|>|\bin\b)\s*(.*\S)\s*", re.DOTALL)
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(m|h|d|w)\s*")
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NUMBER = re.compile(r"[+-]?(\d{1,30}/\d{1,30}|(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e[+-]?\d{1,3})?)")
"""Bounded: a text such as 1e999999999 would keep Python busy for hours."""
_GREY = re.compile(r"(.*\S)\s*/\s*255(?:\.0*)?")
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}
_EXAMPLE = 'write it as in --where "view.step_size > 1" or --where "loss.name in [grpo, gspo]"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One `--where`; `values` are its values as written, one unless the operator is `in`."""

    setting: str
    operator: str
    values: tuple[str, ...]
    text: str

    def holds(self, stored: Any) -> bool:
        """Does the setting's value `stored`, as config.json has it, meet the condition?

        A setting of `none` is in no order with any number. Raises ValueError for values that cannot be compared.
        """
        if isinstance(stored, list | dict):
            raise ValueError(
                f"--where {self.text!r}: {self.setting} is a list of values; name a setting with one value"
            )
        pairs = [self._pair(stored, text) for text in self.values]
        if self.operator in ORDERED:
            return self._in_order(*pairs[0])
        # True == 1 in Python; a switch is no number
        met = any(isinstance(found, bool) == isinstance(wanted, bool) and found == wanted for found, wanted in pairs)
        return met if self.operator in ("==", "in") else not met

    def _in_order(self, found: Any, wanted: Any) -> bool:
        for value in (found, wanted):
            if value is not None and not isinstance(value, Fraction):
                raise ValueError(
                    f"--where {self.text!r}: {value!r} has no order, so {self.operator} cannot be asked of it; "
                    "use ==, != or in"
                )
        return found is not None and wanted is not None and ORDERED[self.operator](found, wanted)

    def _pair(self, stored: Any, text: str) -> tuple[Any, Any]:
        """What the config holds and what is written, as one kind of value."""
        if self.setting in GREY_LEVELS:
            return number(stored), self._levels(text)
        if isinstance(stored, str):  # a share such as 1/3 is stored as a text
            both = number(stored), number(text)
            return both if all(isinstance(value, Fraction) for value in both) else (stored, text)
        wanted = _CONSTANTS[text.lower()] if text.lower() in _CONSTANTS else number(text)
        found = stored if isinstance(stored, bool) else number(stored)
        if isinstance(found, Fraction) and isinstance(wanted, str):
            raise ValueError(
                f"--where {self.text!r}: {self.setting} is a number, here {stored}, got {text!r}; {_EXAMPLE}"
            )
        return found, wanted

    def _levels(self, text: str) -> Fraction | None:
        if text.lower() in ("none", "null"):
            return None
        written = _GREY.fullmatch(text)
        levels = number(written[1] if written else text)
        if not isinstance(levels, Fraction):
            raise ValueError(
                f"--where {self.text!r}: {self.setting} is in grey levels, such as 2 or 2/255, got {text!r}"
            )
        if 0 < levels < 0.5:
            meant = max(1, round(levels * 255))
            raise ValueError(
                f"--where {self.text!r}: {self.setting} is in grey levels (0-255), got {text}; write {meant}/255 or "
                f"{meant} if you mean that share of the [0, 1] range"
            )
        return levels


def number(value: Any) -> Any:
    """A number, or a text that is one (`0.2`, `1/5`), as the exact fraction that it is written as; the rest unchanged.

    So 0.2 in config.json, a share stored as "1/5", and a typed 0.2 are one number.
    """
    text = repr(value) if isinstance(value, int | float) else value
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        return value
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The trials that a report is about: all conditions hold, and finished (or last heard of) at `since` or later.

    `since`: seconds since 1970, or None. The empty selection selects everything.
    """

    conditions: tuple[Condition, ...] = ()
    since: float | None = None

    def __bool__(self) -> bool:
        return bool(self.conditions) or self.since is not None

    def selects(self, settings: Mapping[str, Any], finished: float, *, complete: bool) -> bool:
        """Is a trial with these dotted `settings`, which finished then (NaN: not known), among the selected ones?

        A trial whose settings are not all known (not `complete`: it has not begun) is not left out for one of the
        others. Of a known trial, a setting that it does not have, although others do, meets only `!=`.
        """
        if self.since is not None and not finished >= self.since:
            return False
        return all(
            condition.holds(settings[condition.setting])
            if condition.setting in settings
            else condition.operator == "!=" or not complete
            for condition in self.conditions
        )

    def check_settings(self, known: Sequence[str], arms: Sequence[str]) -> None:
        """Raise ValueError for a condition on a setting that no trial has, or an arm that is not there."""
        for condition in self.conditions:
            if known and condition.setting not in known:
                near = difflib.get_close_matches(condition.setting, known, n=3, cutoff=0.5)
                last = condition.setting.rpartition(".")[2]
                near = near or [name for name in known if name.rpartition(".")[2] == last][:3]
                cure = f"did you mean {', '.join(near)}?" if near else "see config.json of a trial for what there is"
                raise ValueError(f"--where {condition.text!r}: no trial has a setting {condition.setting!r}; {cure}")
            strange = [value for value in condition.values if condition.setting == "arm" and value not in arms]
            if strange:
                near = difflib.get_close_matches(strange[0], arms, n=3, cutoff=0.5)
                cure = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(arms)}"
                raise ValueError(f"--where {condition.text!r}: the sweep has no arm {strange[0]!r}; {cure}")

    @property
    def options(self) -> tuple[str, ...]:
        """The selection as a command line has it, a time back from now as the moment that it was."""
        since = () if self.since is None else ("--since", datetime.fromtimestamp(self.since).astimezone().isoformat())
        return (*since, *(word for condition in self.conditions for word in ("--where", condition.text)))

    @property
    def words(self) -> str:
        """The selection as it is said in a sentence."""
        parts = [condition.text for condition in self.conditions]
        if self.since is not None:
            parts.append(f"finished since {datetime.fromtimestamp(self.since).astimezone():%Y-%m-%d %H:%M %Z}")
        return " and ".join(parts)


def parse_selection(*, since: str = "", where: Sequence[str] = (), now: float) -> Selection:
    """The selection of a command line; `now` (seconds since 1970) is what `6h` counts back from.

    Raises ValueError for what cannot be read.
    """
    return Selection(
        conditions=tuple(parse_condition(text) for text in where), since=parse_since(since, now) if since else None
    )


def parse_since(text: str, now: float) -> float:
    """`6h`, `30m`, `2d`, `1w` before `now`, or a date with or without a time: seconds since 1970, local time.

    Raises ValueError for anything else.
    """
    duration = _DURATION.fullmatch(text)
    if duration:
        return now - float(duration[1]) * _SECONDS[duration[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"--since is a date such as 2026-11-20 or 2026-11-20T14:30, or a time back from now such as 6h, 30m or 2d, "
            f"got {text!r}"
        ) from error


def parse_condition(text: str) -> Condition:
    """One `--where`. Raises ValueError for what is no condition."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        cure = "compare with ==" if re.fullmatch(r"[^=<>!]*=[^=]*", text) else _EXAMPLE
        raise ValueError(f"--where {text!r} is not SETTING OPERATOR VALUE (== != < <= > >= in); {cure}")
    setting, sign, written = match.groups()
    values = tuple(_unquoted(value) for value in _listed(written)) if sign == "in" else (_unquoted(written),)
    if not values or "" in values:
        raise ValueError(f"--where {text!r} has an empty value; {_EXAMPLE}")
    return Condition(setting=setting, operator=sign, values=values, text=" ".join(text.split()))


def _listed(text: str) -> list[str]:
    inner = text[1:-1] if text[0] + text[-1] in ("[]", "()") else text
    return [value.strip() for value in inner.split(",") if value.strip()]


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def dotted(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A config's nested groups as dotted settings: {"view": {"step_size": 2.0}} -> {"view.step_size": 2.0}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= dotted(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
