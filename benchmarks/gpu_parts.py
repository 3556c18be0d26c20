"""The parts of benchmarks/gpu.py: each gives rows of one table, within its share of the wall-clock budget.

A row is a contender at a point, or the reason why it is not there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import decoding, made_up, packed_group
from benchmarks.budget import Budget, rounds_within
from benchmarks.decoding import SamplingWork
from benchmarks.packed_group import FLOOR, PACKED, PER_ROW, Point, backward, finished, forward, group_work
from benchmarks.random_model import random_policy
from benchmarks.stock import stock_policy, with_attention
from benchmarks.timing import Spread, ratio
from saei.attention import implementation
from saei.head import head_scores, softmax_scores

Row = dict[str, Any]

GROUPS = {"tiny": ("64x3x16",), "large": ("256x8x128", "1024x12x300", "2048x8x512", "1024x12x1024")}
"""PREFIXxCOMPLETIONSxLENGTH."""
SAMPLED = {"tiny": ("64x2x8",), "large": ("256x1x128", "1024x1x128", "256x8x128", "1024x8x128")}
"""PREFIXxPROMPTSxLENGTH, `COMPLETIONS` each."""
HEAD = {"tiny": ("64x1x100",), "large": ("1x1x4096", "1x1x16384")}
"""The last number is the tokens."""
COMPLETIONS = {"tiny": 3, "large": 12}
PACK_TOKENS = 16_384
PLAIN_TOKENS = 8192
"""Tokens of a pass over plain rows: what a peer would choose as its micro-batch."""
PASSES = {"forward": "forward", "backward": "forward + backward"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The models under test, and how exactly results agree in their type: nats, share of the largest gradient."""

    policy: Any
    stock: Any
    size: str
    nats: float
    gradient: float
    most_rounds: int = 20


def point_of(text: str) -> Point:
    return Point(*map(int, text.split("x")))


@contextmanager
def told(rows: list[Row], point: str) -> Iterator[None]:
    """A point that does not fit into the memory is a row that says so."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows.append({"point": point, "why": f"out of memory: {str(error).splitlines()[0]}"})
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check(scale_device: str) -> list[Row]:
    """In float32, on a tiny model on this device: packed and plain scores, ours and `generate`, before anything else.

    In bfloat16 two right results differ too much for a sharp comparison.
    """
    policy = random_policy("tiny", scale_device, torch.float32)
    stock = stock_policy(policy)
    work = group_work(policy, stock, Point(64, 4, 24), shortest=0.5, pack_tokens=PACK_TOKENS)
    nats, gradient = packed_group.assert_equal_work(work, 1e-3, 1e-2)
    greedy = decoding.assert_equal_work(_sampling(policy, stock, Point(64, 2, 16), 3), 16, tied=1e-2)
    return [
        {"point": "tiny, float32", "contender": "packed against plain rows", "differ": f"{nats:.1e} nats"},
        {"point": "", "contender": "gradients", "differ": f"{gradient:.1e} of the largest"},
        {"point": "", "contender": "greedy tokens equal to generate's", "differ": str(greedy["greedy_tokens_equal"])},
    ]


def rate_of_products(policy: Any) -> float:
    """Measured operations a second of a large matrix product in the type of the weights."""
    side = 8192 if policy.device.type == "cuda" else 512
    left = torch.randn(side, side, device=policy.device).to(policy.model.dtype)
    (seconds,) = rounds_within(Budget(2.0), {"product": lambda: finished(left @ left)}, most=20, least=10).values()
    return 2 * side**3 / Spread.of(seconds).median


def products_row(work: packed_group.GroupWork, rate: float, seconds: dict[str, list[float]]) -> Row:
    """The least that the decoder's weights ask for: two operations a weight and packed token, at the measured rate.

    Attention, image tower and head are not in it.
    """
    layers = work.policy.model.model.language_model.layers
    least = 2 * sum(weight.numel() for weight in layers.parameters()) * work.packed_tokens / rate
    values = seconds[f"{PACKED}: forward"]
    return {
        "point": "",
        "contender": f"decoder's products at {rate / 1e12:.3g} TFLOP/s, forward",
        "milliseconds": Spread.of([1000 * least]),
        "ratio": ratio([least] * len(values), values),
    }


def packed(machine: Machine, budget: Budget) -> list[Row]:
    """Packed groups against plain rows of the stock forward, and a plain forward of as many tokens."""
    rows: list[Row] = []
    rate = rate_of_products(machine.policy)
    for name, share in budget.shares(GROUPS[machine.size]):
        with told(rows, name):
            point = point_of(name)
            at_once = max(1, PLAIN_TOKENS // (point.prefix + point.length))
            options = {"shortest": 1.0, "pack_tokens": PACK_TOKENS, "plain_rows_at_once": at_once}
            work = group_work(machine.policy, machine.stock, point, **options)
            packed_group.assert_equal_work(work, machine.nats, machine.gradient)
            seconds = rounds_within(share, _passes(work, packed_group.contenders(work)), machine.most_rounds)
            scale = work.packed_tokens / work.floor.tokens
            for kind in PASSES:
                seconds[f"{FLOOR}: {kind}"] = [value * scale for value in seconds[f"{FLOOR}: {kind}"]]
            rows += _rows(name, seconds, lambda contender: contender.replace(contender.split(": ")[0], PACKED))
            rows.append(products_row(work, rate, seconds))
    return rows


def sampler(machine: Machine, budget: Budget) -> list[Row]:
    """Our sampler against `generate`, and the plain forwards that any sampler must do."""
    rows: list[Row] = []
    for name, share in budget.shares(SAMPLED[machine.size]):
        with told(rows, name):
            work = _sampling(machine.policy, machine.stock, point_of(name), COMPLETIONS[machine.size])
            decoding.assert_equal_work(work, 16, tied=machine.nats)
            seconds = rounds_within(share, decoding.contenders(work), machine.most_rounds)
            least = decoding.floor(work, seconds)
            timed = {decoding.OURS: seconds[decoding.OURS], decoding.GENERATE: seconds[decoding.GENERATE]}
            rows += _rows(name, timed | {"floor": least}, lambda contender: decoding.OURS)
    return rows


def head(machine: Machine, budget: Budget) -> list[Row]:
    """Log-probs, entropies and their gradients from hidden states: ours, and all logits at once. Peak bytes on CUDA."""
    rows: list[Row] = []
    layer = machine.policy.model.get_output_embeddings()
    for name, share in budget.shares(HEAD[machine.size]):
        with told(rows, name):
            tokens = point_of(name).length
            generator = torch.Generator().manual_seed(0)
            states = torch.randn(tokens, layer.weight.shape[1], generator=generator).to(layer.weight)
            targets = made_up.words(machine.policy, tokens, generator).to(layer.weight.device)
            ways = {
                "ours": partial(_head_pass, head_scores, layer, states, targets),
                "all logits": partial(_head_pass, softmax_scores, layer, states, targets),
            }
            peaks = {way: _peak_mib(run) for way, run in ways.items()}
            values = {way: run() for way, run in ways.items()}
            apart = float((values["ours"] - values["all logits"]).abs().max())
            assert apart <= machine.nats, f"heads differ by {apart:.2g} nats"
            seconds = rounds_within(share, ways, machine.most_rounds)
            found = _rows(f"{tokens} tokens", seconds, lambda contender: "ours")
            for row in found:
                row["peak MiB"] = peaks[row["contender"]]
            rows += found
    return rows


def attention(machine: Machine, budget: Budget) -> list[Row]:
    """Packed groups under our sdpa (by blocks), flex_attention, and the stock sdpa with a dense mask."""
    rows: list[Row] = []
    device = str(machine.policy.device)
    policies = {"sdpa": machine.policy, "dense mask": machine.stock}
    try:
        policies["flex"] = with_attention(machine.policy, implementation("flex", device))
    except ValueError as error:
        rows.append({"point": "all", "contender": "flex", "why": str(error)})
    for name, share in budget.shares(GROUPS[machine.size]):
        with told(rows, name):
            options = {"shortest": 1.0, "pack_tokens": PACK_TOKENS}
            works = {way: group_work(own, own, point_of(name), **options) for way, own in policies.items()}
            scores = {way: forward([partial(packed_group.packed_scores, work)]) for way, work in works.items()}
            for way, values in scores.items():
                apart = float((values - scores["sdpa"]).abs().max())
                assert apart <= machine.nats, f"{way} and sdpa differ by {apart:.2g} nats"
            runs: dict[str, Callable[[], Any]] = {}
            for way, work in works.items():
                runs |= _passes(work, {way: [partial(packed_group.packed_scores, work)]})
            for run in runs.values():  # flex_attention is compiled for each new shape
                run()
            seconds = rounds_within(share, runs, machine.most_rounds)
            rows += _rows(name, seconds, lambda contender: contender.replace(contender.split(": ")[0], "sdpa"))
    return rows


def _passes(work: packed_group.GroupWork, ways: dict[str, packed_group.Passes]) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for name, passes in ways.items():
        found[f"{name}: forward"] = partial(forward, passes)
        found[f"{name}: backward"] = partial(backward, work, passes)
    return found


def _rows(point: str, seconds: dict[str, list[float]], base: Callable[[str], str]) -> list[Row]:
    """A row for each contender: seconds, and how many times those of `base(contender)`."""
    rows = []
    for number, (name, values) in enumerate(seconds.items()):
        way, _, kind = name.partition(": ")
        rows.append(
            {
                "point": point if number == 0 else "",
                "contender": f"{way}, {PASSES[kind]}" if kind else way,
                "milliseconds": Spread.of([1000 * value for value in values]),
                "ratio": ratio(values, seconds[base(name)]),
            }
        )
    return rows


def _sampling(policy: Any, stock: Any, point: Point, completions: int) -> SamplingWork:
    generator = torch.Generator().manual_seed(0)
    prompts = [made_up.prompt(policy, point.prefix, generator, f"p{i}") for i in range(point.completions)]
    return SamplingWork(
        policy=policy, stock=stock, prompts=tuple(prompts), completions=completions, length=point.length, batch_rows=96
    )


def _head_pass(scores: Callable[..., Any], layer: Any, states: Any, targets: Any) -> torch.Tensor:
    wanted = states.detach().requires_grad_()
    logprobs, _, _ = scores(layer, wanted, targets, temperature=1.0, entropy_grad=False)
    torch.autograd.grad(-logprobs.mean(), [wanted, layer.weight])
    return finished(logprobs.detach())


def _peak_mib(run: Callable[[], Any]) -> str:
    if not torch.cuda.is_available():
        return "needs CUDA"
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f}"


PARTS: dict[str, tuple[Callable[[Machine, Budget], list[Row]], float]] = {
    f"Packed groups ({PACKED}) against plain rows ({PER_ROW})": (packed, 0.4),
    "Our sampler against generate": (sampler, 0.25),
    "LM head, forward + backward": (head, 0.1),
    "Attention of packed groups": (attention, 0.25),
}
"""Title -> the part and its share of the budget."""
