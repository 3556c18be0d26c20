"""What tests do to the real Slurm that `lab.sh` started: look at its jobs, disturb them, wait for conditions."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
SCRIPT = Path(__file__).with_name("lab.sh")
CPUS, GPUS = 8, 4


class DidNotStart(RuntimeError):
    """The lab's daemons did not come up; the text holds the ends of their logs."""


def wait_for(condition: Callable[[], T], what: str | Callable[[], str], seconds: float = 60.0) -> T:
    """Poll until `condition()` is true and return it; fail with `what` was waited for after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)
    return found


@dataclass(frozen=True, slots=True)
class Lab:
    """A running one-node Slurm: 8 declared CPUs, 4 fake GPUs, partitions `main`, `low`, `cancel` (see lab.sh).

    `environment`: what a process needs to talk to it, and the knobs it was started with.
    """

    root: Path
    environment: dict[str, str]

    @classmethod
    def start(cls, **knobs: str) -> "Lab":
        """Start a lab of its own in a short folder under /tmp; `knobs` as `SLURM_LAB_ACCT="dbd"`.

        Raises DidNotStart.
        """
        root = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))  # unix sockets: a path ends at 108 bytes
        own = {
            "SLURM_LAB": str(root),
            "SLURM_LAB_PORT": str(_three_free_ports()),
            "SLURM_LAB_OWNER": str(os.getpid()),
            "SLURM_CONF": str(root / "etc" / "slurm.conf"),
            **knobs,
        }
        lab = cls(root, own)
        try:
            lab.script("start")
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = f"{error}\n{error.stdout or ''}{error.stderr or ''}\n{lab.log_tails()}"
            lab.stop()
            raise DidNotStart(said) from None
        return lab

    def stop(self) -> None:
        """Stop every daemon and remove the folder."""
        self.script("wipe", check=False)

    def script(self, word: str, *, check: bool = True) -> str:
        """lab.sh with this lab's settings; returns what it printed."""
        return subprocess.run(
            ["bash", str(SCRIPT), word],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=check,
        ).stdout

    def run(self, *words: str) -> str:
        """A Slurm command, such as run("scancel", "12_3"); returns its output. Raises with its message."""
        ended = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=30, check=False
        )
        assert ended.returncode == 0, f"{' '.join(words)}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def log_tails(self, characters: int = 1500) -> str:
        """The ends of the daemons' logs."""
        logs = sorted(self.root.glob("log/*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-characters:]}" for log in logs)

    # --- looking -------------------------------------------------------------------------------------------------

    def jobs(self, field: str = "%T") -> dict[str, str]:
        """A squeue field of every job and array task, ended ones too: {"12": ..., "13_0": ...}. %T state, %r reason."""
        lines = self.run("squeue", "-h", "-r", "-t", "all", "-o", f"%i|{field}").splitlines()
        return dict(line.split("|", 1) for line in lines)

    def state(self, job: str) -> str:
        """RUNNING, PENDING, COMPLETED ... or "" for a job that Slurm does not know."""
        return self.jobs().get(job, "")

    def living(self) -> dict[str, str]:
        """State of the jobs that have not ended."""
        alive = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "SIGNALING", "REQUEUED")
        return {job: state for job, state in self.jobs().items() if state in alive}

    def submitted(self) -> int:
        """How many jobs and array tasks this Slurm was ever given."""
        return len(self.jobs())

    def wait_for_state(self, job: str, *states: str, seconds: float = 60.0) -> str:
        """Wait until the job is in one of the states."""
        wait_for(lambda: self.state(job) in states, f"{job} to be {' or '.join(states)}", seconds)
        return self.state(job)

    # --- disturbing ----------------------------------------------------------------------------------------------

    def sbatch(self, script: str, *options: str) -> str:
        """Submit shell lines as a job of a test; returns its id."""
        return self.run("sbatch", "--parsable", "-o", "/dev/null", *options, "--wrap", script).strip()

    def preempt(self, gpus: int = GPUS, seconds: float = 1.0) -> str:
        """A job in `main` that needs so many GPUs: jobs of `low` and `cancel` that hold them have to go."""
        return self.sbatch(f"sleep {seconds}", "-p", "main", f"--gpus-per-node={gpus}", "-J", "important")

    def warn(self, job: str) -> None:
        """The warning signal, as ahead of a time limit or a pre-emption."""
        self.run("scancel", "--signal=USR2", job)

    def restart_controller(self) -> None:
        """slurmctld ends with TERM, which saves its state, and starts again; jobs run on."""
        self.script("restart-controller")

    def node_down(self) -> None:
        self.run("scontrol", "update", "nodename=n0", "state=down", "reason=test")

    def node_resume(self) -> None:
        self.run("scontrol", "update", "nodename=n0", "state=resume")

    def clean(self) -> None:
        """End every job and make the node usable again."""
        living = self.living()
        for held in [job for job, reason in self.jobs("%r").items() if "held" in reason.lower() and job in living]:
            self.run("scancel", held)
        if self.living():
            user = ["-u", str(os.getuid())]
            # pending ones first, or they start as the others die; submitit's jobs ignore TERM but not ALRM
            for options in (["-t", "PENDING"], ["--signal=ALRM"], []):
                subprocess.run(["scancel", "--quiet", *user, *options], env={**os.environ, **self.environment})
            wait_for(lambda: not self.living(), f"all jobs to end: {self.living()}", 30)
        state = self.run("sinfo", "-h", "-p", "main", "-o", "%t").strip()
        if state.rstrip("*") != "idle":
            if "drain" in state or "down" in state:
                self.node_resume()
            wait_for(lambda: self.run("sinfo", "-h", "-p", "main", "-o", "%t").strip() == "idle", "an idle node", 30)


def status(folder: Path) -> dict[str, Any]:
    """The `status.json` of a run directory, or {}."""
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def kill_trainer(folder: Path) -> int:
    """SIGKILL the process that trains in this run directory; returns its process id."""
    process: int = wait_for(lambda: status(folder).get("pid", 0), f"a trainer in {folder}")
    os.kill(process, signal.SIGKILL)
    return process


def _three_free_ports() -> int:
    """The first of three free ports in a row, from a place that depends on this process: labs may start together."""
    for base in range(20000 + os.getpid() * 10 % 10000, 32000, 10):
        try:
            for port in range(base, base + 3):
                with socket.socket() as listener:
                    listener.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise DidNotStart("no three free TCP ports in a row between 20000 and 32000")
