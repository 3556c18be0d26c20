# ruff: noqa: E402 (the path is set before our own imports)
"""Run a sweep: `python sweeps/run.py tsec_ratio`. What is finished is not run again; Ctrl-C stops cleanly.

Exit codes: 0 done, 2 bad input, 130 interrupted, 1 anything else (a trial or the report failed).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # `sweeps` is a package; its folder itself must not be on the path

from saei.cli import BadInput, bad_input, checked_command_line, run_main
from sweeps.command import Command
from sweeps.commands import COMMANDS, run_command
from sweeps.definition import (
    DEMO,
    DEMO_NOTE,
    DEMO_SEEDS,
    Sweep,
    arm_config,
    load_sweep,
    parse_setting,
    select_arms,
    sweep_names,
)

TRAINER = "saei.train:train"


def main(arguments: Sequence[str] | None = None, *, trainer: str = TRAINER) -> int:
    """The command. `trainer` ("module:function") is what local workers call with a trial's config."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:])
    command = checked_command_line(Command, words, prog="python sweeps/run.py")
    if command.show_list:
        _list_sweeps()
        return 0
    with bad_input():
        sweep = load_sweep(command.name)
        arms = select_arms(sweep, command.only, demo=command.demo)
        settings = dict(DEMO) if command.demo else {}
        settings |= dict(parse_setting(text) for text in command.settings)
        settings |= {"steps": command.steps} if command.steps else {}
        seeds = command.seeds or (DEMO_SEEDS if command.demo else sweep.seeds)
        for arm in arms:  # refuses bad combinations before anything heavy is loaded
            arm_config(sweep, arm, 0, settings)
    return _launch(command, sweep, arms, range(seeds), settings, trainer)


def _launch(
    command: Command, sweep: Sweep, arms: Sequence[str], seeds: range, settings: dict[str, Any], trainer: str
) -> int:
    from sweeps import cluster, estimate  # from here on torch, Optuna and submitit are loaded
    from sweeps.plan import make_trials, write_plan
    from sweeps.trial import settle

    with bad_input():
        trials = make_trials(command.name, sweep, arms, seeds, settings, command.results)
    folder = command.results.resolve() / command.name
    threads = trials[0].config.threads
    jobs = command.jobs or max(1, len(os.sched_getaffinity(0)) // threads)
    on_slurm = command.on == "slurm"
    profile: dict[str, Any] = {}
    if on_slurm:
        path = command.cluster
        if command.dry_run and path == Path("slurm/cluster.toml") and not path.exists():
            path = ROOT / "slurm" / "example.toml"
            print(f"There is no {command.cluster} yet; this uses slurm/example.toml.")
        profile = cluster.read_profile(path)
        jobs = command.jobs or profile.get("parallel") or len(trials)

    if command.dry_run:
        print(f"{command.name}: {sweep.question}\nsettings: {estimate.describe(settings)}")
        estimate.print_table(estimate.trial_table(trials))
        print(estimate.cost_line(trials, command.results, jobs))
        missing = sum(estimate.is_missing(trial) for trial in trials)
        if on_slurm and missing:
            print("\n" + cluster.sbatch_text(profile, command.name, missing, folder / ".jobs", command.jobs), end="")
        return 0
    if not on_slurm:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--results {command.results} cannot be written ({error.strerror}); name another") from error
    missing = [trial for trial in trials if estimate.is_missing(trial)]
    submitted: list[str] = []
    if on_slurm and missing:
        submitted = cluster.submit(missing, profile, command.name, folder / ".jobs", command.jobs)
    write_plan(command.name, sweep, trials, settings, command.results, DEMO_NOTE if command.demo else "")
    if on_slurm:
        for trial in trials:
            settle(trial)  # a local launch does it in its queue
        _show_as_running(command.name, folder, trials, missing)
        print(f"submitted {len(submitted)} of {len(trials)} trials: {' '.join(submitted) or 'the rest is finished'}")
        return 0
    failed = _run_here(command, trials, jobs, folder, trainer)
    report_failed = not command.no_report and not _report(command)
    return 1 if failed or report_failed else 0


def _show_as_running(name: str, folder: Path, trials: Sequence[Any], submitted: Sequence[Any]) -> None:
    """Ask the study for what was submitted: it runs there until a later launch reads how it ended."""
    from sweeps.study import SweepStudy

    with SweepStudy(name, folder, trials) as study:
        for trial in submitted:
            study.ask(trial)
        study.hand_over()


def _run_here(command: Command, trials: Sequence[Any], jobs: int, folder: Path, trainer: str) -> dict[str, str]:
    """Run the queue; SIGTERM ends it like Ctrl-C. Returns the failed trials with the reasons."""
    from sweeps.live import Screen
    from sweeps.local import run_local
    from sweeps.study import SweepStudy

    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with SweepStudy(command.name, folder, trials) as study, Screen(command.name, trials, jobs) as screen:
            failed = run_local(trials, study, screen, jobs=jobs, logs=folder / ".jobs", trainer=trainer)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{command.name}: {len(trials) - len(failed)} of {len(trials)} trials are finished in {folder}")
    for trial in trials:
        if trial.trial_id in failed:
            print(f"failed: {trial.arm} seed {trial.seed}, {trial.folder}", file=sys.stderr)
    return failed


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _report(command: Command) -> bool:
    """Build the report in a process of its own; it prints its path. A failure there loses nothing."""
    arguments = [sys.executable, "-m", "analysis.report", command.name, "--results", str(command.results.resolve())]
    print("building the report ...", flush=True)
    ended = subprocess.run(arguments, cwd=ROOT, check=False)
    if ended.returncode:
        print(
            f"the report failed (exit code {ended.returncode}); the sweep's results are safe, and this makes it again: "
            f"python -m analysis.report {command.name} --results {command.results}",
            file=sys.stderr,
        )
    return ended.returncode == 0


def _list_sweeps() -> None:
    for name in sweep_names():
        sweep = load_sweep(name)
        arms = ", ".join(f"{arm} (on request)" if arm in sweep.on_request else arm for arm in sweep.arms)
        print(f"{name}\n  {sweep.question}\n  {sweep.seeds} seeds; arms: {arms}")


if __name__ == "__main__":
    sys.exit(run_main(main))
