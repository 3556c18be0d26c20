"""A headless Chromium, Debian's, and one report full of hostile text for it to show."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from analysis import report
from saei import schema
from tests.fake_results import fake_id, write_sweep

HERE = Path(__file__).parent
PROGRAMS = ("chromium", "chromedriver")
SWEEP = "<i>fake & co"


def hostile(where: str) -> str:
    """Text that changes the page's title, loads a picture, and leaves an attribute, unless it is shown as text."""
    return f"\"'><script>document.title='{where}'</script><img src=x onerror=\"document.title='{where}'\">$x_{{1}}$"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's page of a partial sweep whose names, texts, messages and notebooks are hostile."""
    results, notebooks = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("notebooks")
    first, second, third = "GRPO", hostile("arm"), "\u202egnol-" + "a_name_without_a_blank_" * 5
    alarm = {"detector": "<b>x</b>", "step": 3, "sentence": f"step 3: {hostile('alarm')}", "setting": "view.step_size"}
    folder = write_sweep(
        results,
        SWEEP,
        arms={first: 0.1, second: 0.16, third: 0.1},
        steps=6,
        problems=4,
        samples=4,
        text=hostile("completion") + "\x00\x1b[31m",
        unfinished={(second, 2): schema.FAILED},
        leave_out=[(third, 2)],
        alarms={(second, 0): [alarm]},
        reconstructions={third: [hostile("reconstruction")]},
        attacked=True,
    )
    _change(folder / schema.PLAN_FILE, question=hostile("question"), command=shlex.join(["python", hostile("run")]))
    _change(folder / fake_id(second, 2) / schema.STATUS_FILE, message=hostile("message"))
    _change(folder / fake_id(first, 0) / schema.ENVIRONMENT_FILE, host=hostile("host"))
    for path in (*report.NOTEBOOKS.glob("*.ipynb"),):
        shutil.copy(path, notebooks)
    nbformat.write(_notebook(), notebooks / "hostile.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "NOTEBOOKS", notebooks)
        built = report.build(SWEEP, results)
    assert list(built.failures) == ["hostile"], built.failures
    return built.page


def _change(path: Path, **facts: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def _notebook() -> nbformat.NotebookNode:
    text = hostile("output")
    cells = [
        f"print({text!r})",
        f"from IPython.display import HTML\nHTML('<table><tr onclick=\"x\"><td>' + {text!r} + '</td></tr></table>')",
        f"raise ValueError({text!r})",
    ]
    parameters = new_code_cell("", metadata={"tags": ["parameters"]})
    return new_notebook(cells=[new_markdown_cell(f"# Hostile {text}"), parameters, *map(new_code_cell, cells)])


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Chromium with its console and its requests recorded."""
    found = {name: shutil.which(name) for name in PROGRAMS}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        cure = "apt-get install --no-install-recommends chromium chromium-driver"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(f"REQUIRE_BROWSER is set, and {', '.join(missing)} is not installed: {cure}")
        pytest.skip(f"no browser here ({', '.join(missing)} is not installed): {cure}")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"] or ""
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=found["chromedriver"]))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()
