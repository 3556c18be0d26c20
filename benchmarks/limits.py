"""What every benchmark asks before it works for minutes: numbers that can be, and a file that can be written."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from saei.cli import BadInput, run_main

MAY_BE_ZERO = ("workers", "report_runs")
"""0 leaves a part out; every other number is a size, a count or a time."""
MAY_BE_EMPTY = ("only", "trl_options")


def check(settings: Any, *, out_is_folder: bool = False) -> None:
    """Raises BadInput for a number below 1 (seconds and other fractions: not above 0), an empty list, or an `out` that
    cannot be written; `settings` is the dataclass of a benchmark.
    """
    for field in fields(settings):
        value, flag = getattr(settings, field.name), "--" + field.name.replace("_", "-")
        if isinstance(value, tuple) and not value and field.name not in MAY_BE_EMPTY:
            raise BadInput(f"{flag} is empty: give at least one, or leave it out for {field.default}")
        for number in value if isinstance(value, tuple) else (value,):
            _check_number(flag, number, least=0 if field.name in MAY_BE_ZERO else 1)
    if settings.out:
        _check_out(Path(settings.out), out_is_folder)


def _check_number(flag: str, number: Any, least: int) -> None:
    if isinstance(number, float) and not number > 0:
        raise BadInput(f"{flag} must be above 0, got {number:g}")
    if isinstance(number, int) and not isinstance(number, bool) and number < least:
        raise BadInput(f"{flag} must be at least {least}, got {number}")


def _check_out(out: Path, is_folder: bool) -> None:
    if out.exists() and out.is_dir() != is_folder:
        kinds = ("a file, and the figures need a folder", "a folder, and the figures need a file")
        raise BadInput(f"--out {out} is {kinds[not is_folder]}: give another")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise BadInput(f"--out {out}: {above} is a file and can hold nothing: give a path below a folder")


def run_benchmark(main: Callable[[], int]) -> int:
    """`run_main`, with an interrupt told as what it is here: nothing is kept."""

    def told() -> int:
        try:
            return main()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; a benchmark that is started again begins anew") from None

    return run_main(told)
