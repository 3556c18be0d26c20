"""Notebooks executed on a sweep, two at a time, and kept even where a cell fails, hangs or kills its kernel."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.notebook_format import nbformat

# what follows would load nbformat in full
# isort: split
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbconvert.filters import strip_ansi

from analysis.kernels import ROOT, Kernels, NoMoreKernels
from analysis.whole import write_whole

NOTEBOOKS = ROOT / "notebooks"
KERNELS = 2
"""Notebooks executed at a time; each kernel holds the tables of the sweep."""
CELL_SECONDS, START_SECONDS = 600, 120
FRESH = f"""get_ipython().reset(new_session=True)
import gc, sys
{str(ROOT)!r} in sys.path or sys.path.insert(0, {str(ROOT)!r})
gc.disable()
from analysis import described, figure_files
gc.freeze()
gc.enable()
described.in_plain_text(get_ipython())
del described, figure_files, gc, sys"""
"""What a kernel does before each notebook: it forgets the one before, and learns to say what a figure shows. What all
notebooks use is loaded without a search for garbage, of which it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Executed:
    """A notebook with its outputs; `failure` says in a sentence why it is not executed to its end, or is ""."""

    notebook: nbformat.NotebookNode
    failure: str = ""


def execute_all(
    names: Sequence[str],
    parameters: Mapping[str, Any],
    folder: Path,
    *,
    source: Path = NOTEBOOKS,
    kernels: int = KERNELS,
    cell_seconds: int = CELL_SECONDS,
) -> dict[str, Executed]:
    """Execute `source/<name>.ipynb` with these parameters; each is kept as `folder/<name>.ipynb`. In the order given.

    A cell that fails, takes longer than `cell_seconds`, or kills its kernel ends its own notebook only. An interrupt
    ends all kernels at once and is raised.
    """
    with ThreadPoolExecutor(min(kernels, max(1, len(names)))) as pool, Kernels() as running:
        tasks = {
            name: pool.submit(_execute, source / f"{name}.ipynb", parameters, running, cell_seconds) for name in names
        }
        try:
            found = {name: task.result() for name, task in tasks.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for name, executed in found.items():
        write_whole(folder / f"{name}.ipynb", nbformat.writes(executed.notebook))
    return found


def _execute(path: Path, parameters: Mapping[str, Any], running: Kernels, cell_seconds: int) -> Executed:
    notebook = _with_parameters(path, parameters)
    kernel = running.take()
    begun: list[nbformat.NotebookNode] = []
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=cell_seconds,
        startup_timeout=START_SECONDS,
        on_cell_execute=lambda cell, cell_index: begun.append(cell),
    )

    async def begin_fresh(notebook: nbformat.NotebookNode) -> None:
        talk: Any = client.kc
        reply = await talk.execute(FRESH, silent=True, reply=True, timeout=START_SECONDS)
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"it could not be prepared: {reply['content'].get('evalue', 'no reason given')}")

    client.on_notebook_start = begin_fresh
    try:
        client.execute()
    except CellExecutionError as error:
        running.give_back(kernel)
        return Executed(notebook=notebook, failure=f"{error.ename}: {strip_ansi(error.evalue)}")
    except CellTimeoutError:
        failure = ("Timeout", f"the cell ran longer than {cell_seconds} s and was stopped")
    except NoMoreKernels:
        raise
    except (RuntimeError, TimeoutError) as error:
        # the library raises both for a kernel that died and for one that did not start or answer
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        failure = ("Kernel", f"the kernel died or did not answer ({told}); too little memory?")
    else:
        running.give_back(kernel)
        return Executed(notebook=notebook)
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
    running.discard(kernel)
    at = begun[-1] if begun else next(cell for cell in notebook.cells if cell.cell_type == "code")
    at.outputs.append(nbformat.v4.new_output("error", ename=failure[0], evalue=failure[1], traceback=[]))
    return Executed(notebook=notebook, failure=": ".join(failure))


def _with_parameters(path: Path, parameters: Mapping[str, Any]) -> nbformat.NotebookNode:
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = load_notebook_node(str(path))
    return parameterize_notebook(notebook, dict(parameters), kernel_name="python3", language="python")
