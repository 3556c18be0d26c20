"""How far does accuracy fall when the image is moved against the policy? Evaluation under attack (claims.md N3).

The attacker reads the completions of the clean evaluation and moves every image within a size; the policy then answers
again with the same noise, so the two differ by the image alone. The attacker has the same settings for every policy,
whatever attack the policy was trained with.

    python -m saei.robustness --model DIR --attacks egas error --levels 0 2 4 8 16
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from saei.cli import bad_input, checked_command_line, run_main
from saei.config import (
    Config,
    OptimConfig,
    RolloutConfig,
    ViewConfig,
)
from saei.data import load_problems
from saei.distributed import ALONE, World
from saei.engines.serving import engine_serving
from saei.evaluate import (
    EvaluateConfig,
    check_model_folder,
    evaluate_split,
    evaluation_completions,
    first_problems,
    write_rows,
)
from saei.make_view import make_view
from saei.policy import Policy, load_policy
from saei.reward import Scorer
from saei.rollout import GroupsInProgress, grade_view, hash_images
from saei.schema import GREEDY, SAMPLED
from saei.sharding import whole
from saei.types import AttackRow, ByteImages, Problem, Rollout
from saei.units import check_grey_levels, grey_levels_argument

ERROR_ITERATIONS = 5
STREAM = 0
"""Step in the keys of the attacks' randomness: none, as in the evaluation's noise, so that checkpoints are paired."""


def one_step(name: str, level: float) -> ViewConfig:
    """One signed step of `level` grey levels, or noise of the same size: the paper's T = 1."""
    return ViewConfig(name=name, step_size=level, iterations=1)


def error_maximising(name: str, level: float) -> ViewConfig:
    """PGD inside a ball of `level` grey levels: ERROR_ITERATIONS steps of a quarter of it, of at least one level."""
    step = max(level / 4, 1.0) if level else 0.0
    return ViewConfig(name=name, step_size=step, iterations=ERROR_ITERATIONS, epsilon=level)


ATTACKS: dict[str, Callable[[str, float], ViewConfig]] = {
    "egas": one_step,
    "random_sign": one_step,
    "gaussian": one_step,
    "error": error_maximising,
}
"""Views that `eval.attacks` may name -> the attacker's settings at a size in grey levels; a size of 0 moves nothing."""


def check_attacks(attacks: Sequence[str], levels: Sequence[float]) -> None:
    """Raise ValueError for an attack that is in no table, a size that is no grey level, or either given twice."""
    for attack in attacks:
        if attack not in ATTACKS:
            raise ValueError(
                f"eval.attacks is any of {', '.join(ATTACKS)}, got {attack!r}: other views have no size in grey levels"
            )
    for level in levels:
        check_grey_levels("eval.attack_levels", level)
        if 0 < level < 1:
            raise ValueError(f"eval.attack_levels has {level:g}: an image of whole levels moves by 0 or at least 1")
    for name, given in (("attacks", attacks), ("attack_levels", levels)):
        if len(set(given)) < len(given):
            raise ValueError(f"eval.{name} names an entry twice: {', '.join(map(str, given))}")
    if attacks and not levels:
        raise ValueError("eval.attacks is set but eval.attack_levels is empty: give sizes in grey levels, such as 2 8")


def attacker_config(config: Config, attack: str, level: float) -> Config:
    """The settings under which images are moved: the run's seed and memory, and one attacker for every run.

    Its tokens are selected as by default, and scored at temperature 1, as the evaluation samples.
    """
    return Config(
        seed=config.seed,
        rollout=RolloutConfig(n_clean=config.eval.samples, n_view=config.eval.samples),
        optim=OptimConfig(pack_tokens=config.optim.pack_tokens),
        view=ATTACKS[attack](attack, level),
    )


def clean_completions(
    policy: Policy, scorer: Scorer, problems: Sequence[Problem], config: Config, world: World = ALONE
) -> GroupsInProgress:
    """What an attacker may read: the sampled completions of the clean evaluation, graded."""
    progress = GroupsInProgress.begin(policy, problems)
    images = [prompt.images for prompt in progress.prompts]
    with whole(policy):
        completions = evaluation_completions(policy, progress.prompts, images, config, decoding=SAMPLED)
    for position, (prompt, group) in enumerate(zip(progress.prompts, completions, strict=True)):
        progress.rollouts[position] = [
            Rollout(
                problem_id=prompt.problem_id,
                view="clean",
                index=completion.index,
                completion=completion,
                text=policy.decode(completion.token_ids),
                images=prompt.images,
                image_hash=hash_images(prompt.images),
            )
            for completion in group
        ]
    grade_view(scorer, progress, "clean", config, world)
    return progress


def attacked_images(
    policy: Policy, progress: GroupsInProgress, attack: str, level: float, config: Config
) -> tuple[list[ByteImages], list[AttackRow]]:
    """Per problem: its images moved by `attack` at `level` grey levels; and the ledger of this attack."""
    progress.ledger = []
    with whole(policy):
        make_view(policy, progress, attack, config.eval.samples, attacker_config(config, attack, level), STREAM)
    return [entries[0] for entries in progress.images[attack]], progress.ledger


def evaluate_under_attacks(
    policy: Policy, scorer: Scorer, problems: Sequence[Problem], config: Config, step: int, world: World = ALONE
) -> list[dict[str, Any]]:
    """Rows of the `eval` table for every attack of `eval.attacks` at every size of `eval.attack_levels`.

    `problems` are cut to the first `eval.attack_problems`; the splits are called `test@egas:4` and so on. At size 0 the
    completions are those of the clean evaluation, token for token. Raises ValueError as `check_attacks` does.
    """
    results = by_attack(policy, scorer, problems, config, split=config.data.test_split, step=step, world=world)
    return [row for rows, _ in results for row in rows]


def by_attack(
    policy: Policy,
    scorer: Scorer,
    problems: Sequence[Problem],
    config: Config,
    *,
    split: str,
    step: int,
    world: World = ALONE,
) -> list[tuple[list[dict[str, Any]], list[AttackRow]]]:
    """(rows, ledger) of every attack at every size, attack by attack, in the order of the settings."""
    settings = config.eval
    check_attacks(settings.attacks, settings.attack_levels)
    chosen = problems[: settings.attack_problems]
    progress = clean_completions(policy, scorer, world.share(chosen), config, world)
    results = []
    for attack in settings.attacks:
        for level in settings.attack_levels:
            images, ledger = attacked_images(policy, progress, attack, level, config)
            name, seen = f"{split}@{attack}:{level:g}", world.gathered(images)
            rows = evaluate_split(policy, scorer, chosen, config, split=name, step=step, seen=seen, world=world)
            results.append((rows, world.gathered(ledger)))
    return results


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustnessConfig(EvaluateConfig):
    """Settings of a stand-alone evaluation under attack."""

    attacks: tuple[str, ...] = ("egas", "random_sign", "gaussian", "error")
    """Attacks: egas, random_sign, gaussian (one step), error (PGD against the right answers)."""
    levels: tuple[Annotated[float, grey_levels_argument("levels")], ...] = (0.0, 2.0, 4.0, 8.0, 16.0)
    """Sizes of each attack, in grey levels; 0 is the clean image."""
    problems: int = 64
    """Problems, the first ones of the split."""

    def __post_init__(self) -> None:
        EvaluateConfig.__post_init__(self)
        check_attacks(self.attacks, self.levels)
        if self.problems < 1:
            raise ValueError(f"problems must be at least 1, got {self.problems}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over problems, and half the width of its 95 % interval (normal; NaN for one problem)."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    return float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def table(results: Sequence[tuple[list[dict[str, Any]], list[AttackRow]]]) -> Table:
    """One row for each attack and size; intervals are over problems, and L2 is the mean realised move."""
    shown = Table()
    for column in ("attack", "levels", "L-inf", "L2", "mean@k", "± 95 %", "greedy", "entropy"):
        shown.add_column(column, justify="left" if column == "attack" else "right", no_wrap=True)
    for rows, ledger in results:
        attack, _, level = rows[0]["split"].rpartition("@")[2].partition(":")
        sampled = [row for row in rows if row["decoding"] == SAMPLED]
        by_problem: dict[str, list[float]] = {}
        for row in sampled:
            by_problem.setdefault(row["problem_id"], []).append(row["accuracy"])
        mean, half = interval([float(np.mean(values)) for values in by_problem.values()])
        tokens = sum(row["tokens"] for row in sampled)
        shown.add_row(
            attack,
            level,
            f"{255 * max(row.linf for row in ledger):.0f}",
            f"{np.mean([row.l2 for row in ledger]):.3f}",
            f"{mean:.3f}",
            f"{half:.3f}",
            f"{np.mean([row['accuracy'] for row in rows if row['decoding'] == GREEDY]):.3f}",
            f"{sum(row['entropy'] * row['tokens'] for row in sampled) / tokens:.3f}",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    settings = checked_command_line(RobustnessConfig, arguments, prog="python -m saei.robustness")
    with bad_input():
        check_model_folder(settings.model)
        config = settings.run_config(
            attacks=settings.attacks, attack_levels=settings.levels, attack_problems=settings.problems
        )
        if settings.out:  # the folder it is written to, before an hour of sampling
            Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(settings.threads)
        problems = first_problems(load_problems(settings.data, settings.data.test_split), settings.problems)
        policy = load_policy(config.model, settings.data)
    with Scorer(settings.reward) as scorer, engine_serving(policy, settings.rollout, config.model, 0):
        results = by_attack(policy, scorer, problems, config, split=settings.data.test_split, step=0)
    Console().print(table(results))
    print(
        f"model {settings.model}, {len(problems)} problems of {settings.data.source}/{settings.data.test_split}, "
        f"{settings.samples} completions each; intervals over problems"
    )
    if settings.out:
        write_rows([row for rows, _ in results for row in rows], settings.out)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
