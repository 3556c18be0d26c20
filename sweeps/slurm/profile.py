"""What a site says about its cluster: `slurm/defaults.toml`, then the site's own file over it.

slurm/README.md explains every key.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from saei.cli import BadInput

ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULTS = ROOT / "slurm" / "defaults.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """`time` in minutes; numbers of 0 and texts of "" are left to Slurm, `parallel` and `max_submitted` of 0 unlimited.

    `gpus` is per node, `tasks` per node, `cpus` per task.
    """

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    nodes: int = 1
    gpus: int = 0
    tasks: int = 0
    cpus: int = 0
    mem_gb: float = 0
    time: int
    parallel: int = 0
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    container: str = ""
    container_mounts: tuple[str, ...] = ()
    container_command: str = ""
    srun: tuple[str, ...] = ()
    python: str = ""
    signal_delay_s: int = 120
    requeue: bool = True
    max_array: int = 0
    max_submitted: int = 0
    extra: Mapping[str, str | int | bool] = field(default_factory=dict)

    @property
    def tasks_per_node(self) -> int:
        """One process per GPU where nothing else is said."""
        return self.tasks or self.gpus or 1

    @property
    def gpus_per_trial(self) -> int:
        return self.nodes * self.gpus

    @property
    def limit_s(self) -> int:
        return self.time * 60


def _text(value: Any) -> str:
    _demand(isinstance(value, str) and bool(value.strip()) and "\n" not in value, "is a text in quotes, on one line")
    return value


def _count(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        _demand(isinstance(value, int) and not isinstance(value, bool), "is a whole number")
        _demand(value >= least, f"must be at least {least}")
        return value

    return read


def _gigabytes(value: Any) -> float:
    _demand(isinstance(value, int | float) and not isinstance(value, bool) and value > 0, "is a number above 0")
    return value


def _truth(value: Any) -> bool:
    _demand(isinstance(value, bool), "is true or false")
    return value


def _lines(value: Any) -> tuple[str, ...]:
    rule = 'is a list of texts, such as ["one", "two"]'
    _demand(isinstance(value, list) and all(isinstance(line, str) and "\n" not in line for line in value), rule)
    return tuple(value)


def _variables(value: Any) -> dict[str, str]:
    _demand(isinstance(value, dict), 'is a table of environment variables, such as { HF_HUB_OFFLINE = "1" }')
    for name, content in value.items():
        is_name = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
        _demand(is_name, f"{name!r} is no name of an environment variable: letters, digits and _, no digit first")
        _demand(isinstance(content, str | int | float) and not isinstance(content, bool), f"{name} is a text or number")
    return {name: str(content) for name, content in value.items()}


def minutes(text: Any) -> int:
    """Slurm's "HH:MM:SS" or "D-HH:MM:SS", or whole minutes as a number: minutes, rounded up."""
    if isinstance(text, int) and not isinstance(text, bool):
        _demand(text >= 1, "must be at least one minute")
        return text
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", text) if isinstance(text, str) else None
    _demand(match is not None, 'reads "HH:MM:SS" or "D-HH:MM:SS", or whole minutes as a number')
    assert match is not None, "checked in the line above"
    days, hours, mins, seconds = (int(part or 0) for part in match.groups())
    return max(1, (days * 24 + hours) * 60 + mins + (seconds > 0))


OURS = {
    "array": "parallel, max_array", "output": "", "error": "", "signal": "signal_delay_s", "job-name": "",
    "comment": "", "chdir": "", "open-mode": "", "partition": "partition", "account": "account", "qos": "qos",
    "constraint": "constraint", "nodes": "nodes", "gpus-per-node": "gpus", "ntasks-per-node": "tasks",
    "cpus-per-task": "cpus", "mem": "mem_gb", "time": "time", "requeue": "requeue", "no-requeue": "requeue",
}  # fmt: skip
"""Options of sbatch that `extra` may not set, with the key of the profile that does."""


def _options(value: Any) -> dict[str, str | int | bool]:
    _demand(isinstance(value, dict), 'is a table of sbatch options, such as { mail-type = "FAIL" }')
    for name, content in value.items():
        _demand(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) is not None,
            f"{name!r} is no option of sbatch as it is written here: letters, digits, - and _, without the leading "
            'dashes and without the value, such as mail-type = "FAIL" for --mail-type=FAIL',
        )
        option = name.replace("_", "-")
        if option in OURS:
            key = OURS[option]
            _demand(False, f"may not set {name}: " + (f"the key {key} does" if key else "the runner does"))
        allowed = isinstance(content, str | int) and content is not False
        _demand(allowed, f"{name} is a text, a number, or true for an option without a value")
        _demand("\n" not in str(content), f"{name} is a text on one line")
    return dict(value)


KEYS: dict[str, Callable[[Any], Any]] = {
    "partition": _text, "account": _text, "qos": _text, "constraint": _text, "nodes": _count(1), "gpus": _count(0),
    "tasks": _count(1), "cpus": _count(1), "mem_gb": _gigabytes, "time": minutes, "parallel": _count(1),
    "modules": _lines, "setup": _lines, "env": _variables, "container": _text, "container_mounts": _lines,
    "container_command": _text, "srun": _lines, "python": _text, "signal_delay_s": _count(1), "requeue": _truth,
    "max_array": _count(1), "max_submitted": _count(1), "extra": _options,
}  # fmt: skip
"""How each key of a profile is read."""


class _Rule(ValueError):
    pass


def _demand(holds: bool, rule: str) -> None:
    if not holds:
        raise _Rule(rule)


def read_profile(path: Path, defaults: Path = DEFAULTS) -> Profile:
    """The profile at `path` over the defaults. Raises BadInput naming the file, the key, the value and the rule."""
    if not path.exists():
        raise BadInput(
            f"--cluster: there is no profile {path}; copy slurm/example.toml to slurm/cluster.toml and edit it"
        )
    said = _read(defaults) | _read(path)
    if "time" not in said:
        raise BadInput(f'{path}: time is missing, such as time = "08:00:00"; Slurm would stop a trial after 5 minutes')
    profile = Profile(**said)
    if profile.signal_delay_s >= profile.limit_s:
        raise BadInput(
            f"{path}: signal_delay_s, the warning before the time limit, is {profile.signal_delay_s} s and the limit "
            f"only {profile.limit_s} s; raise time, or lower signal_delay_s"
        )
    if profile.container and profile.container_command:
        raise BadInput(f"{path}: container (pyxis) and container_command (a prefix of python) exclude each other")
    if profile.container_mounts and not profile.container:
        raise BadInput(f"{path}: container_mounts is for container; with container_command, put the binds in there")
    return profile


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"--cluster: {path} cannot be read: {error}") from error
    found = {}
    for key, value in tree.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            cure = f"did you mean {near[0]}? " if near else "an option of sbatch without a key goes under [extra]. "
            raise BadInput(f"{path}: unknown key {key}: {cure}Keys: {', '.join(KEYS)}")
        try:
            found[key] = KEYS[key](value)
        except _Rule as rule:
            raise BadInput(f"{path}: {key} {rule}, got {value!r}") from None
    return found


assert KEYS.keys() == {entry.name for entry in fields(Profile)}, "every key of a profile is read in one way"
