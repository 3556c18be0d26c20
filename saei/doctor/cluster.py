"""Is the Slurm profile valid, and does Slurm, where it is here, take a job of its kind?"""

import subprocess
import sys
from pathlib import Path

import saei
from saei.doctor.finding import Finding, NotHere, failed, passed
from saei.doctor.patient import Patient

ROOT = Path(saei.__file__ or "").resolve().parent.parent
WAIT_S = 60


def check_cluster(patient: Patient) -> Finding:
    if patient.cluster is None:
        raise NotHere("no profile given: --cluster slurm/cluster.toml")
    if not (ROOT / "sweeps" / "slurm").is_dir():
        raise NotHere(f"there is no sweeps/ beside {ROOT / 'saei'}: run it in the project's folder")
    # another process: nothing in saei knows of sweeps
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.slurm.check", str(patient.cluster.resolve())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    said = " ".join((done.stdout if done.returncode == 0 else done.stderr or done.stdout).split())
    if done.returncode:
        return failed(said.removeprefix("error: ")[-400:], "edit the profile; slurm/README.md explains every key")
    return passed(said)
