"""The notebooks: what may stand in them, and that they run on nothing, on little, on everything, by whatever hand."""

import ast
import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from analysis.executed import execute_all
from analysis.kernels import Kernels
from saei import schema
from tests.fake_results import write_sweep

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
MOST_CODE_CELLS = 12
FORBIDDEN = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
PARTIAL = {("SaEI", 1): schema.RUNNING, ("GRPO", 2): schema.FAILED, ("random third", 0): schema.INTERRUPTED}
STATES = {
    "zero": lambda folder: None,
    "one": lambda folder: write_sweep(folder, "one", arms={"GRPO": 0.1}, seeds=1),
    "partial": lambda folder: write_sweep(folder, "partial", leave_out=[("SaEI", 2)], unfinished=PARTIAL),
    "full": lambda folder: write_sweep(folder, "full", alarms={}, attacked=True),
}


def read(path):
    return nbformat.read(path, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def python(cell):
    """The cell without its magics."""
    return ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!"))))


def complaints(notebook):
    """Errors, and whatever was said to standard error."""
    found = []
    for cell in code_of(notebook):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"{output.ename}: {output.evalue}")
            elif output.output_type == "stream" and output.name == "stderr":
                found.append(output.text)
    return found


# ---- what may stand in them


def test_the_notebooks_of_the_reports_are_there():
    assert {"accuracy", "entropy", "attack", "reproduction", "search"} <= set(NAMES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_begins_with_its_two_empty_parameters(path):
    notebook = read(path)
    nbformat.validate(notebook)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code_of(notebook)[:1]
    assert tagged[0].source == 'sweep = ""\nresults = ""'


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_prose_and_a_few_calls(path):
    notebook = read(path)
    code = code_of(notebook)
    assert len(code) <= MOST_CODE_CELLS
    for cell in code:
        defined = [node for node in ast.walk(python(cell)) if isinstance(node, FORBIDDEN)]
        assert not defined, f"functions belong to analysis/: {cell.source}"
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code":
            assert before is not None and before.cell_type == "markdown", f"no prose before: {cell.source}"
            prose = [line for line in before.source.splitlines() if line.strip() and not line.startswith("#")]
            assert prose, f"a heading alone before: {cell.source}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_kept_as_make_strip_leaves_it(path):
    notebook = read(path)
    for cell in code_of(notebook):
        assert not cell.outputs and cell.execution_count is None, f"{path.name} holds outputs: make strip"
        assert set(cell.metadata) <= {"tags"}, f"{path.name} holds notes of an editor: make strip"
    assert set(notebook.metadata) == {"kernelspec"}, f"{path.name} holds notes of an editor: make strip"
    # the kernel that ipykernel puts into every new environment
    assert (notebook.metadata.kernelspec.name, notebook.metadata.kernelspec.language) == ("python3", "python")


def test_make_strip_takes_out_what_running_a_notebook_leaves_in_it(tmp_path):
    clean = read(NOTEBOOKS[0])
    used = copy.deepcopy(clean)
    used.metadata.language_info = {"name": "python", "version": "3.11.7"}
    for number, cell in enumerate(code_of(used)):
        cell.outputs = [nbformat.v4.new_output("stream", text="a completion")]
        cell.execution_count = number + 1
        cell.metadata["scrolled"] = True
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "used.ipynb"
    nbformat.write(used, path)
    make(tmp_path, "strip")
    assert read(path) == clean


def make(folder, target):
    """A target of the Makefile in `folder`, with this interpreter's environment in place of a new one."""
    command = ["make", "-f", str(ROOT / "Makefile"), target, f"VENV={sys.prefix}", "-o", "setup"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)


# ---- that they run


@pytest.mark.parametrize("state", ["zero", "one", "partial", pytest.param("full", marks=pytest.mark.slow)])
def test_every_notebook_runs_on_made_up_results(state, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    STATES[state](results)
    done = execute_all(NAMES, {"sweep": "", "results": str(results)}, tmp_path, kernels=1)
    assert list(done) == NAMES
    for name, executed in done.items():
        assert not executed.failure and not complaints(executed.notebook), name
        assert all(cell.outputs for cell in shown(executed.notebook)), name


def shown(notebook):
    """Code cells that end in an expression."""
    return [cell for cell in code_of(notebook) if (body := python(cell).body) and isinstance(body[-1], ast.Expr)]


@pytest.mark.slow
def test_every_notebook_runs_on_a_real_sweep(tmp_path):
    parameters = {"sweep": "collapse", "results": str(ROOT / "results" / "reference")}
    done = execute_all(NAMES, parameters, tmp_path)
    assert {name: complaints(executed.notebook) for name, executed in done.items()} == {name: [] for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_papermill_runs_a_notebook_by_its_parameters(path, tmp_path, monkeypatch):
    import papermill

    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    write_sweep(tmp_path, "older", seeds=1)
    write_sweep(tmp_path, "newer", seeds=1)
    target = tmp_path / "out.ipynb"
    parameters = {"sweep": "older", "results": str(tmp_path)}
    papermill.execute_notebook(path, target, parameters, cwd=ROOT, progress_bar=False, log_output=False)
    assert not complaints(read(target))


def test_opened_by_hand_every_notebook_finds_the_newest_sweep_by_itself(tmp_path):
    # a project whose code is ours and whose results are made up; JupyterLab runs a notebook in the notebook's folder
    for folder in ("analysis", "saei"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "notebooks").mkdir()
    for age, name in enumerate(("newest", "oldest")):
        folder = write_sweep(tmp_path / "results", name, seeds=1)
        launched = time.time() - 1000 * age
        os.utime(folder / schema.PLAN_FILE, (launched, launched))
    sources = [f"import os; os.chdir({str(tmp_path / 'notebooks')!r})"]
    say = "print(root, data.name if 'data' in dir() else ''); data = None; del data"
    for path in NOTEBOOKS:
        sources += [*(cell.source for cell in code_of(read(path))[:2]), say]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    with Kernels() as kernels:
        NotebookClient(notebook, km=kernels.take(), timeout=120).execute()
    said = [cell.outputs[0].text for cell in notebook.cells if cell.source.startswith("print(root")]
    # the reproduction card is of all sweeps
    assert said == [f"{tmp_path} {'newest' * (name != 'reproduction')}\n" for name in NAMES]
