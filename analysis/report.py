"""One self-contained HTML page about a sweep: the verdict first, then the evidence, then how it came about.

    python -m analysis.report tsec_ratio [--results DIR]

Both notebooks are executed on the sweep and kept as `results/<sweep>/report/<notebook>.ipynb`; the page holds their
prose, figures and tables. It needs no network and runs no script, and says so to the browser; whatever a model wrote
is escaped.
"""

# pandas carries no types that a checker can follow through groupby and itertuples
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportOptionalIterable=false

import ast
import contextlib
import json
import math
import os
import shlex
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jinja2
import nbformat
import pandas as pd
import tyro
from nbconvert.filters import strip_ansi
from traitlets.config import Config

from analysis import attacked, comparisons, contrasts, costs, fragments, health, plots, provenance, stats, tables
from analysis.arms import limits, reconstructions
from analysis.load import SweepData, load_sweep
from saei import schema

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ("accuracy", "entropy")
REPORT_FOLDER = "report"
EVIDENCE_STEPS, EVIDENCE_SEEDS = 100, 3
"""Below this many steps or seeds the first screen says that the budget shows the machinery, not evidence."""
GREY_LEVELS = ("view.step_size", "view.epsilon")
"""Settings that the command line reads as grey levels or `none`, not as JSON."""


@tyro.conf.configure(tyro.conf.FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True, slots=True)
class ReportArguments:
    sweep: tyro.conf.Positional[str]
    """Name of a sweep in the results folder."""
    results: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("results")
    """Results folder."""
    same_code: bool = False
    """Refuse a sweep whose trials ran more than one version of the code."""


def build(sweep: str, results: Path, *, same_code: bool = False) -> Path:
    """Execute the notebooks on the sweep and write `results/<sweep>/report/index.html`. Returns its path.

    Raises ValueError for an unknown or damaged sweep, and with `same_code` for one of several versions of the code. A
    notebook cell that fails is shown on the page with its error.
    """
    data = load_sweep(results, sweep)
    if same_code:
        provenance.require_same_code(data)
    folder = Path(results) / data.name / REPORT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    notebooks = {name: execute(name, data.name, Path(results), folder) for name in NOTEBOOKS}
    save_figures(data, folder / "figures")
    page = render(data, notebooks)
    path = folder / "index.html"
    temporary = path.with_name(".index.html.tmp")
    temporary.write_text(page)
    os.replace(temporary, path)
    return path


def save_figures(data: SweepData, folder: Path) -> None:
    """The main figures, for papers and slides, as PNG and SVG; a figure without data is left out."""
    items = data.table("eval")
    named = {
        "accuracy_by_arm": plots.accuracy_by_arm(stats.final_scores(items, data.test_split)),
        "accuracy_over_steps": plots.accuracy_over_steps(stats.scores(items, data.validation_split)),
        "entropy_over_steps": plots.entropy_over_steps(data.table("steps")),
        "accuracy_over_tokens": comparisons.accuracy_over_tokens(costs.accuracy_by_tokens(data)),
        "accuracy_under_attack": comparisons.accuracy_under_attack(attacked.robustness(data)),
    }
    folder.mkdir(exist_ok=True)
    for name, figure in named.items():
        if not isinstance(figure, plots.Sentence):
            figure.savefig(folder / f"{name}.png", dpi=180)
            figure.savefig(folder / f"{name}.svg")


def execute(name: str, sweep: str, results: Path, folder: Path) -> nbformat.NotebookNode:
    """Run one notebook with papermill into `folder`, kept even where a cell fails."""
    import papermill

    target = folder / f"{name}.ipynb"
    with kernel_surroundings():
        try:
            papermill.execute_notebook(
                ROOT / "notebooks" / f"{name}.ipynb",
                target,
                {"sweep": sweep, "results": str(results.resolve())},
                kernel_name="python3",
                cwd=ROOT,
                progress_bar=False,
                log_output=False,
                config=Config({"KernelManager": {"transport": "ipc"}}),
            )
        except papermill.PapermillExecutionError as error:
            print(f"notebooks/{name}.ipynb failed: {error.ename}: {strip_ansi(error.evalue)}", file=sys.stderr)
    return nbformat.read(target, as_version=4)


@contextlib.contextmanager
def kernel_surroundings() -> Iterator[None]:
    """This interpreter's own kernel, wherever it is called from, its sockets in a folder that only we can read."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="report-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the kernel that ipykernel put beside this interpreter comes before the user's own of the same name
        os.environ |= {"JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_RUNTIME_DIR": folder}
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def render(data: SweepData, notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """The page as text."""
    items = data.table("eval")
    loader = jinja2.FileSystemLoader(Path(__file__).resolve().parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.html.j2").render(
        data=data,
        plan=data.plan,
        budget=budget_sentence(data),
        counts=data.trials["state"].value_counts().to_dict(),
        primary=primary_sentence(data),
        verdicts=fragments.table(tables.verdicts(data)),
        accuracy=fragments.output(plots.accuracy_by_arm(stats.final_scores(items, data.test_split))),
        entropy=fragments.output(plots.entropy_over_steps(data.table("steps"))),
        reconstructions=reconstructions(data),
        filtering=data.filtering,
        summary=fragments.table(tables.summary_table(data)),
        cost=fragments.table(tables.cost_table(data)),
        by_tokens=fragments.output(comparisons.accuracy_over_tokens(costs.accuracy_by_tokens(data))),
        equal_tokens=fragments.table(tables.equal_tokens_table(data)),
        robustness=fragments.table(tables.robustness_table(data)),
        under_attack=fragments.output(comparisons.accuracy_under_attack(attacked.robustness(data))),
        alarms=fragments.table(tables.alarm_table(data)),
        watched=health.watched(data),
        begun=int((data.trials["step"] > 0).sum()),
        notebooks={name: fragments.cells(notebook) for name, notebook in notebooks.items()},
        unfinished=fragments.table(tables.unfinished(data)),
        overrides=fragments.table(overrides(data)),
        remarks=[*limits(data), *provenance.mixed(data)],
        provenance=provenance.provenance(data, planned_steps(data)),
        command=command(data),
        built=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def budget_sentence(data: SweepData) -> str:
    """A warning for small budgets, or ""."""
    steps = planned_steps(data)
    seeds = len(data.plan["seeds"])
    finished = data.state(schema.FINISHED).groupby("arm", observed=True)["seed"].nunique()
    fewest = int(finished.reindex(data.arms, fill_value=0).min()) if data.arms else 0
    if steps >= EVIDENCE_STEPS and fewest >= EVIDENCE_SEEDS:
        return ""
    if seeds >= EVIDENCE_SEEDS and steps >= EVIDENCE_STEPS:
        return f"So far {fewest} finished {plural(fewest, 'seed')} in the least finished arm: this is not evidence yet."
    return (
        f"{seeds} {plural(seeds, 'seed')} and {steps} {plural(steps, 'step')}: "
        "this budget shows the machinery, not evidence."
    )


def plural(count: int, noun: str) -> str:
    return noun if count == 1 else noun + "s"


def planned_steps(data: SweepData) -> int:
    """Steps of a trial: the plan's, else the fewest that a trial says it has."""
    planned = data.plan.get("steps")
    known = data.trials.loc[data.trials["steps"] > 0, "steps"]
    return int(planned or (known.min() if len(known) else 0))


def primary_sentence(data: SweepData) -> str:
    """The primary contrast in one sentence, and what cannot be compared for lack of an arm."""
    rows = contrasts.compared(data)
    rows = rows[rows["primary"]] if len(rows) else rows
    lacking = contrasts.not_launched(data)
    if rows.empty:
        return lacking
    row: Any = rows.iloc[0]
    parts = [row["verdict"]]
    if not math.isnan(row["low"]):
        parts.insert(0, f"95 % interval {tables.interval_text(row['low'], row['high'])}")
    if not math.isnan(row["difference"]):
        parts.insert(0, f"{tables.points(row['difference'], signed=True)} points")
    return f"{row['arm']} minus {row['against']}: {'; '.join(parts)}. {lacking}".rstrip()


def overrides(data: SweepData) -> pd.DataFrame:
    """What makes the arms differ: one row per arm."""
    rows = []
    for arm in data.plan["arms"]:
        settings = ", ".join(f"{name} = {json.dumps(value)}" for name, value in (arm.get("overrides") or {}).items())
        rows.append({"arm": arm["name"], "settings": settings or "the preset as it is"})
    return pd.DataFrame(rows)


def command(data: SweepData) -> str:
    """The command that repeats exactly these arms, seeds and settings."""
    words = ["python", "sweeps/run.py", data.name, "--seeds", str(len(data.plan["seeds"]))]
    words += [word for arm in data.arms if arm not in data.earlier for word in ("--only", arm)]
    settings = {"steps": planned_steps(data), **data.plan.get("settings", {})}
    words += ["--steps", str(settings.pop("steps"))]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={setting(name, value)}")]
    return shlex.join(words)


def setting(name: str, value: Any) -> str:
    """A value of the plan's `settings` as `sweeps/run.py --set` reads it: JSON, a plain text, or `none`.

    The plan keeps a list as the text of a Python tuple.
    """
    if value is None and name in GREY_LEVELS:
        return "none"
    if not isinstance(value, str):
        return json.dumps(value)
    with contextlib.suppress(ValueError, SyntaxError):
        if value.startswith("("):
            return json.dumps(ast.literal_eval(value))
    try:
        json.loads(value)
    except json.JSONDecodeError:
        return value
    return json.dumps(value)  # a text such as "true" in its quotes, or it would be read as something else


def main(arguments: list[str] | None = None) -> int:
    settings = tyro.cli(ReportArguments, args=arguments, prog="python -m analysis.report", description=__doc__)
    try:
        path = build(settings.sweep, settings.results, same_code=settings.same_code)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(tables.Table(tables.summary_table(load_sweep(settings.results, settings.sweep))))
    print(path.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
