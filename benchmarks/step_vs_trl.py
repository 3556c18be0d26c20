"""Seconds of one GRPO step, ours and TRL's, side by side in one process: rollout, log-probs, loss, backward, update.

    python -m benchmarks.step_vs_trl
    python -m benchmarks.step_vs_trl --pixels 448 --problems 8 --rounds 5 --threads 2 --out figures.json

Same weights, problems, lengths (end tokens suppressed), loss and optimizer on both sides; that is asserted first
(`equal_work`). TRL's trainer is the stock one, configured as its guide advises (`trl_contender`). The floor is the
step's tokens through plain passes of the stock model (`step_floor`).
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks.equal_work import (
    logprob_difference,
    refuse_other_lengths,
    refuse_other_optimizers,
    refuse_other_weights,
    same_rows,
    seconds_per_row,
)
from benchmarks.limits import check, run_benchmark
from benchmarks.step_floor import Floor
from benchmarks.step_vs_trl_table import show
from benchmarks.timing import Spread, machine, ratio, write_figures
from benchmarks.trl_contender import cannot_run, not_default, stock_model, trainer, trl_arguments
from benchmarks.trl_turns import take_turns
from benchmarks.turn import Turn, stopwatch
from saei.cli import BadInput
from saei.config import Config, with_overrides
from saei.data import load_problems
from saei.master_weights import optimizer_for
from saei.policy import Policy, load_policy
from saei.presets import preset
from saei.recorder import Recorder
from saei.reward import Scorer
from saei.run import Run
from saei.train import train_step
from saei.types import Problem

MOST_TOKENS = 16384
"""Larger micro-batches are not tried for TRL: they need gigabytes, and larger ones were not faster where tried."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    pixels: tuple[int, ...] = (84, 448, 896)
    """Sides of the pictures in pixels, one workload each; 28 are an image token: 9, 256 and 1,024 tokens an image."""
    problems: tuple[int, ...] = (8, 8, 2)
    """Problems of a step for each workload, with 12 completions each; one number serves all."""
    rounds: tuple[int, ...] = (5, 2, 1)
    """Timed rounds of each workload, after one of warm-up; one number serves all."""
    length: int = 32
    """Tokens of every completion."""
    trl_batches: tuple[int, ...] = (96, 24, 12)
    """TRL's per_device_train_batch_size: each is tried on its loss, the fastest is taken; the rest is accumulated."""
    trl_options: tuple[str, ...] = ()
    """Further arguments of TRL's GRPOConfig, e.g. `torch_compile=true`; values are JSON. Equal work stays asserted."""
    threads: int = 1
    """CPU threads of torch."""
    quick: bool = False
    """One round of the smallest workload with 2 problems and 6 tokens: seconds, to see that it runs."""
    out: str = ""
    """Write the figures to this JSON file."""

    def __post_init__(self) -> None:
        for name in ("problems", "rounds"):
            if len(getattr(self, name)) not in (1, len(self.pixels)):
                raise BadInput(f"{name} needs 1 entry or {len(self.pixels)}, one for each of pixels")
        if any(side % 28 or side < 84 for side in self.pixels):
            raise BadInput(f"pixels must be multiples of 28 from 84 on, got {self.pixels}")
        self.trl_arguments()

    def trl_arguments(self) -> dict[str, Any]:
        """`trl_options` as GRPOConfig takes them."""
        entries = [entry.partition("=") for entry in self.trl_options]
        try:
            return {name: json.loads(value) for name, _, value in entries}
        except json.JSONDecodeError as error:
            raise BadInput(f"trl_options entries read name=value with a JSON value, got {self.trl_options}") from error

    def workloads(self) -> list[tuple[int, int, int]]:
        """(side in pixels, problems, rounds)."""
        problems, rounds = (own if len(own) > 1 else own * len(self.pixels) for own in (self.problems, self.rounds))
        return list(zip(self.pixels, problems, rounds, strict=True))


class OurStep:
    """`train_step` as a run makes it, its rows written to a run directory. Called, it has its turn."""

    def __init__(self, config: Config, policy: Policy, scorer: Scorer, problems: Sequence[Problem]) -> None:
        recorder = Recorder(config)
        recorder.folder.mkdir(parents=True)
        recorder.claim()
        recorder.open_part(0, config.steps - 1)
        optimizer = optimizer_for(policy.model, config.optim)
        self.run = Run(config, policy, None, optimizer, scorer, recorder)
        self._problems, self._step = problems, 0

    def __call__(self) -> Turn:
        size = self.run.config.rollout.problems_per_step
        batch = self._problems[self._step * size :][:size]
        passed = stopwatch()
        row = train_step(self.run, [batch], self._step)
        self.run.recorder.add("steps", [row])
        self.run.recorder.flush()
        seconds, cpu_seconds = passed()
        self._step += 1
        phases = {name.removeprefix("time_"): row[name] for name in row if name.startswith("time_")}
        del phases["step"]
        length = round(row["completion_length"])
        return Turn(
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            phases=phases | {"other": seconds - sum(phases.values())},
            lengths=(length,) * round(row["tokens_generated"] / length),
            tokens={kind: row[f"tokens_{kind}"] for kind in ("generated", "forward", "backward")},
        )


def step_config(side: int, problems: int, steps: int, settings: Settings, folder: Path) -> Config:
    """Preset grpo with one update a step and the constants that TRL has."""
    overrides: dict[str, Any] = {
        "out": str(folder / f"ours-{side}"),
        "steps": steps,
        "threads": settings.threads,
        "model.device": "cpu",
        "data.max_pixels": max(side * side, Config().data.max_pixels),
        "rollout.problems_per_step": problems,
        "rollout.max_new_tokens": settings.length,
        "advantage.epsilon": 1e-4,
        "optim.updates_per_step": 1,
        "optim.warmup_steps": 0,
    }
    return with_overrides(preset("grpo"), overrides)


def pictures(config: Config, count: int, side: int) -> list[Problem]:
    """Training problems of the digits, each picture enlarged to `side`, so that no processor resizes it again."""
    training = load_problems(config.data, config.data.train_split)
    return [
        replace(
            problem,
            images=tuple(
                np.asarray(Image.fromarray(np.asarray(image)).resize((side, side), Image.Resampling.NEAREST))
                for image in problem.images
            ),
        )
        for problem in (training[number] for number in range(count))
    ]


def measure(side: int, problems: int, rounds: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """The figures of one workload."""
    steps = rounds + 1
    config = step_config(side, problems, steps, settings, folder)
    completions = problems * config.group_size
    shown = pictures(config, (steps + 1) * problems, side)
    ours = load_policy(config.model, config.data)
    ours.suppressed_token_ids += ours.end_token_ids  # every completion has the full length
    prompts = [ours.encode(problem) for problem in shown[:problems]]
    row_tokens = max(len(prompt.token_ids) for prompt in prompts) + settings.length
    with Scorer(config.reward) as scorer:

        def of_trl(per_device: int) -> Any:
            arguments = trl_arguments(config, ours, per_device, steps, str(folder / f"trl-{side}-{per_device}"))
            return trainer(arguments | settings.trl_arguments(), config, scorer, shown)

        tried = [b for b in settings.trl_batches if completions % b == 0 and b * row_tokens <= MOST_TOKENS] or [1]
        first = of_trl(tried[0])
        refuse_other_weights(ours, first.model)
        rows = same_rows(ours, first, shown[: -(-max(tried) // config.group_size)], config)
        difference = logprob_difference(first, rows)
        trl_batches = seconds_per_row(first, rows, tried)
        theirs = of_trl(min(trl_batches, key=lambda batch: trl_batches[batch]))
        own = OurStep(config, ours, scorer, shown)
        floor = Floor(stock_model(config), ours, prompts, config.group_size, settings.length)
        turns = take_turns(theirs, {"ours": own, "floor": floor})
    for name in ("trl", "ours"):
        for turn in turns[name]:
            refuse_other_lengths(turn.lengths, completions, settings.length, name)
    refuse_other_optimizers(theirs, own.run.optimizer)
    return figures(turns) | {
        "pixels": side,
        "image_tokens": list(prompts[0].token_ids).count(ours.image_token_id),
        "prompt_tokens": median(len(prompt.token_ids) for prompt in prompts),
        "problems": problems,
        "completions": completions,
        "length": settings.length,
        "logprob_difference": difference,
        "trl_batch": theirs.args.per_device_train_batch_size,
        "trl_seconds_per_row": trl_batches,
        "trl_config": not_default(theirs),
    }


def figures(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    """Medians and spreads of the timed rounds; memory is that of the warm-up."""
    timed = {name: rounds[1:] for name, rounds in turns.items()}
    wall = {name: [turn.seconds for turn in rounds] for name, rounds in timed.items()}
    cpu = {name: [turn.cpu_seconds for turn in rounds] for name, rounds in timed.items()}
    return {
        "seconds": _spreads(wall),
        "cpu_seconds": _spreads(cpu),
        "ratios": _ratios(wall),
        "cpu_ratios": _ratios(cpu),
        "phases": {
            name: {phase: median(turn.phases[phase] for turn in rounds) for phase in rounds[0].phases}
            for name, rounds in timed.items()
        },
        "tokens": {name: rounds[-1].tokens for name, rounds in timed.items()},
        "grown_mb": {name: rounds[0].grown_mb for name, rounds in turns.items()},
    }


def _spreads(seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {name: asdict(Spread.of(values)) for name, values in seconds.items()}


def _ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    pairs = (("trl", "ours"), ("ours", "floor"), ("trl", "floor"))
    return {f"{name}/{base}": asdict(ratio(seconds[name], seconds[base])) for name, base in pairs}


def main(settings: Settings) -> dict[str, Any]:
    """Measure all workloads, print the tables, write the JSON."""
    check(settings)
    if settings.quick:
        settings = replace(settings, pixels=(84,), problems=(2,), rounds=(1,), length=6, trl_batches=(24,))
    torch.set_num_threads(settings.threads)
    where = machine(("torch", "transformers", "trl", "accelerate"))
    with tempfile.TemporaryDirectory() as folder:
        workloads = [measure(*workload, settings, Path(folder)) for workload in settings.workloads()]
    result = {"settings": asdict(settings), "workloads": workloads, "cannot_run": cannot_run()}
    write_figures(settings.out, "step_vs_trl", where, result)
    show(result)
    return result


def command(arguments: Sequence[str] | None = None) -> int:
    main(tyro.cli(Settings, args=arguments, prog="python -m benchmarks.step_vs_trl"))
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(command))
