"""Accuracy of a policy on a split: sampled mean@k at temperature 1 (the primary metric), greedy, pass@k, entropy.

The noise key is (seed, problem, completion), without step or method, so the arms of a sweep and the checkpoints of a
run are compared under the same noise. Every completion is recorded; nothing is chosen by what is read here.

    python -m saei.evaluate --model DIR --data.source digits --data.test-split larger_grid
    python -m saei.evaluate --model DIR --data.source shapes --data.test-split test
    python -m saei.evaluate --model DIR --benchmarks mathvista,hallusionbench --benchmark-data DIR
"""

import sys

if __name__ == "__main__":
    from saei.loading import leave_quietly

    leave_quietly()

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import comb
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from saei.atomic import write_atomically
from saei.cli import bad_input, checked_command_line, run_main
from saei.config import Config, DataConfig, EvalConfig, ModelConfig, RewardConfig, RolloutConfig
from saei.data import ProblemSet, load_problems
from saei.distributed import ALONE, World
from saei.engines.completing import complete
from saei.engines.serving import engine_serving
from saei.metrics import storable
from saei.policy import Policy, load_policy
from saei.recorder import ARROW_SCHEMAS
from saei.reward import Grade, Scorer
from saei.rollout import hash_images, noise_source
from saei.schema import GREEDY, MODEL_FOLDER, SAMPLED, STATUS_FILE
from saei.settings.benchmarking import BenchmarkConfig, JudgeConfig
from saei.sharding import whole
from saei.types import ByteImages, Problem, Prompt, SampledCompletion, SampleRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Settings of a stand-alone evaluation."""

    model: str = "tiny"
    """Policy: `tiny`, a folder in Hugging Face format (such as a run's `model`), or a hub id."""
    seed: int = 0
    """Seed of the sampling noise."""
    samples: int = 8
    """Completions per problem at temperature 1."""
    problems: int = 256
    """Problems, the first ones of the split; 0: all."""
    out: str = ""
    """Write every completion, graded, to this parquet file."""
    threads: int = 1
    """CPU threads of torch."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of weights and activations."""
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.problems < 0:
            raise ValueError(f"problems must be >= 0, got {self.problems}")

    def run_config(self, **evaluation: Any) -> Config:
        """The settings of a run that has this policy and these texts; `evaluation` are settings of `eval`."""
        return Config(
            seed=self.seed,
            threads=self.threads,
            model=ModelConfig(path=self.model, dtype=self.dtype),
            rollout=self.rollout,
            reward=self.reward,
            eval=EvalConfig(samples=self.samples, engine=self.rollout.engine, **evaluation),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandConfig(EvaluateConfig):
    """Settings of the command: one split, or benchmarks.

    With --benchmarks the settings of --benchmark.* and --judge.* count, and --samples and --problems do not.
    """

    benchmarks: str = ""
    """Evaluate these, e.g. mathvista,mathverse,mathvision,hallusionbench,geometry3k,mmk12, in place of a split."""
    benchmark_data: str = ""
    """Folder with a folder for each benchmark; empty: from the hub. `out` is then a folder, too, and continued."""
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        EvaluateConfig.__post_init__(self)
        if not self.benchmarks:
            idle = (self.benchmark_data, self.benchmark, self.judge) != ("", BenchmarkConfig(), JudgeConfig())
            if idle:
                raise ValueError("--benchmark-data, --benchmark.* and --judge.* do nothing without --benchmarks NAMES")
        elif (self.samples, self.problems) != (8, 256) or self.data.path:
            raise ValueError(
                "--samples, --problems and --data.path do nothing with --benchmarks; write --benchmark.samples, "
                "--benchmark.limit and --benchmark-data"
            )


def evaluate_split(
    policy: Policy,
    scorer: Scorer,
    problems: Sequence[Problem],
    config: Config,
    *,
    split: str,
    step: int,
    seen: Sequence[ByteImages] | None = None,
    world: World = ALONE,
) -> list[dict[str, Any]]:
    """Rows of the `eval` table: `config.eval.samples` sampled completions and a greedy one per problem.

    Sampling is at temperature 1 without top-p, whatever the rollouts use; `step` is what the rows are labelled with.
    `seen` are the images that the policy is shown in place of the problems' own, after the resize. The processes of
    `world` evaluate a share of the problems each.
    """
    rows: list[dict[str, Any]] = []
    mine = world.share(problems)
    prompts = [policy.encode(problem) for problem in mine]
    figures = [hash_images(prompt.images) for prompt in prompts]
    images = [prompt.images for prompt in prompts] if seen is None else world.share(seen)
    for decoding in (SAMPLED, GREEDY):
        with whole(policy):
            completions = evaluation_completions(policy, prompts, images, config, decoding=decoding)
        flat = [
            (problem, figure, one)
            for problem, figure, group in zip(mine, figures, completions, strict=True)
            for one in group
        ]
        texts = [policy.decode(completion.token_ids) for _, _, completion in flat]
        grades = scorer.grade(texts, [problem for problem, _, _ in flat])
        rows += world.gathered(
            [
                _row(problem, figure, completion, text, grade, decoding=decoding, split=split, step=step)
                for (problem, figure, completion), text, grade in zip(flat, texts, grades, strict=True)
            ]
        )
    return rows


def evaluation_completions(
    policy: Policy, prompts: Sequence[Prompt], images: Sequence[ByteImages], config: Config, *, decoding: str
) -> list[list[SampledCompletion]]:
    """Per prompt, seeing `images`: `config.eval.samples` completions at temperature 1, or the greedy one."""
    indices = tuple(range(config.eval.samples)) if decoding == SAMPLED else (0,)
    return complete(
        policy,
        [
            SampleRequest(prompt=prompt, images=own, indices=indices)
            for prompt, own in zip(prompts, images, strict=True)
        ],
        config,
        engine=config.eval.engine,
        sampling=(1.0, 1.0),
        noise=noise_source(config.seed, "evaluation", 0) if decoding == SAMPLED else None,
    )


def _row(
    problem: Problem,
    figure: str,
    completion: SampledCompletion,
    text: str,
    grade: Grade,
    *,
    decoding: str,
    split: str,
    step: int,
) -> dict[str, Any]:
    return {
        "step": step,
        "split": split,
        "decoding": decoding,
        "problem_id": problem.problem_id,
        "kind": problem.kind,
        "figure": figure,
        "index": completion.index,
        "text": storable(text),
        "answer": problem.answer,
        "accuracy": grade.accuracy,
        "format": grade.format,
        "grade_status": grade.status,
        "tokens": len(completion.token_ids),
        "finished": completion.finished,
        "entropy": float(completion.sampler_entropy.mean()),
    }


def scores(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`<split>/mean@k`, `pass@k`, `greedy`, `format`, `entropy`, `length` of evaluation rows."""
    result: dict[str, float] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        sampled = [row for row in rows if row["split"] == split and row["decoding"] == SAMPLED]
        greedy = [row for row in rows if row["split"] == split and row["decoding"] == GREEDY]
        by_problem: dict[str, list[float]] = {}
        for row in sampled:
            by_problem.setdefault(row["problem_id"], []).append(row["accuracy"])
        k = max(len(values) for values in by_problem.values())
        tokens = sum(row["tokens"] for row in sampled)
        result[f"{split}/mean@{k}"] = float(np.mean([row["accuracy"] for row in sampled]))
        result[f"{split}/pass@{k}"] = float(
            np.mean([pass_at_k(len(values), int(sum(values)), k) for values in by_problem.values()])
        )
        result[f"{split}/greedy"] = float(np.mean([row["accuracy"] for row in greedy]))
        result[f"{split}/format"] = float(np.mean([row["format"] for row in sampled]))
        result[f"{split}/entropy"] = sum(row["entropy"] * row["tokens"] for row in sampled) / tokens
        result[f"{split}/length"] = tokens / len(sampled)
    return result


def evaluation_means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each (step, split, decoding) of the `eval` table, in order: mean accuracy over its completions."""
    found: dict[tuple[int, str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["step"], row["split"], row["decoding"]), []).append(row["accuracy"])
    return [
        {"step": step, "split": split, "decoding": decoding, "accuracy": float(np.mean(values))}
        for (step, split, decoding), values in found.items()
    ]


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased probability that one of k completions is right (arXiv 2107.03374)."""
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def first_problems(problems: ProblemSet, count: int) -> list[Problem]:
    """The first `count` problems of a split; 0 means all."""
    return [problems[i] for i in range(min(count, len(problems)) if count else len(problems))]


def check_model_folder(path: str) -> None:
    """Raise ValueError where `path` is the folder of a run, whose policy lies one level below."""
    model = Path(path) / MODEL_FOLDER
    if (Path(path) / STATUS_FILE).is_file() and not (Path(path) / "model.safetensors").exists():
        cure = (
            f"evaluate its policy: --model {model}" if model.is_dir() else "it has no model yet: finish the run first"
        )
        raise ValueError(f"model {path!r} is the folder of a run, not of a policy; {cure}")


def write_rows(rows: Sequence[dict[str, Any]], out: str) -> None:
    """Write rows of the `eval` table to the parquet file `out`, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=ARROW_SCHEMAS["eval"]), sink)
    write_atomically(Path(out), sink.getvalue().to_pybytes())
    print(f"completions: {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    settings = checked_command_line(CommandConfig, arguments, prog="python -m saei.evaluate")
    if settings.benchmarks:
        return _benchmarks(settings)
    with bad_input():
        check_model_folder(settings.model)
        config = settings.run_config()
        if settings.out:  # the folder it is written to, before an hour of sampling
            Path(settings.out).parent.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(settings.threads)
        problems = first_problems(load_problems(settings.data, settings.data.test_split), settings.problems)
        policy = load_policy(config.model, settings.data)
    try:
        with Scorer(settings.reward) as scorer, engine_serving(policy, settings.rollout, config.model, 0):
            rows = evaluate_split(policy, scorer, problems, config, split=settings.data.test_split, step=0)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("interrupted; nothing is kept of a split that is not whole") from interrupt
    print(f"model {settings.model}, {len(problems)} problems of {settings.data.source}/{settings.data.test_split}")
    for name, value in scores(rows).items():
        print(f"{name:<32} {value:.4f}")
    if settings.out:
        write_rows(rows, settings.out)
    return 0


def _benchmarks(settings: CommandConfig) -> int:
    from saei.benchmarks.run import Evaluation, run_benchmarks  # which uses this module

    with bad_input():
        check_model_folder(settings.model)
        config = replace(settings.run_config(), data=settings.data)
        config = replace(config, eval=replace(config.eval, samples=max(1, settings.benchmark.samples)))
    torch.set_num_threads(settings.threads)
    return run_benchmarks(
        Evaluation(
            names=settings.benchmarks,
            folder=settings.benchmark_data,
            benchmark=settings.benchmark,
            judge=settings.judge,
            config=config,
            out=settings.out,
        )
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
