"""Peak memory and time of log-probs, entropies and their gradients at a large vocabulary: our head beside others.

    python -m benchmarks.memory
    python -m benchmarks.memory --width 1024          # minutes longer
    python -m benchmarks.memory --device cuda --dtype bfloat16 --width 2048

**Memory**: one forward and backward pass of each head, in a process of its own. Counted is the highest number of bytes
held during the pass (on a CPU the resident memory of the process, on a GPU what torch's allocator handed out) less what
was held before it: states, weight, targets and the loaded code. So the gradients of states and weight, which every head
must return, are counted; "beyond them" is the rest. The naive head is `logits -> log_softmax -> gather, entropy` and
autograd.

**Time**: the heads take turns in this process, on fewer tokens, where all fit. Values and gradients of all are asserted
equal to the naive head's before anything is timed, and their norms at the full size.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.budget import Budget, rounds_within
from benchmarks.heads import HEADS, TOLERANCE, Case, Missing, Size, refuse_other_results
from benchmarks.limits import check, run_benchmark
from benchmarks.timing import Spread, machine, ratio, write_figures
from saei.cli import BadInput, Told

ROOT = Path(__file__).resolve().parent.parent
BASE = "naive"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    heads: tuple[str, ...] = tuple(HEADS)
    """These, in this order; `naive`, which the others are compared with, must be one of them."""
    tokens: int = 4096
    """Completion tokens of the memory runs."""
    vocabulary: int = 151936
    """Entries of the vocabulary: Qwen2.5-VL's by default."""
    width: int = 256
    """Width of the hidden states: what a head holds beyond the gradients hardly depends on it, its time does."""
    temperature: float = 1.0
    """Temperature of the softmax."""
    timed_tokens: int = 128
    """Completion tokens of the timed turns."""
    rounds: int = 10
    """At most so many timed rounds, and at least 3."""
    seconds: float = 15.0
    """Wall-clock seconds for the timed rounds."""
    dtype: str = "float32"
    """Type of states and weight: float32 or bfloat16."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """CPU threads of torch in the timed turns. The memory runs take all cores: peaks do not depend on them."""
    quick: bool = False
    """A small size, three rounds: seconds, for the test."""
    out: str = ""
    """Write the figures to this JSON file."""

    def __post_init__(self) -> None:
        for name in self.heads:
            if name not in HEADS:
                raise BadInput(f"--heads: there is no head {name!r}; choose from {', '.join(HEADS)}")
        if BASE not in self.heads:
            raise BadInput(f"--heads: {BASE} must be one of them, the others are compared with it")
        if self.dtype not in TOLERANCE:
            raise BadInput(f"--dtype {self.dtype!r}: choose from {', '.join(TOLERANCE)}")


def sizes_of(settings: Settings) -> tuple[Size, Size]:
    """Of the memory runs and of the timed turns."""
    whole = Size(
        tokens=settings.tokens,
        vocabulary=settings.vocabulary,
        width=settings.width,
        temperature=settings.temperature,
        dtype=settings.dtype,
        device=settings.device,
        threads=os.cpu_count() or 1,
    )
    if settings.quick:
        whole = replace(whole, tokens=1024, vocabulary=20000, width=32)
    return whole, replace(whole, tokens=min(settings.timed_tokens, whole.tokens), threads=settings.threads)


def held(name: str, size: Size) -> dict[str, Any]:
    """What `heads.measured` finds in a fresh process. Raises Told where that process fails."""
    command = [sys.executable, "-m", "benchmarks.heads", name, json.dumps(asdict(size))]
    threads = {variable: str(size.threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    options: Any = {"env": {**os.environ, **threads}, "cwd": ROOT, "capture_output": True, "text": True}
    ended = subprocess.run(command, check=False, **options)
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["killed, perhaps for its memory"])[-1]
        raise Told(f"the {name} head ended with code {ended.returncode} at {size.tokens} tokens: {last}")
    return json.loads(ended.stdout.splitlines()[-1])


def memory_of(settings: Settings, size: Size) -> dict[str, dict[str, Any]]:
    """Of every head, one process after another. Raises Told where one's results are not the naive head's."""
    found = {name: held(name, size) for name in settings.heads}
    base = found[BASE]
    for name, one in found.items():
        for own, expected in zip(one.get("digest", ()), base.get("digest", ()), strict=True) if "bytes" in one else ():
            if not abs(own - expected) <= max(TOLERANCE[size.dtype]) * abs(expected):
                raise Told(f"{name}: a result of norm {own:g} where the naive head's has {expected:g}: not equal work")
    for one in found.values():
        if "bytes" in one:
            one["beyond_gradients"] = one["bytes"] - one["gradient_bytes"]
            one["naive_over_it"] = base["bytes"] / one["bytes"]
    return found


def times_of(settings: Settings, size: Size) -> dict[str, dict[str, Any]]:
    """Of every head that runs here, in turns, after their results were found equal."""
    case, ready, missing = Case(size), {}, {}
    for name in settings.heads:
        try:
            ready[name] = HEADS[name]()
        except Missing as error:
            missing[name] = {"missing": str(error)}
    expected = case.turn(ready[BASE])
    for name, head in ready.items():
        refuse_other_results(name, case.turn(head), expected, size.dtype)
    most = 3 if settings.quick else settings.rounds
    turns = {name: partial(case.turn, head) for name, head in ready.items()}
    seconds = rounds_within(Budget(settings.seconds), turns, most)
    return missing | {
        name: {"seconds": asdict(Spread.of(values)), "over_naive": asdict(ratio(values, seconds[BASE]))}
        for name, values in seconds.items()
    }


def tables_of(
    memory: dict[str, dict[str, Any]], times: dict[str, dict[str, Any]], whole: Size, part: Size
) -> list[Table]:
    """One line for each head, in either table."""
    shape = f"vocabulary {whole.vocabulary:,}, width {whole.width:,}, {whole.dtype} on {whole.device}"
    first = Table(title=f"Memory of {whole.tokens:,} tokens, {shape}")
    second = Table(title=f"Time of {part.tokens:,} tokens, {shape}, {part.threads} thread(s)")
    first.add_column("head")
    second.add_column("head")
    for column in ("peak (MB)", "beyond the gradients (MB)", "naive / it"):
        first.add_column(column, justify="right")
    for column in ("seconds (quartiles)", "it / naive (quartiles)", "rounds"):
        second.add_column(column, justify="right")
    first.add_column("")
    second.add_column("")
    for name, one in memory.items():
        sizes = () if "missing" in one else tuple(f"{one[k] / 2**20:,.0f}" for k in ("bytes", "beyond_gradients"))
        first.add_row(name, *((*sizes, f"{one['naive_over_it']:.1f}") if sizes else ("", "", "")), _told(one))
        one = times[name]
        spreads = () if "missing" in one else (Spread(**one["seconds"]), Spread(**one["over_naive"]))
        rounds = (str(spreads[0].rounds),) if spreads else ()
        second.add_row(name, *((*map(str, spreads), *rounds) if spreads else ("", "", "")), _told(one))
    return [first, second]


def _told(one: dict[str, Any]) -> str:
    return f"does not run: {one['missing']}" if "missing" in one else ""


def main(settings: Settings) -> int:
    check(settings)
    torch.set_num_threads(settings.threads)
    where = machine(
        tuple(name for name in ("torch", "transformers", "trl") if name != "trl" or "TRL" in settings.heads)
    )
    whole, part = sizes_of(settings)
    times = times_of(settings, part)
    memory = memory_of(settings, whole)
    for table in tables_of(memory, times, whole, part):
        Console(width=120).print(table)
    tree = {
        "settings": asdict(settings),
        "memory_size": asdict(whole),
        "timed_size": asdict(part),
        "memory": memory,
        "time": times,
    }
    write_figures(settings.out, "memory", where, tree)
    return 0


def command(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return main(tyro.cli(Settings, args=arguments, prog="python -m benchmarks.memory"))


if __name__ == "__main__":
    sys.exit(run_benchmark(command))
