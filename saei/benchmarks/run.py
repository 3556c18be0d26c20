"""Evaluating a policy on benchmarks, block by block: ask, decide, keep; then scores, a table and `summary.json`.

A block holds always the same items (`blocks`), so that an evaluation that was killed and continued has the numbers
of one that was not, bit for bit on a CPU.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from saei.atomic import write_json
from saei.benchmarks import benchmarks_named
from saei.benchmarks.blocks import blocks, interrupted_words, kept_items, progress_of
from saei.benchmarks.decide import decide
from saei.benchmarks.item import UNDECIDED, Ask, Benchmark, Item, Verdict
from saei.benchmarks.judge import make_judge
from saei.benchmarks.record import NOT_ASKED, Kept, is_open
from saei.benchmarks.rows import Loaded, load_items
from saei.benchmarks.scores import Score, scored
from saei.benchmarks.show import show_scores
from saei.cli import bad_input
from saei.config import Config
from saei.data.catalog import prompt_texts
from saei.data.pictures import decode
from saei.engines.serving import engine_serving
from saei.evaluate import evaluation_completions
from saei.graders.pool import WorkerPool
from saei.identity import weights_fingerprint
from saei.metrics import storable
from saei.policy import Policy, load_policy
from saei.presets import RECIPE_7B
from saei.rollout import hash_images
from saei.schema import GREEDY, SAMPLED
from saei.settings.benchmarking import BenchmarkConfig, JudgeConfig
from saei.types import Problem, Prompt, SampledCompletion

SCORING = 1
"""Version of prompts, reading and scoring; part of an evaluation's identity."""
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is evaluated and how: `config` has the model, the sampling and `eval.samples`."""

    names: str
    folder: str
    benchmark: BenchmarkConfig
    judge: JudgeConfig
    config: Config
    out: str


@dataclass(slots=True)
class _Asked:
    """An item with its prompt, or with the reason why it has none, and its completions by decoding."""

    item: Item
    number: int
    prompt: Prompt | None
    status: str
    completions: dict[str, list[SampledCompletion]]


def run_benchmarks(evaluation: Evaluation) -> int:
    """Evaluate, print the table, write `summary.json`; returns the exit code.

    Raises BadInput for what the user can mend, before the model is loaded where possible.
    """
    with bad_input():
        evaluation = _with_published_prompt(evaluation)
        chosen = benchmarks_named(evaluation.names)
        ask = make_judge(evaluation.judge)
        loaded = {
            name: load_items(name, benchmark, evaluation.benchmark, evaluation.folder)
            for name, benchmark in chosen.items()
        }
        settings = _settings(evaluation)
        weights = weights_fingerprint(evaluation.config.model.path, evaluation.config.model.revision)
        out = Path(evaluation.out or _default_folder(evaluation, settings, weights))
        out.mkdir(parents=True, exist_ok=True)
    print(_budget(evaluation.config), end="", file=sys.stderr)
    asker = _Asker(evaluation, ask)
    results: dict[str, Any] = {}
    try:
        for name, benchmark in chosen.items():
            kept = Kept(out / name)
            identity = {
                "settings": settings,
                "weights": weights,
                "items": loaded[name].stamp,
                "scoring": SCORING,
                "judge": _judge(evaluation.judge),
            }
            with interrupted_words(out, list(chosen)), kept.held(identity):
                rows = _complete(kept, asker, name, benchmark, loaded[name])
            results[name] = _result(benchmark, loaded[name], rows)
    finally:
        asker.close()
    summary = {
        "model": evaluation.config.model.path,
        "weights": weights,
        "settings": settings,
        "judge": _judge(evaluation.judge),
        "benchmarks": results,
    }
    write_json(out / SUMMARY_FILE, summary)
    show_scores(results)
    print(f"per item: {out}/<benchmark>/items/*.parquet, all scores: {out / SUMMARY_FILE}")
    return 0


def _budget(config: Config) -> str:
    """A line on what is smaller than in NoisyRollout's evaluation, as the defaults for the tiny model are, or ""."""
    given = {"data.max_pixels": config.data.max_pixels, "rollout.max_new_tokens": config.rollout.max_new_tokens}
    small = {name: value for name, value in given.items() if value < RECIPE_7B[name]}
    if not small or config.model.path == "tiny":
        return ""
    flags = " ".join(f"--{name.replace('_', '-')} {RECIPE_7B[name]}" for name in ("data.min_pixels", *given))
    what = " and ".join(f"{name} is {value}" for name, value in small.items())
    return f"note: {what}, less than in published evaluations, whose scores need {flags}\n"


def _with_published_prompt(evaluation: Evaluation) -> Evaluation:
    """NoisyRollout's system message, unless the user names another prompt."""
    data = evaluation.config.data
    if evaluation.benchmark.prompts != "noisyrollout" or data.prompt or data.system_prompt or data.prompt_suffix:
        return evaluation
    return replace(evaluation, config=replace(evaluation.config, data=replace(data, prompt="noisyrollout")))


def _settings(evaluation: Evaluation) -> dict[str, Any]:
    """Every setting that can change a number, but for the judge."""
    config = evaluation.config
    around = prompt_texts(config.data)
    own = asdict(evaluation.benchmark)
    own.pop("skip_missing")  # what it changes, the items, has a stamp of its own
    return {
        "seed": config.seed,
        "dtype": config.model.dtype,
        "max_new_tokens": config.rollout.max_new_tokens,
        "batch_rows": config.rollout.batch_rows,
        "pixels": [config.data.min_pixels, config.data.max_pixels],
        "prompt": {"system": around.system, "prefix": around.prefix, "suffix": around.suffix},
        "benchmark": own,
        **({"engine": config.rollout.engine} if config.rollout.engine != "transformers" else {}),
    }


def _judge(judge: JudgeConfig) -> dict[str, Any]:
    """What is asked about what rules cannot decide; empty: nobody."""
    return {"model": judge.model, "max_tokens": judge.max_tokens} if judge.mode != "off" else {}


def _default_folder(evaluation: Evaluation, settings: Mapping[str, Any], weights: str) -> Path:
    digest = hashlib.sha256(json.dumps([settings, weights], sort_keys=True).encode()).hexdigest()[:8]
    path = Path(evaluation.config.model.path)
    name = path.parent.name if path.name == "model" and path.parent.name else path.name
    return Path("results") / "benchmarks" / f"{name}-{digest}"


def _complete(kept: Kept, asker: "_Asker", name: str, benchmark: Benchmark, loaded: Loaded) -> list[dict[str, Any]]:
    """Evaluate the blocks that are missing; all rows."""
    count = len(loaded.items)
    with progress_of(benchmark.title, count, kept_items(kept.folder), kept.folder) as done:
        for block in blocks(count, asker.config, asker.samples):
            if not kept.has(block[0], block[-1]):
                kept.add(block[0], block[-1], asker.rows(name, benchmark, loaded, block))
                done(block.stop)
    for first, last, rows in kept.undecided() if asker.has_judge else ():  # of a run without it
        kept.add(first, last, asker.judged(benchmark, loaded, rows))
    return kept.finish()


class _Asker:
    """The policy, loaded when the first item is asked, the grader processes and the judge."""

    def __init__(self, evaluation: Evaluation, ask: Ask | None) -> None:
        self.config = evaluation.config
        self._evaluation, self._ask = evaluation, ask
        self._pool = WorkerPool(self.config.reward.workers, self.config.reward.timeout_s)
        self._policy: Policy | None = None
        self._serving = ExitStack()

    def close(self) -> None:
        """End the grader processes, and the engine where there is one."""
        self._pool.close()
        self._serving.close()

    @property
    def policy(self) -> Policy:
        if self._policy is None:
            with bad_input():
                self._policy = load_policy(self.config.model, self.config.data)
            self._serving.enter_context(engine_serving(self._policy, self.config.rollout, self.config.model, 0))
        return self._policy

    @property
    def samples(self) -> int:
        """Sampled completions of each item."""
        return self._evaluation.benchmark.samples

    @property
    def has_judge(self) -> bool:
        return self._ask is not None

    def judged(self, benchmark: Benchmark, loaded: Loaded, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`rows` with the judge's verdict on those that are open."""
        asked = [row for row in rows if is_open(row)]
        verdicts = self._decided(
            benchmark, [row["output"] for row in asked], [loaded.items[row["item"]] for row in asked]
        )
        found = {
            (row["item"], row["decoding"], row["index"]): verdict for row, verdict in zip(asked, verdicts, strict=True)
        }
        return [
            {**row, **_verdict_columns(found[key])}
            if (key := (row["item"], row["decoding"], row["index"])) in found
            else row
            for row in rows
        ]

    def _decided(self, benchmark: Benchmark, texts: Sequence[str], items: Sequence[Item]) -> list[Verdict]:
        return decide(
            benchmark,
            texts,
            items,
            self._pool,
            ask=self._ask,
            ask_always=self._evaluation.benchmark.judge_always,
            threads=self._evaluation.judge.threads,
        )

    def rows(self, name: str, benchmark: Benchmark, loaded: Loaded, numbers: range) -> list[dict[str, Any]]:
        """Ask the items of these numbers and decide on every completion."""
        asked = [self._encoded(name, loaded, number) for number in numbers]
        decodings = (GREEDY, SAMPLED) if self._evaluation.benchmark.samples else (GREEDY,)
        for decoding in decodings:
            # apart, so that what is beside an item in a batch does not depend on which others have pictures
            for pictured in (True, False):
                self._sample([one for one in asked if one.prompt and bool(one.prompt.images) is pictured], decoding)
        flat = [
            (one, decoding, index, completion)
            for one in asked
            for decoding in decodings
            for index, completion in enumerate(one.completions.get(decoding) or [None] * self._wanted(decoding))
        ]
        texts = [self.policy.decode(done.token_ids) if done else "" for *_, done in flat]
        verdicts = self._decided(benchmark, texts, [one.item for one, *_ in flat])
        return [
            _row(name, one, decoding, index, done, text, verdict)
            for (one, decoding, index, done), text, verdict in zip(flat, texts, verdicts, strict=True)
        ]

    def _wanted(self, decoding: str) -> int:
        """Completions of an item; one that cannot be asked has as many rows, or mean@k and pass@k would lose theirs."""
        return self._evaluation.benchmark.samples if decoding == SAMPLED else 1

    def _encoded(self, name: str, loaded: Loaded, number: int) -> _Asked:
        item = loaded.items[number]
        try:
            images = tuple(decode(picture) for picture in loaded.pictures(number))
            problem = Problem(
                problem_id=f"{name}/{item.item_id}", images=images, question=item.prompt, answer=item.gold
            )
            return _Asked(item, number, self.policy.encode(problem), "ok", {})
        except ValueError as error:  # a picture that cannot be read, a prompt too long: an outcome of this item
            return _Asked(item, number, None, f"{NOT_ASKED}: {error}"[:300], {})

    def _sample(self, asked: Sequence[_Asked], decoding: str) -> None:
        if not asked:
            return
        prompts = [one.prompt for one in asked if one.prompt is not None]
        images = [prompt.images for prompt in prompts]
        done = evaluation_completions(self.policy, prompts, images, self.config, decoding=decoding)
        for one, completions in zip(asked, done, strict=True):
            one.completions[decoding] = completions


def _row(
    name: str, asked: _Asked, decoding: str, index: int, done: SampledCompletion | None, text: str, verdict: Verdict
) -> dict[str, Any]:
    images = asked.prompt.images if asked.prompt else ()
    if done is None:  # nothing was asked, whatever an empty output is worth
        verdict = Verdict(right=False, parse="", decided_by=UNDECIDED, status=asked.status)
    return {
        "benchmark": name,
        "item": asked.number,
        "item_id": asked.item.item_id,
        "decoding": decoding,
        "index": index,
        "prompt": storable(asked.item.prompt),
        "output": storable(text),
        "gold": asked.item.gold,
        **_verdict_columns(verdict),
        "figure": hash_images(images) if images else "",
        "facts": json.dumps(asked.item.facts),
        "tokens": len(done.token_ids) if done else 0,
        "finished": done.finished if done else False,
        "entropy": float(done.sampler_entropy.mean()) if done else float("nan"),
    }


def _verdict_columns(verdict: Verdict) -> dict[str, Any]:
    return {
        "parse": storable(verdict.parse),
        "right": verdict.right,
        "decided_by": verdict.decided_by,
        "status": storable(verdict.status),
        "judge_reply": storable(verdict.judge_reply),
    }


def _result(benchmark: Benchmark, loaded: Loaded, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `summary.json` says of one benchmark."""

    def counted(column: str) -> dict[str, int]:
        values = [str(row[column]).partition(":")[0] for row in rows]
        return {value: values.count(value) for value in sorted(set(values))}

    found: list[Score] = scored(benchmark, loaded.items, rows)
    return {
        "title": benchmark.title,
        "from": loaded.where,
        "items": len(loaded.items),
        "items_published": benchmark.rows,
        "skipped": dict(loaded.skipped),
        "decided_by": counted("decided_by"),
        "status": counted("status"),
        "cut": sum(row["tokens"] > 0 and not row["finished"] for row in rows),
        "scores": [score.plain() for score in found],
    }
