"""What the cluster path costs beside training: from the command to the first job, and from one trial to the next.

    python -m benchmarks.dispatch_time --cluster slurm/cluster.toml

Submits one-step trials of GRPO one at a time to a real Slurm, into a folder that is removed afterwards, and reads the
times that the jobs' own processes wrote.
"""

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import tyro

from saei.cli import BadInput, run_main

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "rollout.problems_per_step": 2,
    "rollout.max_new_tokens": 16,
    "eval.every": 0,
    "eval.problems": 1,
    "eval.samples": 1,
    "eval.test_problems": 1,
    "eval.shifted_problems": 0,
    "data.train_size": 16,
}
_STAMP = re.compile(r"submitit INFO \((\d+-\d+-\d+ \d+:\d+:\d+,\d+)\)")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    cluster: Path = Path("slurm/cluster.toml")
    """Profile of the Slurm cluster."""
    trials: int = 6
    """Trials, one after the other."""
    folder: Path = ROOT
    """Where the temporary results go; the nodes must see it."""


def main(arguments: list[str] | None = None) -> int:
    settings = tyro.cli(Settings, args=arguments, prog="python -m benchmarks.dispatch_time", description=__doc__)
    with tempfile.TemporaryDirectory(prefix="dispatch-", dir=settings.folder) as results:
        command = [sys.executable, "sweeps/run.py", "components", "--only", "grpo", "--steps", "1", "--no-report"]
        command += ["--seeds", str(settings.trials), "--jobs", "1", "--results", results]
        command += ["--on", "slurm", "--cluster", str(settings.cluster.resolve())]
        command += [f"--set={name}={value}" for name, value in SMALL.items()]
        launched = time.time()
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        if ended.returncode:
            raise BadInput(f"the launch ended with code {ended.returncode}; its words are above")
        spans = sorted(_span(log) for log in Path(results).glob("components/.jobs/**/*_log.out"))
        whole = time.time() - launched
    gaps = [later - end for (_, end), (later, _) in pairwise(spans)]
    print(f"command to the first job's first word: {spans[0][0] - launched:.1f} s")
    print(f"a job's last word to the next one's first: median {median(gaps):.1f} s, at most {max(gaps):.1f} s")
    step = median(end - start for start, end in spans)
    print(f"a job of one step: median {step:.1f} s; all {len(spans)} with the command: {whole:.1f} s")
    return 0


def _span(log: Path) -> tuple[float, float]:
    """First and last time in a job's log, in seconds."""
    stamps = [datetime.strptime(found, "%Y-%m-%d %H:%M:%S,%f").timestamp() for found in _STAMP.findall(log.read_text())]
    return stamps[0], stamps[-1]


if __name__ == "__main__":
    sys.exit(run_main(main))
