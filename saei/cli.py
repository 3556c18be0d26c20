"""What the command lines share: parsing by tyro before anything heavy is loaded, and the exit codes.

Exit codes: 0 done, 2 bad input, 130 interrupted, 1 anything else.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import tyro

from saei.loading import loaded

SettingsT = TypeVar("SettingsT")


class BadInput(ValueError):
    """Input that a user can mend: a setting, a file, a name. Shown as a sentence, exit code 2."""


class Told(RuntimeError):
    """What went wrong outside of the program, in a sentence that needs no traceback; exit code 1."""


def checked_command_line(
    of: type[SettingsT], arguments: Sequence[str] | None, *, prog: str, default: SettingsT | None = None
) -> SettingsT:
    """Parse into a settings dataclass; tyro prints errors that name the setting and leaves with code 2."""
    options = {} if default is None else {"default": default}
    try:
        return tyro.cli(of, args=arguments, prog=prog, **options)  # pyright: ignore[reportCallIssue, reportArgumentType]
    except ValueError as error:
        raise BadInput(str(error)) from error


@contextmanager
def bad_input() -> Iterator[None]:
    """Around loading what the user named: a ValueError or a missing file there is the user's to mend."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise BadInput(str(error)) from error


def run_main(main: Callable[[], int]) -> int:
    """Run a command and turn how it ended into an exit code."""
    loaded()
    try:
        return main()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:  # with words of its own where it has any
        said = str(interrupt) or "interrupted; the same command continues from the last checkpoint"
        print(said, file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough; what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Told as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
