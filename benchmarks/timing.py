"""What every benchmark shares: contenders timed in turns, their medians and spread, and the JSON beside the table.

Contenders take turns within one process, after a warm-up, so that whatever slows the machine down slows all of them; a
ratio is the median of the ratios of the rounds, not of two medians.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from saei.commit import code_facts


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds (or whatever was measured) of the rounds: median, quartiles, how many."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(median(values), low, high, len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def alternate(contenders: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Wall-clock seconds of every contender in every round; each takes its turn once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(warm_up + rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: list[float], base: list[float]) -> Spread:
    """How many times as long as `base`, round by round."""
    return Spread.of([own / other for own, other in zip(seconds, base, strict=True)])


def machine(packages: tuple[str, ...] = ("torch", "transformers")) -> dict[str, Any]:
    """Where and with what a benchmark ran: CPU, cores, memory, load before it began, versions, commit, time."""
    facts = code_facts()
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": facts["git_sha"],
        "uncommitted_changes": facts["git_dirty"],
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def write_figures(out: str, name: str, where: dict[str, Any], figures: Any) -> None:
    """Write a benchmark's figures to the JSON file `out`; nothing where `out` is empty. `where` is `machine()`'s.

    The settings among the figures are kept without their `out`: a path of one machine says nothing on another.
    """
    if out:
        if "settings" in figures:
            figures = {**figures, "settings": {k: v for k, v in figures["settings"].items() if k != "out"}}
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps({"benchmark": name, "machine": where, "figures": figures}, indent=1) + "\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
