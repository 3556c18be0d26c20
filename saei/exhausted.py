"""Memory or disk that ran out, in a sentence that says what to lower or free, in place of a library's own words."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from saei import schema
from saei.cli import BadInput, Told
from saei.config import Config

MEGABYTE = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAILED = (errno.EIO, errno.ESTALE)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|DefaultCPUAllocator|std::bad_alloc"
)
_SAMPLING = {"sampler.py", "decoder.py", "draw.py"}
_PACKED = {"scoring.py", "packing.py", "update.py", "evidence.py", "make_view.py"}


class DiskFull(Told):
    """Nothing more can be written: no space, or the quota is used up."""


class DiskFailed(Told):
    """The file system does not do what it is asked for."""


class OutOfMemory(Told):
    """The GPU or the machine has too little memory for these settings."""


def explained(error: Exception, config: Config, *, checkpoint_mb: float = 0.0) -> Exception:
    """`error` in plain words where it is about space, or itself.

    `checkpoint_mb` is the expected size of a checkpoint, for a run that has none yet.
    """
    if isinstance(error, BadInput | DiskFull | DiskFailed | OutOfMemory):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _MEMORY.search(str(error)):
        return OutOfMemory(_of_memory(error, config))
    folder = Path(config.out)
    number, place = next(_troubles(error, folder), (0, folder))
    if number == 0:
        return error
    if number in _READ_ONLY:
        return BadInput(
            f"out: {folder} cannot be written ({_words(number)}): make it writable, or choose another --out (of a "
            "sweep: another --results)"
        )
    step, size = _newest_checkpoint(folder)
    goes_on = f"then the same command continues from step {step}"
    if number in _FULL:
        size = size or checkpoint_mb
        needs = f" (needs about {max(1, round(size))} MB a checkpoint)" if size else ""
        quota = " or ask for more quota" if number == errno.EDQUOT else ""
        return DiskFull(f"no space left on {place}{needs}: free some{quota}, {goes_on}")
    return DiskFailed(f"{place} fails ({_words(number)}): have its file system looked at, {goes_on}")


@contextmanager
def in_plain_words(config: Config) -> Iterator[None]:
    """Raise what is raised inside as `explained` has it."""
    try:
        yield
    except Exception as error:
        told = explained(error, config)
        if told is error:
            raise
        raise told from error


def _newest_checkpoint(folder: Path) -> tuple[int, float]:
    """Its step and its size in MB; zeros where there is none."""
    found = sorted((folder / schema.CHECKPOINTS_FOLDER).glob("step-*"))
    if not found:
        return 0, 0.0
    size = sum(path.stat().st_size for path in found[-1].iterdir())
    return int(found[-1].name.removeprefix("step-")), size / MEGABYTE


def remove_leftovers(folder: Path) -> None:
    """Delete what interrupted writes left in a run directory, and an unsealed run's model: all is written again."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if not (folder / schema.DONE_FILE).exists():
        for made_last in (schema.MODEL_FOLDER, schema.ADAPTER_FOLDER):
            shutil.rmtree(folder / made_last, ignore_errors=True)


def _troubles(error: BaseException, folder: Path) -> Iterator[tuple[int, Path]]:
    """The errno of the error and of those behind it, and where, if they are about space; some libraries hide theirs."""
    behind: BaseException | None = error
    while behind is not None:
        number, place = 0, folder
        if isinstance(behind, OSError):
            number = behind.errno or 0
            if isinstance(behind.filename, str) and not Path(behind.filename).is_relative_to(folder):
                place = Path(behind.filename).parent
        elif told := re.search(r"os error (\d+)", str(behind)):  # safetensors
            number = int(told[1])
        if number in (*_FULL, *_FAILED) or (number in _READ_ONLY and place == folder):
            yield number, place
        behind = behind.__cause__ or behind.__context__


def _words(number: int) -> str:
    return os.strerror(number).lower()


def _of_memory(error: Exception, config: Config) -> str:
    """Which settings to lower, by what was going on."""
    rows, tokens = config.rollout.batch_rows, config.optim.pack_tokens
    sampling = (
        f"rollout.batch_rows (now {rows}: completions decoded at a time, each with its cache of up to "
        f"{config.rollout.max_new_tokens} tokens), such as {max(1, rows // 2)}"
    )
    packed = (
        f"optim.pack_tokens (now {tokens}: tokens of one forward and backward pass in attacks, scoring and updates), "
        f"such as {max(256, tokens // 2)}"
    )
    files = {Path(frame.f_code.co_filename).name for frame, _ in walk_tb(error.__traceback__)}
    doing, lower = "", f"{packed}, or {sampling}"
    if files & _SAMPLING:
        doing, lower = " while sampling", sampling
    elif files & _PACKED:
        doing, lower = " in attack, scoring or update", packed
        if not config.model.gradient_checkpointing:
            lower = f"the memory of a pass with --model.gradient-checkpointing (the same trial goes on), or {packed}"
    own = str(error).strip().splitlines()
    said = f" ({own[0].strip()[:200]})" if own else ""
    return (
        f"out of memory{doing}{said}: lower {lower}; slower, and the same numbers up to rounding, but a trial of its "
        "own. Or give it more memory: a larger GPU, mem_gb of the cluster profile, fewer trials at a time"
    )
