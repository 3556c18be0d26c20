"""A real Slurm for the tests of this folder: started by process id, without systemd, stopped with the session.

`slurm` has accounting off, as the runner must do without it; `accounting` is a second one where sacct answers.
Both set SLURM_CONF. After each test all jobs are ended and the node is made usable again.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.lab import DidNotStart, Lab
from tests.slurm.launching import Site

HERE = Path(__file__).parent
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
DATABASE = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("slurm")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Lab]:
    """The cluster of this session: one node, partitions main, low, cancel; no accounting."""
    missing = _missing(DAEMONS)
    if missing:
        cure = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(f"REQUIRE_SLURM is set, and {', '.join(missing)} is not installed: {cure}")
        pytest.skip(f"no Slurm here ({', '.join(missing)} is not installed): {cure}")
    yield from _started()


@pytest.fixture
def accounting() -> Iterator[Lab]:
    """A cluster of its own with slurmdbd and MariaDB, where sacct answers."""
    missing = _missing((*DAEMONS, *DATABASE))
    if missing:
        pytest.skip(
            f"no Slurm accounting here ({', '.join(missing)} is not installed): "
            "apt-get install --no-install-recommends slurmdbd mariadb-server-core mariadb-client-core"
        )
    yield from _started(SLURM_LAB_ACCT="dbd")


@pytest.fixture(autouse=True)
def _clean_after(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "slurm" in request.fixturenames and isinstance(lab := request.getfixturevalue("slurm"), Lab):
        lab.clean()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the daemons said."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("slurm") or getattr(item, "funcargs", {}).get("accounting")
    if report.failed and isinstance(lab, Lab):
        report.sections.append(("Slurm's jobs", "\n".join(map(str, lab.jobs("%T %r").items()))))
        report.sections.append(("Slurm's logs", lab.log_tails()))
    return report


def _started(**knobs: str) -> Iterator[Lab]:
    try:
        lab = Lab.start(**knobs)
    except DidNotStart as error:
        pytest.fail(f"Slurm did not start: {error}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", lab.environment["SLURM_CONF"])
        try:
            yield lab
        finally:
            lab.stop()


def _missing(programs: tuple[str, ...]) -> list[str]:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    return [program for program in programs if shutil.which(program, path=path) is None]


@pytest.fixture
def site(slurm: Lab, tmp_path: Path) -> Iterator[Site]:
    """A results folder, a profile and a gate on the cluster of this session; runners end with the test."""
    made = Site(slurm, tmp_path)
    yield made
    made.stop()
