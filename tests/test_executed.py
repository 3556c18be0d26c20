"""Notebooks executed for a report: what fails, hangs or dies ends its own notebook only, and no kernel is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from analysis import fragments
from analysis.described import described
from analysis.executed import execute_all
from analysis.whole import whole_folder, write_whole

ROOT = Path(__file__).resolve().parent.parent
FIGURE = "from matplotlib.figure import Figure\nshown = Figure()\n_ = shown.subplots().set_title(word)\nshown"


def write(folder, name, *cells):
    parameters = new_code_cell("word = ''", metadata={"tags": ["parameters"]})
    prose = new_markdown_cell(f"# {name}\n\nLook <b>here</b>.")
    nbformat.write(new_notebook(cells=[prose, parameters, *map(new_code_cell, cells)]), folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """One kernel for six notebooks: two that are good, and between them three that are not."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    write(source, "first", "left_behind = 1; word")
    write(source, "fails", "1 / 0", "'not reached'")
    write(source, "dies", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "'not reached'")
    write(source, "hangs", "import time; time.sleep(600)", "'not reached'")
    write(source, "last", "%matplotlib inline\n'left_behind' in globals()", FIGURE)
    names = ["first", "fails", "dies", "hangs", "last"]
    found = execute_all(names, {"word": "a < b"}, target, source=source, kernels=1, cell_seconds=3)
    return found, target


def outputs(executed):
    return [output for cell in executed.notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_a_notebook_gets_its_parameters_and_forgets_the_one_before(executed):
    found, _ = executed
    assert [output.data["text/plain"] for output in outputs(found["first"])] == ["'a < b'"]
    assert outputs(found["last"])[0].data["text/plain"] == "False"
    assert found["first"].failure == found["last"].failure == ""


def test_a_cell_that_fails_dies_or_hangs_ends_its_own_notebook_with_an_error(executed):
    found, _ = executed
    told = {name: found[name].failure for name in ("fails", "dies", "hangs")}
    assert told["fails"] == "ZeroDivisionError: division by zero"
    assert told["dies"].startswith("Kernel: the kernel died")
    assert told["hangs"] == "Timeout: the cell ran longer than 3 s and was stopped"
    for name in told:
        (error,) = outputs(found[name])
        assert error.output_type == "error" and found[name].notebook.cells[-1].outputs == []
        assert '<pre class="error">' in "".join(fragments.cells(name, found[name]))


def test_every_notebook_is_kept_as_executed(executed):
    found, target = executed
    assert sorted(path.stem for path in target.iterdir()) == sorted(found)
    kept = nbformat.read(target / "fails.ipynb", as_version=4)
    assert [output.ename for cell in kept.cells for output in cell.get("outputs", [])] == ["ZeroDivisionError"]


def test_a_picture_has_a_text_that_says_what_it_shows_and_prose_has_no_html_of_its_own(executed):
    found, _ = executed
    page = "".join(fragments.cells("last", found["last"]))
    assert 'alt="last. Figure: a &lt; b"' in page
    assert '<h2 id="last-last">last</h2>' in page and "Look &lt;b&gt;here&lt;/b&gt;." in page


def test_a_figure_is_described_by_its_titles_axes_and_names():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], label="grpo")
    axes.set(title="one seed\nwithout dapo", xlabel="step", ylabel="entropy (nats)")
    axes.legend()
    assert described(figure) == "Figure: one seed, without dapo; upright: entropy (nats); across: step; shown: grpo"
    assert described(Figure()) == "Figure without text"


LONG = """
import sys, time
from pathlib import Path
from analysis.executed import execute_all
execute_all(["slow", "slower", "never"], {"word": sys.argv[3]}, Path(sys.argv[2]), source=Path(sys.argv[1]))
"""


def test_an_interrupt_ends_the_kernels_and_writes_nothing(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("slow", "slower", "never"):
        write(source, name, f"open(word + '/{name}', 'w').write('begun')", "import time; time.sleep(600)")
    begun = tmp_path / "begun"
    begun.mkdir()
    words = [sys.executable, "-c", LONG, str(source), str(target), str(begun)]
    # a shell that runs the tests in the background ignores Ctrl-C, and its children would, too
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, ours)
    try:
        deadline = time.monotonic() + 120
        while len(list(begun.iterdir())) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        kernels = psutil.Process(process.pid).children(recursive=True)
        assert len(kernels) == 2
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert b"KeyboardInterrupt" in error
    psutil.wait_procs(kernels, timeout=10)
    assert not [kernel for kernel in kernels if kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE]
    assert list(target.iterdir()) == [] and len(list(begun.iterdir())) == 2


def test_what_is_written_whole_leaves_the_old_one_when_it_fails(tmp_path):
    path, folder = tmp_path / "index.html", tmp_path / "figures"
    write_whole(path, "old")
    folder.mkdir()
    (folder / "old.png").touch()
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half a surrogate: \ud800")
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as fresh:
        (fresh / "new.png").touch()
        raise ZeroDivisionError
    assert path.read_text() == "old" and [one.name for one in folder.iterdir()] == ["old.png"]
    with whole_folder(folder) as fresh:
        (fresh / "new.png").touch()
    assert [one.name for one in folder.iterdir()] == ["new.png"] and len(list(tmp_path.iterdir())) == 2
