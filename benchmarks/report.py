"""Seconds and memory of loading a sweep and of building its report, at 10, 100 and 1,000 made-up runs.

python -m benchmarks.report --runs 10 100 1000
python -m benchmarks.report --runs 1000 --seeds 10 --steps 500 --tables --report-runs 1000   # minutes, 4 GB of disk

Each read is a process of its own, on tables that nobody has joined before; one row reads what a report reads once more,
from the tables that were kept.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import tyro
from rich.console import Console
from rich.table import Table

from analysis.sweep_data import REPORT_FOLDER
from benchmarks.limits import check, run_benchmark
from benchmarks.made_up_sweep import EVERY, PROBLEMS, SWEEP, TESTED, VALIDATED, Size, write_sweep
from benchmarks.timing import Spread, machine, write_figures
from saei import schema
from saei.cli import BadInput

ROOT = Path(__file__).resolve().parent.parent
TABLES = ("steps", "views", "attacks", "problems", "attack_means")
LOAD, FIRST, AGAIN = "load_sweep", "what a report reads, first", "what a report reads, kept"
REPORT = "report, kernels included"
REPORTED = ("steps", "views", "problems", "attack_means")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to make and time."""

    runs: tuple[int, ...] = (10, 100, 1000)
    """Sizes of the made-up sweeps, multiples of --seeds."""
    seeds: int = 5
    """Runs of each arm."""
    steps: int = 50
    """Steps of each run; real runs have 150 and more."""
    rounds: int = 2
    """Rounds of reading; the sizes take turns."""
    results: str = ""
    """Keep the sweeps in this folder, and use them where they are there; a temporary folder otherwise."""
    tables: bool = False
    """Also time every table for itself."""
    report_runs: int = 10
    """Build the reports of sweeps of up to so many runs; 0: none. One of 1,000 takes minutes."""
    threads: int = 1
    """CPU threads of the numerical libraries in every process."""
    quick: bool = False
    """One sweep of 4 runs of 3 steps, read once, no report: seconds."""
    out: str = ""
    """Write the figures to this JSON file."""

    def __post_init__(self) -> None:
        for count in self.runs:
            if count < 2 * self.seeds or count % self.seeds:
                raise BadInput(f"--runs: {count} must be a multiple of --seeds {self.seeds}, for at least two arms")


def measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds of a command, and the largest memory (MiB) that it and its children held at one time."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peak), daemon=True)
    watcher.start()
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}")
    return time.perf_counter() - begun, peak[0] / 2**20


def _watch(process: psutil.Process, peak: list[float]) -> None:
    """Sum the unshared memory of the process tree ten times a second until it ends."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        total = 0
        for member in _tree(process):
            try:
                total += member.memory_full_info().uss
            except psutil.Error:  # it has just ended
                continue
        peak[0] = max(peak[0], total)
        time.sleep(0.1)


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def time_reading(results: Path, expression: str) -> tuple[float, float, list[int]]:
    """Seconds of `load_sweep` and the expression, imports not counted; the process's largest memory (MiB); rows."""
    program = (
        "import time, resource; from pathlib import Path; from analysis import load; begun = time.perf_counter(); "
        f"data = load.load_sweep(Path({str(results)!r}), {SWEEP!r}); found = {expression}; "
        "seconds = time.perf_counter() - begun; "
        "print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(data.trials), *map(len, found))"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, peak, *rows = found.stdout.split()
    return float(seconds), float(peak), [int(count) for count in rows]


def check_rows(name: str, rows: list[int], size: Size) -> None:
    """Raise AssertionError where a read did not give every row of every run."""
    each = {"steps": size.steps, "views": 2 * size.steps, "attacks": PROBLEMS * size.steps, "attack_means": 1}
    problems = VALIDATED * (1 + (size.steps + EVERY - 1) // EVERY) + TESTED
    each["problems"] = problems * 2  # decodings
    wanted = {LOAD: (), FIRST: REPORTED, AGAIN: REPORTED}.get(name, (name,))
    expected = [size.runs, *(size.runs * each[table] for table in wanted)]
    if rows != expected:
        raise AssertionError(f"{name} of {size} gave {rows} trials and rows, not {expected}")


def read_all(results: Path, size: Size, *, tables: bool) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of every read, by its name."""
    reads = {LOAD: (), **({name: (name,) for name in TABLES} if tables else {}), FIRST: REPORTED, AGAIN: REPORTED}
    found = {}
    for name, wanted in reads.items():
        if name != AGAIN:  # what an earlier read joined and kept
            shutil.rmtree(results / SWEEP / REPORT_FOLDER, ignore_errors=True)
        seconds, peak, rows = time_reading(results, f"[data.table(name) for name in {wanted!r}]")
        check_rows(name, rows, size)
        found[name] = (seconds, peak)
    return found


def build_report(results: Path) -> tuple[float, float]:
    """Seconds and MiB of the command that builds a report; the page must be there and whole."""
    folder = results / SWEEP / REPORT_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    found = measured([sys.executable, "-m", "analysis.report", SWEEP, "--results", str(results)])
    if "</html>" not in (folder / "index.html").read_text()[-100:]:
        raise AssertionError(f"{folder / 'index.html'} is not a whole page")
    return found


def measure(settings: Settings, folder: Path, console: Console) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """(seconds, MiB) of every round, by size and by what was measured."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    sizes = [Size(arms=count // settings.seeds, seeds=settings.seeds, steps=settings.steps) for count in settings.runs]
    for size in sizes:
        results = folder / str(size.runs)
        if not (results / SWEEP / schema.PLAN_FILE).exists():
            begun = time.perf_counter()
            write_sweep(results, size)
            console.print(f"made {size.runs} runs in {time.perf_counter() - begun:.0f} s")
        found[str(size.runs)] = {}
    for _ in range(settings.rounds):
        for size in sizes:
            for name, one in read_all(folder / str(size.runs), size, tables=settings.tables).items():
                found[str(size.runs)].setdefault(name, []).append(one)
    for size in sizes:
        if size.runs <= settings.report_runs:
            found[str(size.runs)][REPORT] = [build_report(folder / str(size.runs))]
    return found


def show(settings: Settings, found: dict[str, dict[str, list[tuple[float, float]]]], console: Console) -> None:
    """The table: seconds and memory of each row at each size."""
    title = (
        f"Runs of {settings.steps} steps, {settings.seeds} an arm: seconds (quartiles), MiB; {settings.rounds} rounds"
    )
    table = Table("what", *(f"{count:,} runs" for count in settings.runs), title=title)
    for name in [*(name for name in next(iter(found.values())) if name != REPORT), REPORT]:
        table.add_row(name, *(_cell(found[str(count)].get(name), settings) for count in settings.runs))
    console.print(table)


def _cell(values: list[tuple[float, float]] | None, settings: Settings) -> str:
    if values is None:
        return f"not built: --report-runs is {settings.report_runs}"
    seconds, peaks = zip(*values, strict=True)
    return f"{Spread.of(list(seconds))}, {max(peaks):,.0f}"


def main(settings: Settings) -> int:
    """Make, time, print, and write."""
    check(settings)
    if settings.quick:
        settings = replace(settings, runs=(4,), seeds=2, steps=3, rounds=1, report_runs=0)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(settings.threads)
    console, where = Console(width=120), machine(("pandas", "pyarrow", "matplotlib"))
    with contextlib.ExitStack() as stack:
        folder = Path(settings.results or stack.enter_context(tempfile.TemporaryDirectory()))
        found = measure(settings, folder, console)
    show(settings, found, console)
    measured_at = {
        count: {
            name: {
                "seconds": asdict(Spread.of([one for one, _ in values])),
                "peak_mib": max(peak for _, peak in values),
            }
            for name, values in rows.items()
        }
        for count, rows in found.items()
    }
    shape = {"seeds": settings.seeds, "steps": settings.steps, "by_runs": measured_at}
    write_figures(settings.out, "report", where, shape)
    return 0


if __name__ == "__main__":
    sys.exit(run_benchmark(lambda: main(tyro.cli(Settings, prog="python -m benchmarks.report"))))
