"""How a trial ended, read from what it left: `DONE`, its status, and the last words of its process.

The run directory is believed first. Standard error is read for what the trainer could not write itself: it ran out
of memory, the disk was full, Python or a package was missing. The causes, with their cures, are in `sweeps.causes`.
"""

import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from saei import schema
from sweeps.causes import PARTNER, TOLD, Cause, cause_of
from sweeps.outcome import Kind, Outcome
from sweeps.trial import read_status, sealed_folder

_TAIL_BYTES = 64 * 1024
_STAMPED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) ", re.MULTILINE)
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^(?:[\w.]*\.)?(\w+): ?(.*)$")
_TASK = re.compile(r"^(.*_)\d+(_log\.err)$")
_FROM_OUTSIDE = {Kind.TIMED_OUT, Kind.PREEMPTED, Kind.NODE_FAILED, Kind.CANCELLED}
"""A run that wrote that it was interrupted was so for one of these reasons, where standard error names it."""
_LONGEST = 1000


def from_run_directory(
    trial_folder: Path, *, stderr: Path | None = None, exit_sentence: str = "", since: float = 0.0
) -> Outcome:
    """How the last process in `trial_folder` ended. For processes that are known to have ended; reads only.

    `stderr`: what it wrote there (of several tasks, the first one's file); `exit_sentence`: what the executor knows,
    such as "exit code 137" or a state of Slurm; `since`: when the process was started, in seconds of the epoch, so
    that the words of an earlier one are not taken for its own.
    """
    if sealed_folder(trial_folder) is not None:
        return Outcome(kind=Kind.FINISHED)
    status = read_status(trial_folder)
    if status.get("heartbeat", since) < since:
        status = {}
    words = _last_words(stderr, since)
    found = _judge(trial_folder, status, words, exit_sentence)
    if found.error == PARTNER and stderr is not None:
        found = _first_to_fall(found, stderr, exit_sentence, since)
    log = stderr if stderr is not None else trial_folder / schema.LOG_FILE
    return replace(found, log=str(log) if log.exists() else "")


def from_error(error: str, words: str = "") -> Outcome:
    """The outcome for an error "Type: message"; `words`: more text in which its cause may show, as the traceback."""
    line = _shortened(error)
    cause = cause_of(error, words) or cause_of(_spoken(words), words)
    told = TOLD.match(line)
    kind = cause.kind if cause else Kind.FAILED
    said, cure = line[told.end() :] if told else line, cause.cure if cause else ""
    if told and kind == Kind.OUT_OF_MEMORY:
        cure = "a setting that is lowered makes new trials: set it for the whole sweep (--set FIELD=N)"
    elif told and kind == Kind.DISK_FULL:
        cure = ""
    elif cause and not told:
        said = f"{cause.what}: {line}" if line and not line.lower().startswith(cause.what) else line or cause.what
    return Outcome(kind=kind, sentence=said, cure=cure, error=(cause and cause.name) or signature(error))


def signature(error: str) -> str:
    """The first line of an error without paths, numbers and ids, to tell whether two failed of the same cause."""
    first = next((line.strip() for line in error.splitlines() if line.strip()), "")
    first = re.sub(r"(?<![\w.])~?(?:/[^\s'\",;:)\]]+)+", "PATH", first)
    first = re.sub(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{6,}\b", "N", first)
    return re.sub(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", "N", first)[:200]


def _judge(folder: Path, status: dict[str, Any], words: str, exit_sentence: str) -> Outcome:
    state, message = status.get("state"), str(status.get("message") or "")
    dying = _after_its_log(words)
    if state == schema.FAILED and message:
        return from_error(message, dying)
    said = f"{_spoken(dying)}\n{exit_sentence}"
    outside = cause_of(said)
    if state == schema.INTERRUPTED:
        if outside is not None and outside.kind in _FROM_OUTSIDE:
            return Outcome(kind=outside.kind, sentence=f"{outside.what}; {message or 'interrupted'}", cure=outside.cure)
        return Outcome(kind=Kind.INTERRUPTED, sentence=message or "interrupted", cure="launch again: it continues")
    error = _raised(dying)
    if error:
        return from_error(error, f"{dying}\n{exit_sentence}")
    if outside is not None:
        return from_error(_line_of(outside, said), dying)
    if _is_full(folder):  # so full that it could not even say so
        return from_error(f"no space left where {folder} is")
    return _without_a_word(status, dying, exit_sentence)


def _is_full(folder: Path) -> bool:
    """Has its file system less than 64 KiB for us?"""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    try:
        found = os.statvfs(there) if there is not None else None
    except OSError:
        return False
    return found is not None and found.f_blocks > 0 and found.f_bavail * found.f_frsize < 64 * 1024


def _without_a_word(status: dict[str, Any], dying: str, exit_sentence: str) -> Outcome:
    ending = f" ({exit_sentence})" if exit_sentence else ""
    if not status:
        last = next((line.strip() for line in reversed(dying.splitlines()) if line.strip()), "")
        return Outcome(
            kind=Kind.NEVER_STARTED,
            sentence=f"it ended before the trainer began{ending}" + (f": {_shortened(last)}" if last else ""),
            cure="look into its log; on a cluster, at the setup lines and the python of the profile",
            error=f"never started: {signature(last or exit_sentence)}",
        )
    return Outcome(
        kind=Kind.KILLED,
        sentence=f"killed, probably by the system's out-of-memory killer or by a person{ending}",
        cure="launch again: it continues from its checkpoint; if it is killed again, give it more memory "
        "(mem_gb of the profile), or run fewer trials at a time (--jobs)",
        error="killed",
    )


def _spoken(text: str) -> str:
    """The lines that are no part of a traceback's frames: errors and what Slurm, the shell or the kernel said."""
    return "\n".join(line for line in text.splitlines() if line[:1].strip() and line != _TRACEBACK)


def _line_of(cause: Cause, text: str) -> str:
    """The line of `text` that names the cause, last first."""
    lines = [line.strip() for line in text.splitlines() if cause.pattern.search(line)]
    return lines[-1] if lines else ""


def _raised(text: str) -> str:
    """ "Type: message" of the last Python traceback in `text`, or ""."""
    _, found, after = text.rpartition(_TRACEBACK)
    if not found:
        return ""
    lines = after.splitlines()
    for number, line in enumerate(lines):
        if line[:1].strip() and (match := _RAISED.match(line)):
            rest = [more for more in lines[number + 1 :] if more.strip()][:3] if not match[2].strip() else []
            return " ".join([f"{match[1]}: {match[2]}".strip(), *rest])
        if line[:1].strip() and re.fullmatch(r"[\w.]+", line.strip()):
            return line.strip().rpartition(".")[2]  # an error without a message
    return ""


def _last_words(path: Path | None, since: float) -> str:
    """The end of a text file, without the lines that an earlier process wrote before `since`."""
    if path is None:
        return ""
    try:
        if path.stat().st_mtime < since:
            return ""
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    for match in reversed(list(_STAMPED.finditer(text))):
        if time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S")) < int(since):
            return text[match.end() :].partition("\n")[2]
    return text


def _after_its_log(text: str) -> str:
    """What follows the trainer's last own line: a process that dies says why there, and nothing else."""
    stamps = list(_STAMPED.finditer(text))
    return text[stamps[-1].end() :].partition("\n")[2] if stamps else text


def _first_to_fall(found: Outcome, stderr: Path, exit_sentence: str, since: float) -> Outcome:
    """One process of several lost its partner: what another one says of its own end, or else `found`."""
    match = _TASK.match(stderr.name)
    others = sorted(stderr.parent.glob(f"{match[1]}*{match[2]}")) if match else []
    for other in others:
        words = _after_its_log(_last_words(other, since))
        error = _raised(words)
        if other != stderr and error:
            said = from_error(error, words)
            if said.error != PARTNER:
                return replace(said, sentence=f"{said.sentence} (in {other.name})")
    return found


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
