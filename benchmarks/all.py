"""Every benchmark that needs no GPU and no cluster, one after another, and what each found on one page.

python -m benchmarks.all                                # writes benchmarks/results/<date>-<commit>/
python -m benchmarks.all --only sweep status --quick    # seconds; for a look

Each is a process of its own. One that fails is told and the others go on; the exit code is 1 then. To be read as
figures they want a machine without other work: where it has some, a warning says so, and `load_before` in every file.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.limits import check, run_benchmark
from saei.cli import BadInput
from saei.commit import code_facts

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("step_vs_trl", "prefix", "sampler", "attack", "memory", "sweep", "status", "report")
"""The benchmarks, in the order in which they run: `python -m benchmarks.<name> --out FILE`."""
RESULTS = ROOT / "benchmarks" / "results"
BUSY = 0.5
"""Load average above which a machine has other work."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to run."""

    only: tuple[str, ...] = ()
    """These benchmarks; none: all of them."""
    threads: int = 1
    """CPU threads of torch."""
    quick: bool = False
    """Few rounds of small sizes: shows that each runs, says nothing about speed."""
    out: str = ""
    """Folder of the files; empty: a new one, benchmarks/results/<date>-<commit>, with -quick where it is a look."""

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in NAMES:
                raise BadInput(f"--only: there is no benchmark {name!r} here; choose from {', '.join(NAMES)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one benchmark ended."""

    name: str
    seconds: float
    code: int
    text: str
    """What it printed: its tables."""


def folder_name() -> str:
    """<date>-<commit>, with `-changed` where the code is not what the commit holds."""
    facts = code_facts()
    changed = "-changed" if facts["git_dirty"] else ""
    return f"{datetime.now(UTC):%Y-%m-%d}-{str(facts['git_sha'])[:8]}{changed}"


def new_folder(results: Path, quick: bool) -> Path:
    """A folder that is not there yet, so that no figures are overwritten; with `-quick` where none are meant."""
    name = folder_name() + ("-quick" if quick else "")
    tries = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(results / one for one in tries if not (results / one).exists())


def busy_warning(load: float) -> str:
    """A sentence where other work would be in the figures; "" where there is none."""
    if load <= BUSY:
        return ""
    return (
        f"warning: the load of this machine is {load:.2f} before anything was started: these figures will have other "
        "work in them. Ratios of alternating rounds suffer less than seconds; for figures to keep, run it idle"
    )


def run_one(name: str, folder: Path, settings: Settings) -> Ended:
    """Run a benchmark; its words are shown as they come, and kept."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(folder / f"{name}.json")]
    command += ["--threads", str(settings.threads), *(["--quick"] if settings.quick else [])]
    threads = {variable: str(settings.threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    begun, lines = time.perf_counter(), list[str]()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **threads}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None, "a pipe was asked for"
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            process.terminate()
            raise
    return Ended(name=name, seconds=time.perf_counter() - begun, code=process.returncode, text="".join(lines))


def read_machine(folder: Path, ended: list[Ended]) -> dict[str, Any]:
    """What the first file says of the machine; {} where there is none."""
    paths = (folder / f"{one.name}.json" for one in ended)
    return next((json.loads(path.read_text())["machine"] for path in paths if path.exists()), {})


def page(ended: list[Ended], where: dict[str, Any], warning: str, quick: bool) -> str:
    """All tables as Markdown: where they were measured first, then each benchmark as it printed itself."""
    facts = ("when", "commit", "cpu", "cores", "memory_gb", "load_before", "python", "versions")
    lines = ["# Benchmarks", "", *(f"- {name}: {where[name]}" for name in facts if name in where)]
    lines += ["- quick: a few rounds of small sizes, which say nothing about speed"] if quick else []
    lines += [f"- {warning}"] if warning else []
    lines += ["", "| benchmark | seconds | ended |", "|---|---|---|"]
    lines += [f"| `{one.name}` | {one.seconds:.0f} | {_how(one)} |" for one in ended]
    for one in ended:
        lines += ["", f"## {one.name}", "", "```", one.text.strip("\n"), "```"]
    return "\n".join(lines) + "\n"


def _how(one: Ended) -> str:
    return "whole" if one.code == 0 else f"failed, exit code {one.code}"


def main(settings: Settings) -> int:
    """Run them, print the time of each, write the page. Returns 1 where any failed."""
    check(settings, out_is_folder=True)
    console = Console(width=120)
    folder = Path(settings.out) if settings.out else new_folder(RESULTS, settings.quick)
    folder.mkdir(parents=True, exist_ok=True)
    warning = busy_warning(os.getloadavg()[0])
    if warning:
        print(warning, file=sys.stderr, flush=True)
    ended: list[Ended] = []
    for name in settings.only or NAMES:
        console.rule(name)
        ended.append(run_one(name, folder, settings))
        console.print(f"{name}: {ended[-1].seconds:.0f} s, {_how(ended[-1])}")
    (folder / "table.md").write_text(page(ended, read_machine(folder, ended), warning, settings.quick))
    table = Table("benchmark", "seconds", "ended", title=f"{sum(one.seconds for one in ended) / 60:.1f} minutes")
    for one in ended:
        table.add_row(one.name, f"{one.seconds:.0f}", _how(one))
    console.print(table)
    console.print(f"figures: {folder}", soft_wrap=True)
    return int(any(one.code for one in ended))


if __name__ == "__main__":
    sys.exit(run_benchmark(lambda: main(tyro.cli(Settings, prog="python -m benchmarks.all"))))
