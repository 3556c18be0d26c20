"""What a run that did not finish leaves in its directory: how it ended, as far as that can still be written."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from saei import schema
from saei.checkpoint import checkpoints, read_cursor
from saei.exhausted import OutOfMemory, explained, remove_leftovers
from saei.recorder import Recorder


class Ending:
    """What is known about the run when it ends: set as it becomes known.

    `alarms` writes what the detectors say so far; `checkpoint_mb` is the expected size of a checkpoint.
    """

    def __init__(self) -> None:
        self.alarms: Callable[[], None] = lambda: None
        self.checkpoint_mb = 0.0


@contextmanager
def ending_told(recorder: Recorder) -> Iterator[Ending]:
    """Write how the run ended, if it did not finish. What ended it is raised, even where nothing can be written."""
    ending = Ending()
    try:
        yield ending
    except KeyboardInterrupt as interrupt:
        _tell(recorder, ending, schema.INTERRUPTED, str(interrupt) or "interrupted; run again to continue")
        raise
    except Exception as error:
        told = explained(error, recorder.config, checkpoint_mb=ending.checkpoint_mb)
        if told is not error and recorder.world.is_writer:
            remove_leftovers(recorder.folder)  # room for the few lines below
        message = str(told) if isinstance(told, OutOfMemory) else f"{type(told).__name__}: {told}"
        _tell(recorder, ending, schema.FAILED, message)
        if told is error:
            raise
        raise told from error


def kept_step(recorder: Recorder) -> int:
    """The step of the newest checkpoint: where the next launch continues."""
    found = checkpoints(recorder.folder / schema.CHECKPOINTS_FOLDER)
    return read_cursor(found[-1]).step if found else 0


def _tell(recorder: Recorder, ending: Ending, state: str, message: str) -> None:
    if not (recorder.folder / schema.CONFIG_FILE).exists():
        return  # it never began
    lines: tuple[Callable[[], None], ...] = (
        ending.alarms,
        lambda: recorder.status(state, step=kept_step(recorder), message=message),
        lambda: recorder.log(f"{state}: {message}"),
    )
    for write in lines:
        try:
            write()
        except Exception as error:
            print(f"{recorder.folder}: how the run ended could not all be written: {error}", file=sys.stderr)
