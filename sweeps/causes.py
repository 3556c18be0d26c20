"""Known causes of a trial's end: the words by which each is known, and what to do. The first that fits is taken."""

import re
from dataclasses import dataclass

from sweeps.outcome import Kind

PARTNER = "a partner of several processes ended"
READ_ONLY = "read-only folder"
NO_PYTHON = "python or a package is missing"
NO_MODEL = "the model is not there"
NO_PROBLEMS = "the problems are not there"


@dataclass(frozen=True, slots=True)
class Cause:
    """`name` is its signature (Outcome.error); "": the error's own first line tells trials apart.

    `frame`: it fits only where this is in the traceback.
    """

    pattern: re.Pattern[str]
    kind: Kind
    what: str
    cure: str = ""
    name: str = ""
    frame: re.Pattern[str] | None = None


def _cause(pattern: str, kind: Kind, what: str, cure: str = "", name: str = "", frame: str = "") -> Cause:
    return Cause(re.compile(pattern, re.MULTILINE), kind, what, cure, name, re.compile(frame) if frame else None)


def cause_of(said: str, traceback: str = "") -> Cause | None:
    """The known cause that `said`, an error or lines of a log, names; `traceback` tells where it happened."""
    fits = (cause for cause in CAUSES if cause.pattern.search(said))
    return next((cause for cause in fits if cause.frame is None or cause.frame.search(traceback)), None)


_SAMPLING = "--set rollout.batch_rows=N (completions decoded at a time, 96 by default)"
_PACKED = "--set optim.pack_tokens=N (tokens of one forward pass in attacks and updates, 6144 by default)"
_NEW_TRIALS = "results change by rounding only, but the trials are new ones, so set it for the whole sweep"
_GPU_FULL = r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"

TOLD = re.compile(r"^(?:(?:OutOfMemory|DiskFull|DiskFailed|BadInput|ProcessLost): |(?=out of memory))")
"""Beginnings of errors that the trainer has put in plain words, mostly with what to do."""

CAUSES: tuple[Cause, ...] = (
    _cause(
        _GPU_FULL, Kind.OUT_OF_MEMORY, "out of memory", f"the GPU was full while sampling: lower {_SAMPLING}; "
        f"{_NEW_TRIALS}", "out of GPU memory", frame=r"File \"[^\"]*saei/(?:sampler|decoder)\.py",
    ),
    _cause(
        _GPU_FULL, Kind.OUT_OF_MEMORY, "out of memory",
        f"the GPU was full: lower {_PACKED} or {_SAMPLING}; {_NEW_TRIALS}; on a GPU that others use too, wait or take "
        "another (CUDA_VISIBLE_DEVICES)", "out of GPU memory",
    ),
    _cause(
        r"MemoryError|DefaultCPUAllocator|[Cc]annot allocate memory|oom[-_ ]?kill|OOM Killed|Out Of Memory"
        r"|OUT_OF_MEMORY|std::bad_alloc|^(?:\w+: )?out of memory",
        Kind.OUT_OF_MEMORY, "out of memory",
        "raise mem_gb in the cluster profile (on this machine: fewer trials at a time, --jobs), or lower "
        f"{_PACKED} or {_SAMPLING}; {_NEW_TRIALS}", "out of memory of the machine",
    ),
    _cause(
        r"DiskFull|[Nn]o space left|\[Errno 28\]|Disk quota exceeded|\[Errno 122\]|ENOSPC|EDQUOT",
        Kind.DISK_FULL, "the disk is full",
        "free some space (du -sh results/*) or ask for more quota, then give the same command again: it continues from "
        "the last checkpoint; fewer checkpoints need less, --set checkpoint.keep=1", "disk full",
    ),
    _cause(
        r"Read-only file system|\[Errno 30\]|EROFS", Kind.FAILED, "the folder cannot be written",
        "make the results folder writable, or name another by --results", READ_ONLY,
    ),
    _cause(
        r"execve\(\): .*(?:No such file|Not a directory|[Pp]ermission denied|Exec format error)", Kind.NEVER_STARTED,
        "the node cannot start the interpreter",
        "correct python in the cluster profile: a path that the nodes see, or a name that the setup lines (setup, "
        "modules, container_command) put on PATH; then launch again", NO_PYTHON,
    ),
    _cause(
        r"PermissionError|\[Errno 13\]|[Pp]ermission denied", Kind.FAILED, "permission was denied",
        "make the results folder writable for you, or name another by --results; a cluster's nodes must see it too",
        READ_ONLY,
    ),
    _cause(r"^KeyboardInterrupt", Kind.INTERRUPTED, "interrupted", "launch again: it continues from its checkpoint"),
    _cause(r"RunBusy|is being written by another process", Kind.BUSY, "another process has this run"),
    _cause(
        r"DUE TO TIME LIMIT|DUE TO JOB TIME LIMIT|\bTIMEOUT\b", Kind.TIMED_OUT, "its time limit was reached",
        "launch again: it continues from its checkpoint; a longer time in the profile needs fewer launches",
    ),
    _cause(r"DUE TO PREEMPTION|\bPREEMPTED\b", Kind.PREEMPTED, "pre-empted", "launch again: it continues"),
    _cause(
        r"DUE TO NODE FAILURE|\bNODE_FAIL\b|\bBOOT_FAIL\b", Kind.NODE_FAILED, "its node failed",
        "launch again: it continues from its checkpoint",
    ),
    _cause(
        r"\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*|^CANCELLED\b", Kind.CANCELLED, "cancelled by a person",
        "launch again: it continues from its checkpoint",
    ),
    _cause(
        r"ModuleNotFoundError|ImportError|No module named|module: command not found|Lmod has detected"
        r"|Unable to locate a modulefile|python[\d.]*: (?:command )?not found|python[^:\n]*: No such file or directory",
        Kind.NEVER_STARTED, "Python, a package or a module is missing",
        "look at python and setup in the cluster profile, and try the setup lines by hand on a node (srun --pty bash); "
        "here, install the project again "
        "(pip install -e .)", NO_PYTHON,
    ),
    _cause(
        r"torch sees 0 GPUs|[Nn]o CUDA GPUs are available|Found no NVIDIA driver|no CUDA-capable device"
        r"|CUDA_ERROR_NO_DEVICE", Kind.FAILED, "no GPU is visible",
        "ask for one in the cluster profile (gpus = 1) and look with nvidia-smi on the node, or --set model.device=cpu",
        "no GPU",
    ),
    _cause(
        r"huggingface\.co|LocalEntryNotFoundError|OfflineModeIsEnabled|HF_HUB_OFFLINE|RepositoryNotFound",
        Kind.FAILED, "the model could not be fetched",
        "download it where there is a network (hf download Org/Name) and name that folder by --set model.path=...; "
        "nodes of a cluster often have no network", "the model could not be fetched",
    ),
    _cause(
        r"model\.path", Kind.FAILED, "the model cannot be used",
        "name the folder of a policy or a hub id by --set model.path=...; a node must see the folder too", NO_MODEL,
    ),
    _cause(
        r"data\.path|eval\.transfer", Kind.FAILED, "the problems cannot be read",
        "correct the path (--set data.path=...), absolute and visible from every node", NO_PROBLEMS,
    ),
    _cause(
        r"ProcessLost|NCCL|ncclSystemError|DistBackendError|[Gg]loo|ProcessGroup|TCPStore"
        r"|Connection (?:reset|closed) by peer",
        Kind.FAILED, "another process of this trial ended or could not be reached",
        "look at the logs of its other tasks (..._1_log.err); for NCCL's own errors, NCCL_DEBUG=INFO in the profile's "
        "env says more", PARTNER,
    ),
    _cause(
        r"DiskFailed|[Ii]nput/output error|\[Errno 5\]|Stale file handle|\[Errno 116\]|Transport endpoint",
        Kind.FAILED, "the file system failed", "launch again; if it comes back, tell those who run the file system",
    ),
)  # fmt: skip
