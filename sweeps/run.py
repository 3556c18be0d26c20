# ruff: noqa: E402 (the path is set before our own imports)
"""Run a sweep: `python sweeps/run.py tsec_ratio`. What is finished is not run again; Ctrl-C stops cleanly.

Exit codes: 0 done, 2 bad input, 130 interrupted, 1 anything else (a trial or the report failed).
"""

import os
import signal
import sys


def _leave(*_: object) -> None:
    """Ctrl-C while everything is still being imported: nothing has begun, and an import would show a traceback."""
    os._exit(130)


if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # `sweeps` is a package; its folder itself must not be on the path

from saei.cli import BadInput, bad_input, checked_command_line, run_main
from saei.loading import uncollected
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
from sweeps.on_recipe import on_recipe
from sweeps.search_launch import (
    best_line,
    checked_search,
    describe_search,
    is_search,
    open_source,
    take_next_of_search,
)

if TYPE_CHECKING:
    from sweeps.budget import Budget
    from sweeps.outcome import Outcome
    from sweeps.retry import Retries
    from sweeps.source import Source

TRAINER = "saei.train:train"


def main(arguments: Sequence[str] | None = None, *, trainer: str = TRAINER) -> int:
    """The command. `trainer` ("module:function") is what local workers call with a trial's config."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        _hear_ctrl_c()
        return run_command(words[0], words[1:])
    command = checked_command_line(Command, words, prog="python sweeps/run.py")
    if command.show_list:
        _list_sweeps()
        return 0
    with bad_input():
        sweep = load_sweep(command.name)
        sweep = on_recipe(sweep, command.recipe) if command.recipe else sweep
        settings = dict(DEMO) if command.demo else {}
        settings |= dict(parse_setting(text) for text in command.settings)
        settings |= {"steps": command.steps} if command.steps else {}
        sweep = checked_search(command, sweep, settings)
        arms = select_arms(sweep, command.only, demo=command.demo)
        seeds = command.seeds or (DEMO_SEEDS if command.demo else sweep.seeds)
        for arm in arms:  # refuses bad combinations before anything heavy is loaded
            arm_config(sweep, arm, 0, settings)
    from sweeps.ending import NoSpace, writes_to

    try:
        with writes_to(command.results):
            return _launch(command, words, sweep, arms, range(seeds), settings, trainer)
    except NoSpace as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _launch(
    command: Command,
    words: Sequence[str],
    sweep: Sweep,
    arms: Sequence[str],
    seeds: range,
    settings: dict[str, Any],
    trainer: str,
) -> int:
    with uncollected():
        from sweeps import estimate  # from here on torch, Optuna and submitit are loaded
        from sweeps.materials import refuse_missing_models
        from sweeps.plan import launch_command, make_trials, plan_sentences, write_plan
        from sweeps.retry import Retries
        from sweeps.slurm import launch

    with bad_input():
        trials = make_trials(command.name, sweep, arms, seeds, settings, command.results)
        refuse_missing_models(trials)
    _hear_ctrl_c()
    folder = command.results.resolve() / command.name
    threads = trials[0].config.threads
    jobs = command.jobs or max(1, len(os.sched_getaffinity(0)) // threads)
    looks = replace(command, dry_run=command.dry_run or command.plan)
    profile = launch.cluster_profile(looks) if command.on == "slurm" else None
    jobs = (profile.parallel or len(trials)) if profile else jobs
    gpus = profile.gpus_per_trial if profile else estimate.local_gpus(trials[0].config.model.device)
    processes = profile.nodes * profile.tasks_per_node if profile else 1

    if command.dry_run:
        print(f"{command.name}: {sweep.question}\nsettings: {estimate.describe(settings)}")
        estimate.print_table(estimate.trial_table(trials))
        on_slurm = profile is not None
        print(estimate.cost_line(trials, command.results, jobs, gpus=gpus, on_slurm=on_slurm, processes=processes))
        if is_search(command, sweep):
            print(describe_search(command, sweep, seeds, settings, jobs))
        if profile:
            launch.print_sbatch(profile, command.name, trials, command.results)
        return 0
    if command.plan:
        from sweeps.power import print_plan

        with bad_input():
            print_plan(command, sweep, trials, jobs, gpus=gpus, processes=processes)
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--results {command.results} cannot be written ({error.strerror}); name another") from error
    with bad_input():
        note, line = DEMO_NOTE if command.demo else "", launch_command(words)
        plan = write_plan(command.name, sweep, trials, settings, command.results, note, line)
    for sentence in plan_sentences(plan, sweep):
        print(sentence, file=sys.stderr)
    if command.take_next and is_search(command, sweep):
        with open_source(command, sweep, trials, len(seeds), settings) as source:
            return take_next_of_search(source, trials, trainer)
    if command.take_next:
        from sweeps.take import take_next

        return take_next(trials, trainer)
    retries, budget = Retries(command.retry_failed), _budget(command, trials, gpus, processes)
    with _sigterm_interrupts(), open_source(command, sweep, trials, len(seeds), settings) as source:
        if profile is None:
            failed = _run_here(command, source, retries, budget, jobs, trainer)
        else:
            failed = launch.watch(command, source, profile, retries, budget, trainer)
    return _finish(command, source, failed, retries)


def _run_here(
    command: Command, source: "Source", retries: "Retries", budget: "Budget | None", jobs: int, trainer: str
) -> "dict[str, Outcome]":
    """Run what `source` gives in workers of this machine. Returns what failed for good."""
    from sweeps.live import Screen
    from sweeps.local import run_local

    results = command.results.resolve()
    with Screen(command.name, source, jobs) as screen:
        return run_local(
            source,
            screen,
            results=results,
            jobs=jobs,
            logs=results / command.name / ".jobs",
            trainer=trainer,
            retries=retries,
            budget=budget,
        )


def _finish(command: Command, source: "Source", failed: "dict[str, Outcome]", retries: "Retries") -> int:
    """Tell how the launch ended, and make the report. Returns the exit code."""
    from sweeps.ending import tell_ending

    stopped = retries.stop()
    tell_ending(command.name, command.results.resolve() / command.name, source.trials, failed, stopped)
    if command.detach:
        print(
            f"detached: python sweeps/run.py status {command.name} shows the jobs; the same command submits what is "
            "missing then; without --detach it stays until all is finished"
        )
    is_reported = command.no_report or command.detach or _report(command)
    if line := best_line(source):
        print(line)
    return 0 if is_reported and not failed and stopped is None else 1


def _budget(command: Command, trials: Sequence[Any], gpus: int, processes: int) -> "Budget | None":
    """What may be started, where the command line limits it; says how many of `trials` fit."""
    from sweeps.budget import Budget
    from sweeps.past import PastRuns

    if command.max_trials is None and command.max_gpu_hours is None:
        return None
    results, on_slurm = command.results.resolve(), command.on == "slurm"
    budget = Budget(
        command.name,
        results,
        PastRuns(results, on_slurm=on_slurm, processes=processes),
        max_trials=command.max_trials,
        max_gpu_hours=command.max_gpu_hours,
        gpus=gpus,
    )
    if told := budget.announcement(trials):
        print(told, flush=True)
    return budget


@contextmanager
def _sigterm_interrupts() -> "Iterator[None]":
    """SIGTERM ends a launch as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hear_ctrl_c() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
