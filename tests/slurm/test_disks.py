"""The watching runner and its jobs on a disk that is full or read-only: a sentence, and the next launch goes on."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from saei import schema
from tests.runs import SMALL
from tests.slurm.lab import wait_for
from tests.slurm.launching import Site

SETTINGS = [f"--set={name}={value}" for name, value in SMALL.items() if name != "steps" and ".n_" not in name]


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def own_disk(site: Site) -> Iterator[Path]:
    """The results folder as a file system of its own, of 6 MB: `mount -o remount,size=...` changes it."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    site.results.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", str(site.results))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mounting a small disk is not allowed here: {error.stderr.strip()}")
    yield site.results
    site.stop()
    site.lab.clean()
    while os.path.ismount(site.results):
        subprocess.run(["umount", "-l", str(site.results)], check=True)


def test_a_full_disk_is_told_and_the_next_launch_goes_on(site, slurm, own_disk):
    def launch():
        return site.launch("--steps=4", *SETTINGS, trainer="saei.train:train")

    runner = launch()  # not even the code that jobs run fits
    assert runner.ends() == 1
    assert "the disk is full" in runner.text() and f"results are in {own_disk}" in runner.text()
    assert not site.tickets() and not list(own_disk.glob(".code/*")) and not list(own_disk.glob(".code/.*"))
    submitted = slurm.submitted()

    mount("-o", "remount,size=48m", str(own_disk))  # of a trial the first checkpoint, of 21 MB, but not the second
    runner = launch()
    assert runner.ends(180) == 1
    (folder,) = site.trials().values()
    assert f"no space left on {folder}" in runner.text()
    assert "free some, then the same command continues from step 2" in runner.text()
    assert slurm.submitted() == submitted + 1  # not tried again: it would end the same

    mount("-o", "remount,size=200m", str(own_disk))
    runner = launch()
    assert runner.ends(180) == 0, runner.text()
    log = (folder / schema.LOG_FILE).read_text()
    assert log.count("continuing from step 2") == 1 and (folder / schema.DONE_FILE).exists()
    assert shutil.disk_usage(own_disk).free > 0


def test_results_that_become_read_only_are_told_and_the_next_launch_goes_on(site, own_disk):
    mount("-o", "remount,size=30m", str(own_disk))
    mount("--bind", str(own_disk), str(own_disk))  # open files keep the disk below busy, but not this view of it
    runner = site.launch()
    (trial,) = site.training(1)
    mount("--bind", str(own_disk), str(own_disk))
    mount("-o", "remount,bind,ro", str(own_disk))
    site.open()
    assert runner.ends() in (1, 2)
    assert "Traceback" not in runner.text()
    assert "read-only" in runner.text().lower()

    refused = site.launch()
    assert refused.ends() == 2
    assert "Read-only file system" in refused.text()
    assert "make the results folder writable, or name another by --results" in refused.text()

    subprocess.run(["umount", "-l", str(own_disk)], check=True)
    wait_for(lambda: not site.lab.living(), "the job to have ended")
    runner = site.launch()
    assert runner.ends() == 0, runner.text()
    site.assert_all_done(1)
    assert site.executions()[-1][:2] == (trial, 2)
