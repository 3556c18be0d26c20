"""Is a run ready to be queued? Checks of model, data, packing, sampler, attack, checkpoint, memory, disk and cluster.

    python -m saei.doctor --recipe recipes/geo3k-3b-saei.toml --gpus 8 --gpu-gb 80 --cluster slurm/cluster.toml
    python -m saei.doctor --preset saei --only packed sampler

Exit codes: 0 go on, 1 a check failed, 2 bad input.
"""

import sys

if __name__ == "__main__":
    from saei.loading import leave_quietly

    leave_quietly()

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saei.cli import BadInput, bad_input, run_main
from saei.options import train_command_line

COLOURS = {"pass": "green", "fail": "bold red", "not run": "yellow"}


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorCommand:
    """Checks before a run is queued. All flags of `python -m saei.train` may follow: they say which run."""

    only: tuple[str, ...] = ()
    """Make these checks only, e.g. `packed sampler`."""
    problems: Annotated[int, tyro.conf.arg(metavar="N")] = 4
    """Training problems that the model is tried on."""
    cluster: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Profile of the Slurm cluster (see slurm/README.md)."""
    gpus: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """GPUs that will share the run."""
    gpu_gb: Annotated[float | None, tyro.conf.arg(metavar="GIB")] = None
    """Memory of a GPU in GiB [the GPU that is here, or this machine's free memory]."""
    json: bool = False
    """Print the findings as JSON."""

    def __post_init__(self) -> None:
        for name in ("problems", "gpus"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.gpu_gb is not None and not self.gpu_gb > 0:
            raise ValueError(f"--gpu-gb must be above 0, got {self.gpu_gb}")


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    with bad_input():
        command, rest = tyro.cli(DoctorCommand, args=words, prog="python -m saei.doctor", return_unknown_args=True)
        config = train_command_line(rest, prog="python -m saei.doctor")
    if config is None:
        return 0
    import torch

    from saei.doctor import CHECKS, Patient
    from saei.doctor.examine import examine

    unknown = [name for name in command.only if name not in CHECKS]
    if unknown:
        raise BadInput(f"--only: there is no check {unknown[0]}; checks: {', '.join(CHECKS)}")
    torch.set_num_threads(config.threads)
    patient = Patient(
        config=config,
        problems_wanted=command.problems,
        cluster=command.cluster,
        processes=command.gpus,
        device_gb=command.gpu_gb,
    )
    findings = []
    console = Console(highlight=False, stderr=command.json)
    for finding in examine(patient, command.only or tuple(CHECKS)):
        findings.append(finding)
        if not command.json:
            console.print(Text(f"{finding.status:<7} ", style=COLOURS[finding.status]) + Text(finding.check))
    failures = [finding for finding in findings if finding.status == "fail"]
    if command.json:
        print(json.dumps({"go_on": not failures, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        console.print(_table(findings))
        counts = ", ".join(f"{sum(f.status == status for f in findings)} {status}" for status in COLOURS)
        console.print(f"{counts}: {'do not queue this run yet' if failures else 'go on'}")
    return 1 if failures else 0


def _table(findings: Sequence) -> Table:
    """One row a check; the cure below the figure of what failed."""
    table = Table(box=box.SIMPLE, show_lines=False)
    for column in ("check", "", "seen"):
        table.add_column(column, no_wrap=column != "seen", overflow="fold")
    for finding in findings:
        seen = finding.figure + (f"\n-> {finding.cure}" if finding.cure else "")
        table.add_row(finding.check, Text(finding.status, style=COLOURS[finding.status]), Text(seen))
    return table


if __name__ == "__main__":
    sys.exit(run_main(main))
