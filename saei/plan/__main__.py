"""Memory, hours and, where it fits, sbatch command of a run that has not begun: reckoned, not measured.

    python -m saei.plan recipes/geo3k-7b-saei.toml --gpus 8 --gpu-gb 80
    python -m saei.plan --preset saei --flavour published [any setting of the trainer]

Exit codes: 0 the plan fits, 1 it does not (it then says what to change), 2 bad input.
"""

import sys

if __name__ == "__main__":
    from saei.loading import leave_quietly

    leave_quietly()

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from saei.cli import BadInput, bad_input, run_main
from saei.config import Config
from saei.options import train_command_line
from saei.plan.hours import assumptions
from saei.plan.launch import sbatch_command
from saei.plan.memory import GIB, RESERVE
from saei.plan.settings import Plan, make_plan
from saei.plan.storage import counted, trained

NOT_MEASURED = "reckoned from shapes and settings, NOT MEASURED"


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCommand:
    """Memory, hours and the sbatch command of a run, before it is started. The first word is a recipe, if it is no
    flag; all flags of `python -m saei.train` may follow.
    """

    gpus: Annotated[int, tyro.conf.arg(metavar="N")] = 8
    """GPUs of a node; one process each."""
    nodes: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Nodes of the run."""
    gpu_gb: Annotated[float, tyro.conf.arg(metavar="GIB")] = 80.0
    """Memory of a GPU in GiB."""
    json: bool = False
    """Print the plan as JSON."""

    def __post_init__(self) -> None:
        for name in ("gpus", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not self.gpu_gb > 0:
            raise ValueError(f"--gpu-gb must be above 0, got {self.gpu_gb}")


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    recipes = list(takewhile(lambda word: not word.startswith("-"), words))
    if len(recipes) > 1:
        raise BadInput(
            f"python -m saei.plan takes one recipe at a time, got {len(recipes)}: {recipes[0]}, {recipes[1]}"
            + (", ..." if len(recipes) > 2 else "")
        )
    if recipes:
        words[:1] = ["--recipe", words[0]]
    with bad_input():
        command, rest = tyro.cli(PlanCommand, args=words, prog="python -m saei.plan", return_unknown_args=True)
        config = train_command_line(rest, prog="python -m saei.plan")
    if config is None:
        return 0
    with bad_input():
        plan = make_plan(config, processes=command.gpus * command.nodes, device_gb=command.gpu_gb)
    (_print_json if command.json else _print)(config, plan, command, rest)
    return 1 if plan.advice else 0


def _print(config: Config, plan: Plan, command: PlanCommand, words: list[str]) -> None:
    processes = command.gpus * command.nodes
    console = Console(highlight=False, soft_wrap=True, width=120)
    console.print(
        f"{config.model.path}: {counted(plan.model):,} parameters, {trained(plan.model):,} trained, "
        f"{config.model.dtype}; {processes} GPUs of {command.gpu_gb:g} GiB, one process each"
    )
    console.print(f"Taken: {plan.work.assumed}; rows of {config.optim.pack_tokens} tokens (optim.pack_tokens).\n")
    console.print(_memory_table(plan, command.gpu_gb))
    for sentence in plan.advice:
        console.print(f"DOES NOT FIT: {sentence}.", markup=False)
    step = sum(plan.hours.step.values())
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in plan.hours.step.items())
    console.print(f"\nHours on {processes} GPUs ({NOT_MEASURED}): {plan.hours.total:.0f}")
    console.print(
        f"  {config.steps} steps of {step:.0f} s ({parts}): {plan.hours.training:.1f} h; "
        f"evaluation {plan.hours.evaluation:.1f} h"
    )
    console.print(f"  {assumptions()}.")
    if plan.advice:
        return
    console.print("\nOne run (a job that ends at its limit has a checkpoint: submit the same again to go on):\n")
    console.print(_sbatch(config, plan, command, words), markup=False)
    if config.recipe:
        console.print("\nSeeds of several methods at this scale, watched and submitted again by the runner:\n")
        console.print(f"python sweeps/run.py methods --recipe {config.recipe} --on slurm --cluster slurm/cluster.toml")


def _memory_table(plan: Plan, gpu_gb: float) -> Table:
    table = Table(title=f"Memory of each GPU in GiB: {NOT_MEASURED}", box=box.SIMPLE, title_justify="left")
    table.add_column("what", no_wrap=True)
    for phase in plan.phases:
        table.add_column(phase.name, justify="right", no_wrap=True)
    names = dict.fromkeys(name for phase in plan.phases for name in phase.parts)
    for name in names:
        sizes = [phase.parts.get(name, 0) / GIB for phase in plan.phases]
        if any(sizes):
            table.add_row(name, *(_shown(size) for size in sizes))
    table.add_section()
    table.add_row("together", *(_shown(phase.bytes / GIB) for phase in plan.phases))
    room = gpu_gb * (1 - RESERVE)
    table.add_row(f"within {room:.1f}", *("fits" if phase.bytes / GIB <= room else "NO" for phase in plan.phases))
    return table


def _shown(size: float) -> str:
    return "" if size == 0 else f"{size:.2f}" if size >= 0.01 else "< 0.01"


def _sbatch(config: Config, plan: Plan, command: PlanCommand, words: list[str]) -> str:
    step = sum(plan.hours.step.values())
    return sbatch_command(config, words, gpus=command.gpus, nodes=command.nodes, hours=plan.hours.total, step_s=step)


def _print_json(config: Config, plan: Plan, command: PlanCommand, words: list[str]) -> None:
    tree = {
        "measured": False,
        "parameters": counted(plan.model),
        "trained": trained(plan.model),
        "workload": asdict(plan.work),
        "bytes": {phase.name: phase.parts for phase in plan.phases},
        "hours": asdict(plan.hours) | {"total": plan.hours.total, "assumptions": assumptions()},
        "fits": not plan.advice,
        "advice": plan.advice,
        "sbatch": "" if plan.advice else _sbatch(config, plan, command, words),
    }
    print(json.dumps(tree, indent=1))


if __name__ == "__main__":
    sys.exit(run_main(main))
