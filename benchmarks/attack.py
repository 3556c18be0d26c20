"""What the attack costs: EgAS beside one training micro-batch, and a step of SaEI (6 + 6) beside one of GRPO (12).

    python -m benchmarks.attack

The micro-batch is the forward and backward pass, with gradients on the weights, of the very completions that the attack
reads. The attack has one such pass with gradients on the pixels for each of its T iterations, the first of which also
chooses the tokens, and one forward pass after them for its ledger. Steps are `saei.train.train_step` with the presets'
own settings, from the same weights on the same problems; the measurement of fresh completions, every tenth step, is
part of them.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.budget import Budget, rounds_within
from benchmarks.limits import check, run_benchmark
from benchmarks.timing import Spread, machine, ratio, write_figures
from saei.batches import problem_batches
from saei.cli import BadInput
from saei.config import Config, with_overrides
from saei.data import ProblemSet, load_problems
from saei.make_view import make_view
from saei.master_weights import optimizer_for
from saei.policy import Policy, load_policy
from saei.presets import preset
from saei.recorder import Recorder
from saei.reward import Scorer
from saei.rollout import GroupsInProgress, grade_view, sample_view
from saei.run import Run
from saei.train import train_step
from saei.types import ScoreRequest

MICRO_BATCH = "micro-batch"
STEP_PRESETS = ("grpo", "saei")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to time."""

    pixels: tuple[int, ...] = (84, 448)
    """Sides of the square images under attack, in pixels."""
    problems: int = 4
    """Problems under attack."""
    iterations: tuple[int, ...] = (1, 2, 4)
    """T: gradient steps of the attack."""
    rounds: int = 15
    """At most so many rounds of the attack, for each image size, and of the steps."""
    seconds: float = 55.0
    """Wall-clock seconds: a quarter for each image size, the rest for the steps."""
    threads: int = 1
    """CPU threads of torch."""
    quick: bool = False
    """Two problems, short completions, T = 1, three rounds: seconds, for the test."""
    out: str = ""
    """Write the figures to this JSON file."""

    def __post_init__(self) -> None:
        if self.problems % preset("saei").optim.updates_per_step:
            raise BadInput(f"--problems: SaEI's two updates share the problems of a step evenly, got {self.problems}")


def sampled(side: int, problems: int, scorer: Scorer) -> tuple[Policy, GroupsInProgress, Config]:
    """Groups whose clean completions are there: what the attack of a SaEI step begins with."""
    sizes = {"data.min_pixels": side * side, "data.max_pixels": side * side}
    config = with_overrides(preset("saei"), {**sizes, "rollout.problems_per_step": problems})
    policy = load_policy(config.model, config.data)
    training = load_problems(config.data, config.data.train_split)
    progress = GroupsInProgress.begin(policy, [training[i] for i in range(problems)])
    (clean, count), _ = config.group_plan()
    make_view(policy, progress, clean, count, config, step=0)
    sample_view(policy, progress, clean, count, config, step=0)
    grade_view(scorer, progress, clean, config)
    return policy, progress, config


def with_iterations(config: Config, iterations: int) -> Config:
    """The same attack in T steps, in the ball that they can reach."""
    ball = {"view.epsilon": iterations * config.view.step_size} if iterations > 1 else {}
    return with_overrides(config, {"view.iterations": iterations, **ball})


def micro_batch(policy: Policy, progress: GroupsInProgress, config: Config) -> int:
    """Forward and backward of the completions so far, gradients left on the weights. Returns the tokens scored."""
    policy.model.zero_grad(set_to_none=True)
    requests = [
        ScoreRequest(prompt=prompt, images=prompt.images, completions=tuple(rollout.token_ids for rollout in rollouts))
        for prompt, rollouts in zip(progress.prompts, progress.rollouts, strict=True)
    ]
    scores = policy.score(requests, temperature=config.rollout.temperature, pack_tokens=config.optim.pack_tokens)
    logprobs = torch.cat([score.logprobs for group in scores for score in group])
    (-logprobs.mean()).backward()
    return len(logprobs)


def attack(policy: Policy, progress: GroupsInProgress, config: Config) -> int:
    """The view `egas` of all groups, as a step makes it. Returns the tokens that it read."""
    progress.ledger.clear()
    (_, _), (view, count) = config.group_plan()
    make_view(policy, progress, view, count, config, step=0)
    return sum(row.tokens_total for row in progress.ledger)


def assert_equal_work(
    policy: Policy, progress: GroupsInProgress, configs: dict[str, Config]
) -> dict[str, tuple[int, int]]:
    """The attack reads the tokens that the micro-batch scores, moves every image, leaves no gradient on a weight.

    Returns the token positions that each passes through the model without, and with, backward.
    """
    counts = {MICRO_BATCH: (policy.tokens_forward, policy.tokens_backward)}
    tokens = micro_batch(policy, progress, next(iter(configs.values())))
    policy.model.zero_grad(set_to_none=True)
    for name, config in configs.items():
        counts[name] = policy.tokens_forward, policy.tokens_backward
        read = attack(policy, progress, config)
        assert read == tokens, f"{name} read {read} tokens, the micro-batch has {tokens}"
        assert all(row.moved for row in progress.ledger), f"{name} left an image where it was: nothing to time"
        assert all(p.grad is None for p in policy.model.parameters()), f"{name} left gradients on the weights"
    ends = [*counts.values(), (policy.tokens_forward, policy.tokens_backward)][1:]
    return {
        name: (end[0] - begin[0], end[1] - begin[1]) for (name, begin), end in zip(counts.items(), ends, strict=True)
    }


def attack_figures(settings: Settings, side: int, budget: Budget, scorer: Scorer) -> dict[str, Any]:
    """Seconds of the micro-batch and of the attack with each T, and their ratios, for one image size."""
    policy, progress, config = sampled(side, settings.problems, scorer)
    configs = {f"T = {t}": with_iterations(config, t) for t in settings.iterations}
    spent = assert_equal_work(policy, progress, configs)
    contenders: dict[str, Callable[[], Any]] = {MICRO_BATCH: lambda: micro_batch(policy, progress, config)}
    for name, own in configs.items():
        contenders[name] = lambda own=own: attack(policy, progress, own)
    seconds = rounds_within(budget, contenders, settings.rounds)
    return {
        "pixels": side,
        "prompt_tokens": sum(len(prompt.token_ids) for prompt in progress.prompts),
        "completions": sum(len(rollouts) for rollouts in progress.rollouts),
        "completion_tokens": sum(len(r.token_ids) for rollouts in progress.rollouts for r in rollouts),
        "seconds": {name: asdict(Spread.of(values)) for name, values in seconds.items()},
        "tokens_forward_and_backward": spent,
        "over_micro_batch": {name: asdict(ratio(seconds[name], seconds[MICRO_BATCH])) for name in configs},
    }


def step_figures(settings: Settings, budget: Budget, folder: str, scorer: Scorer) -> dict[str, Any]:
    """Whole steps of both presets in turns: seconds, their ratio, seconds of each phase, tokens."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in STEP_PRESETS}
    met: dict[str, list[list[str]]] = {name: [] for name in STEP_PRESETS}
    plans: dict[str, tuple[tuple[str, int], ...]] = {}

    def contender(name: str) -> Callable[[], None]:
        overrides: dict[str, Any] = {"out": f"{folder}/{name}"}
        if settings.quick:
            overrides |= {"rollout.problems_per_step": settings.problems, "rollout.max_new_tokens": 12}
        run, training = _run(with_overrides(preset(name), overrides), scorer)
        plans[name] = tuple(run.config.group_plan())
        batches = problem_batches(run.policy, run.recorder, training, run.config)

        def step() -> None:
            number = len(rows[name])
            problems = next(iter(batches(number)))  # neither preset filters groups: the first batch is enough
            met[name].append([problem.problem_id for problem in problems])
            rows[name].append(train_step(run, [problems], number))

        return step

    contenders = {name: contender(name) for name in STEP_PRESETS}
    base, other = STEP_PRESETS
    completions = {name: sum(count for _, count in plan) for name, plan in plans.items()}
    assert completions[base] == completions[other], f"completions of a problem differ: {completions}"
    for warm_up in contenders.values():
        warm_up()
    seconds = rounds_within(budget, contenders, settings.rounds)
    assert met[base] == met[other], "the steps of the two met different problems"
    timed = {name: found[1:] for name, found in rows.items()}
    phases = [name for name in timed[base][0] if name.startswith("time_") and name != "time_step"]
    tokens = [name for name in timed[base][0] if name.startswith("tokens_")]
    return {
        "plans": plans,
        "problems": len(met[base][0]),
        "seconds": {name: asdict(Spread.of(values)) for name, values in seconds.items()},
        "saei_over_grpo": asdict(ratio(seconds[other], seconds[base])),
        "phase_seconds": {
            name: {phase.removeprefix("time_"): sum(row[phase] for row in found) / len(found) for phase in phases}
            for name, found in timed.items()
        },
        "tokens": {
            name: {kind: sum(row[kind] for row in found) / len(found) for kind in tokens}
            for name, found in timed.items()
        },
    }


def _run(config: Config, scorer: Scorer) -> tuple[Run, ProblemSet]:
    policy = load_policy(config.model, config.data)
    recorder = Recorder(config)
    recorder.folder.mkdir(parents=True)
    recorder.claim()
    run = Run(config, policy, None, optimizer_for(policy.model, config.optim), scorer, recorder)
    return run, load_problems(config.data, config.data.train_split)


def attack_table(figures: list[dict[str, Any]], settings: Settings) -> Table:
    """One line for each image size and T."""
    table = Table(title=f"EgAS beside one training micro-batch of the same completions, {settings.threads} thread(s)")
    for column in ("image (px)", "completions", "tokens", "contender", "seconds", "forward", "backward", "ratio"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for found in figures:
        for name, spread in found["seconds"].items():
            over = found["over_micro_batch"].get(name)
            forward, backward = found["tokens_forward_and_backward"][name]
            first = name == MICRO_BATCH
            table.add_row(
                str(found["pixels"]) if first else "",
                str(found["completions"]) if first else "",
                f"{found['prompt_tokens'] + found['completion_tokens']:,}" if first else "",
                name,
                f"{spread['median']:.3f}",
                f"{forward:,}",
                f"{backward:,}",
                f"{over['median']:.2f}" if over else "1",
            )
    return table


def step_table(found: dict[str, Any], settings: Settings) -> Table:
    """One line for each preset."""
    rounds = found["saei_over_grpo"]["rounds"]
    title = f"One training step, median of {rounds} (phases: means, in s), {settings.threads} thread(s)"
    phases = [name for name in found["phase_seconds"]["grpo"] if any(p[name] for p in found["phase_seconds"].values())]
    table = Table("preset", "seconds", "ratio", *phases, "generated", title=title)
    for name, spread in found["seconds"].items():
        table.add_row(
            name,
            f"{spread['median']:.3f}",
            "1" if name == "grpo" else f"{found['saei_over_grpo']['median']:.2f}",
            *(f"{found['phase_seconds'][name][phase]:.3f}" for phase in phases),
            f"{found['tokens'][name]['tokens_generated']:,.0f}",
        )
    return table


def main(settings: Settings) -> int:
    check(settings)
    torch.set_num_threads(settings.threads)
    where = machine()
    if settings.quick:
        quick = {"pixels": (84,), "problems": 2, "iterations": (1,), "rounds": 3, "seconds": 1.0}
        settings = Settings(**{**asdict(settings), **quick})
    whole, attacks = Budget(settings.seconds), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder, Scorer(preset("saei").reward) as scorer:
        for side in settings.pixels:
            attacks.append(attack_figures(settings, side, Budget(settings.seconds / 4), scorer))
        steps = step_figures(settings, Budget(whole.left), folder, scorer)
    console = Console(width=120)
    console.print(attack_table(attacks, settings))
    console.print(step_table(steps, settings))
    tree = {"settings": asdict(settings), "attack": attacks, "step": steps}
    write_figures(settings.out, "attack", where, tree)
    return 0


def command(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return main(tyro.cli(Settings, args=arguments, prog="python -m benchmarks.attack"))


if __name__ == "__main__":
    sys.exit(run_benchmark(command))
