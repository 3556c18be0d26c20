"""One self-contained HTML page about a sweep: the verdict first, then the evidence, then how it came about.

    python -m analysis.report tsec_ratio [--results DIR ...] [--since 6h] [--where "view.step_size > 1"]

The notebooks are executed on the sweep and kept as `results/<sweep>/report/<notebook>.ipynb`; the page holds their
prose, figures and tables. It needs no network and runs no script, and says so to the browser; whatever a model wrote
is escaped. Exit codes: 0 done, 1 a notebook failed (the page says which cell and why), 2 bad input, 130 interrupted.
"""

import sys

if __name__ == "__main__":
    import gc

    gc.disable()  # nothing that is imported is garbage, and to look for some takes long

import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from analysis import provenance, tables
from analysis.chosen import remember
from analysis.executed import NOTEBOOKS, execute_all
from analysis.figure_files import save_figures
from analysis.fragments import failures
from analysis.load import SweepData, load_sweep
from analysis.page import render
from analysis.repeat import is_search
from analysis.settings import varied
from analysis.sweep_data import REPORT_FOLDER
from analysis.where import Selection, parse_selection
from analysis.whole import write_whole

ORDER = ("accuracy", "entropy", "attack", "search", "reproduction")
"""Notebooks in the order of the page; others follow by name."""
NOTHING = Selection()


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class ReportArguments:
    sweep: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SWEEP")]
    """Name of a sweep in the results folder."""
    results: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="DIR")] = ()
    """Results folder [results]; may be given several times, for folders copied from clusters. The report goes to the
    first."""
    since: Annotated[str, tyro.conf.arg(metavar="WHEN")] = ""
    """Only trials that finished, or were last heard of, since a date (2026-11-20) or for so long (6h, 30m, 2d)."""
    where: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="CONDITION")] = ()
    """Only trials with such a setting: "view.step_size > 1", "arm in [grpo, saei]"; may be given several times."""
    same_code: bool = False
    """Refuse a sweep whose trials ran more than one version of the code."""


class Built(NamedTuple):
    """The page, and by notebook a sentence on each that was not executed to its end; the page shows the error."""

    page: Path
    failures: dict[str, str]


def build(
    sweep: str, results: Path | Sequence[Path], *, selection: Selection = NOTHING, same_code: bool = False
) -> Built:
    """Execute the notebooks on the sweep and write `<sweep>/report/index.html` in the first of the results folders.

    Raises ValueError for an unknown or damaged sweep, for a selection of nothing, and with `same_code` for one of
    several versions of the code.
    """
    folders = [Path(results)] if isinstance(results, str | Path) else [Path(folder) for folder in results]
    data = load_sweep(folders, sweep, selection=selection or None)
    if same_code:
        provenance.require_same_code(data)
    folder = folders[0] / data.name / REPORT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    is_whole = len(folders) == 1 and not selection
    about = folders[0].resolve() if is_whole else remember(folder, folders, selection)
    parameters = {"sweep": data.name, "results": str(about)}
    with ThreadPoolExecutor(1) as pool:  # the kernels are other processes, and take a while to start
        drawn = pool.submit(save_figures, data, folder / "figures")
        notebooks = execute_all(notebooks_for(data), parameters, folder, source=NOTEBOOKS)
        drawn.result()
    for path in folder.glob("*.ipynb"):
        if path.stem not in notebooks:
            path.unlink()  # of an older report
    page = folder / "index.html"
    write_whole(page, render(data, notebooks))
    return Built(page, dict(failures(notebooks)))


def notebooks_for(data: SweepData) -> list[str]:
    """Names of the notebooks that have something to say about this sweep, in the order of the page."""
    present = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    ordered = [*(name for name in ORDER if name in present), *(name for name in present if name not in ORDER)]
    left_out = set() if is_search(data) or len(_settings(data)) > 1 else {"search"}
    return [name for name in ordered if name not in left_out]


def _settings(data: SweepData) -> list[str]:
    return [name for name in varied(data).columns if name not in ("arm", "seed")]


def main(arguments: list[str] | None = None) -> int:
    settings = tyro.cli(ReportArguments, args=arguments, prog="python -m analysis.report", description=__doc__)
    folders = settings.results or (Path("results"),)
    # a runner that is stopped stops its report; kernels have sessions of their own and must be ended by us
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        selection = parse_selection(since=settings.since, where=settings.where, now=time.time())
        path, failed = build(settings.sweep, folders, selection=selection, same_code=settings.same_code)
        print(tables.Table(tables.summary_table(load_sweep(folders, settings.sweep, selection=selection or None))))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: no page was written, one of before is as it was", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    for name, sentence in failed.items():
        print(f"notebooks/{name}.ipynb stopped: {sentence}", file=sys.stderr)
    print(path.resolve())
    return 1 if failed else 0


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    sys.exit(main())
