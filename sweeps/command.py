"""The command line of `sweeps/run.py`: launching a sweep. The commands that only look are in `sweeps/commands/`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

N = tyro.conf.arg(metavar="N")
CLUSTER = Path("slurm/cluster.toml")


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Run a sweep, or what is missing of it, and end with its report.

    Other commands: run.py status [NAME] | logs TRIAL | why TRIAL | cancel NAME | diff TRIAL TRIAL; each has its --help.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Which sweep; --list shows them."""
    show_list: Annotated[bool, tyro.conf.arg(name="list")] = False
    """List the sweeps with their questions and arms."""
    dry_run: bool = False
    """Show the trials, the cost and (on Slurm) the sbatch text; run and write nothing."""
    on: Literal["local", "slurm"] = "local"
    """Worker processes on this machine, or jobs of a Slurm cluster."""
    seeds: Annotated[int | None, N] = None
    """Training seeds 0 to N-1 [the sweep's own number]."""
    steps: Annotated[int | None, N] = None
    """Steps of every trial [the sweep's own number]."""
    only: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="ARM")] = ()
    """Launch this arm; may be given several times."""
    jobs: Annotated[int | None, N] = None
    """Trials at a time [local: cores / threads; slurm: the profile's]."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Folder of all results."""
    settings: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="FIELD=VALUE")
    ] = ()
    """Change a setting of every trial, such as optim.lr=1e-4; may be given several times."""
    recipe: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Model, data and training settings of every trial, such as recipes/geo3k-7b-saei.toml; the arms say the method."""
    demo: bool = False
    """A few arms, two seeds, few steps: shows the machinery within minutes, no evidence."""
    cluster: Annotated[Path, tyro.conf.arg(metavar="FILE")] = CLUSTER
    """Profile of the Slurm cluster (see slurm/README.md)."""
    detach: bool = False
    """On Slurm: submit what fits now and return; the same command again goes on. Otherwise the runner stays, feeds
    the queue, submits again what was pre-empted, and ends with the report; Ctrl-C leaves the jobs running."""
    take_next: bool = False
    """Train the next missing trial in this process; what each task of slurm/array.sbatch does."""
    retry_failed: Annotated[int, N] = 0
    """Try a failed trial so many times more in this launch."""
    max_trials: Annotated[int | None, N] = None
    """Start at most so many trials in this launch."""
    max_gpu_hours: Annotated[float | None, tyro.conf.arg(metavar="HOURS")] = None
    """Start no trial that would take the sweep, with what it has spent, above so many GPU-hours (of a run without
    GPU: worker-hours)."""
    plan: bool = False
    """From the finished trials: the seeds and GPU-hours that --effect needs. Runs nothing."""
    effect: Annotated[float, tyro.conf.arg(metavar="POINTS")] = 2.0
    """For --plan: the difference in accuracy to be found, in percentage points."""
    sampler: Literal["tpe", "random"] = "tpe"
    """For a search: how Optuna chooses the next point."""
    points: Annotated[int | None, N] = None
    """For a search: points to try [the sweep's own number]."""
    storage: Annotated[str, tyro.conf.arg(metavar="URL")] = ""
    """For a search: an Optuna storage, such as sqlite:///search.db [a journal rebuilt from the results]."""
    no_report: bool = False
    """Leave out the report at the end."""

    def __post_init__(self) -> None:
        for field in ("seeds", "steps", "jobs", "max_trials", "points"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"--{field.replace('_', '-')} must be at least 1, got {value}")
        if self.retry_failed < 0:
            raise ValueError(f"--retry-failed must be 0 or more, got {self.retry_failed}")
        if self.max_gpu_hours is not None and not self.max_gpu_hours > 0:
            raise ValueError(f"--max-gpu-hours must be above 0, got {self.max_gpu_hours}")
        if not 0 < self.effect <= 100:
            raise ValueError(f"--effect is in percentage points, above 0 and at most 100, got {self.effect}")
        if self.detach and self.on != "slurm":
            raise ValueError("--detach is for --on slurm: local workers end with their runner")
        if self.cluster != CLUSTER and self.on != "slurm" and not self.plan:
            raise ValueError(f"--cluster {self.cluster} is for --on slurm: add it, or leave out --cluster")
        if self.take_next and self.on == "slurm":
            raise ValueError("--take-next trains in this process, a task of slurm/array.sbatch: leave out --on slurm")
