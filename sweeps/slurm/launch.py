"""`run.py --on slurm`: the profile, what a dry run shows of it, and the watching runner with its words at the end."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweeps.budget import Budget
from sweeps.command import CLUSTER, Command
from sweeps.estimate import is_missing
from sweeps.live import Screen
from sweeps.outcome import Outcome
from sweeps.retry import Retries
from sweeps.slurm.drive import run_on_slurm
from sweeps.slurm.feed import chunks, max_array
from sweeps.slurm.profile import ROOT, Profile, read_profile
from sweeps.slurm.snapshot import snapshot_path
from sweeps.slurm.submit import demand_slurm
from sweeps.slurm.text import PLACEHOLDER, Batch, sbatch_text
from sweeps.source import Source
from sweeps.trial import Trial


def cluster_profile(command: Command) -> Profile:
    """The profile that the command names, with its `--jobs`. Raises BadInput, also where there is no Slurm to use."""
    path = command.cluster
    if command.dry_run and path == CLUSTER and not path.exists():
        path = ROOT / "slurm" / "example.toml"
        print(f"There is no {command.cluster} yet; this uses slurm/example.toml.")
    profile = read_profile(path)
    if not command.dry_run:
        demand_slurm()
    return replace(profile, parallel=command.jobs) if command.jobs else profile


def print_sbatch(profile: Profile, name: str, trials: Sequence[Trial], results: Path) -> None:
    """The exact text of every sbatch that the launch would call, but for the token that each call draws."""
    missing = [trial for trial in trials if is_missing(trial)]
    if not missing:
        return
    results = results.resolve()
    code = snapshot_path(results)
    arrays = chunks(len(missing), profile, max_array(profile))
    texts: dict[str, list[int]] = {}
    for number, (count, throttle) in enumerate(arrays, 1):
        batch = Batch(
            sweep=name, token=PLACEHOLDER, count=count, throttle=throttle, code=code, results=results,
            folder=Path.cwd(), threads=max(trial.config.threads for trial in missing),
        )  # fmt: skip
        texts.setdefault(sbatch_text(profile, batch), []).append(number)
    print(f"\n{PLACEHOLDER} stands for a word that is drawn at each submission.", end="")
    print(" Later arrays are submitted as the earlier ones leave room.\n" if len(arrays) > 1 else "\n")
    for text, numbers in texts.items():
        if len(arrays) > 1:
            shown = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
            print(f"## array {shown} of {len(arrays)}")
        print(text, end="")


def watch(
    command: Command, source: Source, profile: Profile, retries: Retries, budget: Budget | None, trainer: str
) -> dict[str, Outcome]:
    """Run what `source` gives as jobs. Returns what failed for good; Ctrl-C leaves the jobs running."""
    name = command.name
    jobs = profile.parallel or max(1, len(source.trials))
    try:
        with Screen(name, source, jobs) as screen:
            return run_on_slurm(
                source,
                screen,
                name=name,
                results=command.results,
                profile=profile,
                retries=retries,
                budget=budget,
                detach=command.detach,
                trainer=trainer,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the jobs go on; the same command watches them again, and python sweeps/run.py cancel {name} stops them"
        ) from None
