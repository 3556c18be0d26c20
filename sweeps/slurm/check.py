"""Is a cluster profile valid? `python -m sweeps.slurm.check FILE`; where Slurm is, it is asked (sbatch --test-only).

Exit codes: 0 valid, 1 Slurm refuses it, 2 the file does.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from saei.cli import BadInput, run_main
from sweeps.slurm.profile import Profile, read_profile

WAIT_S = 30
NOBODY = r"could not establish a configuration source|unable to contact slurm controller|did not answer"
"""What sbatch says where there is no Slurm behind it."""


def main() -> int:
    if len(sys.argv) != 2:
        raise BadInput("python -m sweeps.slurm.check FILE takes one profile")
    path = Path(sys.argv[1])
    profile = read_profile(path)
    print(
        f"{path.name}: {profile.nodes} x {profile.gpus} GPUs, {profile.tasks_per_node} processes a node, "
        f"{profile.time} min, partition {profile.partition or 'of the site'};"
    )
    if not shutil.which("sbatch"):
        print("read only, sbatch is not here")
        return 0
    said = _asked(profile)
    if re.search(NOBODY, said, re.IGNORECASE):
        print("read only, Slurm does not answer here")
        return 0
    if said:
        print(f"error: sbatch --test-only refuses a job of this profile: {said}", file=sys.stderr)
        return 1
    print("sbatch --test-only takes a job of it")
    return 0


def _asked(profile: Profile) -> str:
    """What Slurm has against a job of this kind; "" nothing. No job is made."""
    options = {
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": profile.nodes,
        "gpus-per-node": profile.gpus,
        "ntasks-per-node": profile.tasks_per_node,
        "cpus-per-task": profile.cpus,
        "mem": f"{round(profile.mem_gb * 1024)}M" if profile.mem_gb else "",
        "time": profile.time,
    }
    given = [f"--{name}={value}" for name, value in options.items() if value]
    words = ["sbatch", "--test-only", *given, "--wrap", "true"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {WAIT_S} s"
    return done.stderr.strip() if done.returncode else ""


if __name__ == "__main__":
    sys.exit(run_main(main))
