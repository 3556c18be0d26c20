"""The benchmarks of what a sweep costs beside its trials, and the command that runs every benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import all as everything
from benchmarks import report, sampler, status, sweep
from benchmarks.limits import check, run_benchmark
from benchmarks.made_up_sweep import Size
from saei.cli import BadInput

ROOT = Path(__file__).resolve().parent.parent


def run(name, *words):
    command = [sys.executable, "-m", f"benchmarks.{name}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def figures(path, name):
    tree = json.loads(path.read_text())
    assert tree["benchmark"] == name and {"commit", "load_before", "versions", "cpu"} <= tree["machine"].keys()
    return tree["figures"]


def test_the_sweep_benchmark_times_every_phase_at_every_size(tmp_path):
    ended = run("sweep", "--quick", "--workers", "0", "--out", str(tmp_path / "sweep.json"))
    assert ended.returncode == 0, ended.stderr
    seconds = figures(tmp_path / "sweep.json", "sweep")["seconds"]
    assert list(seconds) == ["4", "10"]
    for rows in seconds.values():
        assert list(rows) == list(sweep.PHASES)
        assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows.values())
    assert max(len(line) for line in ended.stdout.splitlines()) <= 120


@pytest.mark.slow
def test_a_trial_without_training_goes_through_a_real_worker():
    assert sweep.worker_seconds(1) > 0


def test_a_sweep_in_which_a_trial_was_not_executed_is_no_measurement(monkeypatch):
    monkeypatch.setattr(sweep, "dry_run", lambda count: 0.0)
    monkeypatch.setattr(sweep, "no_training", lambda config: None)  # leaves no DONE
    with pytest.raises(AssertionError, match="4 executed again"):
        sweep.runner_phases(4)


def test_the_status_benchmark_times_both_forms_beside_bare_python(tmp_path):
    ended = run("status", "--quick", "--out", str(tmp_path / "status.json"))
    assert ended.returncode == 0, ended.stderr
    found = figures(tmp_path / "status.json", "status")
    names = [f"{form}, {count} trials" for count in (5, 20) for form in ("status NAME", "status")]
    assert list(found["seconds"]) == [*names, "Python alone"]


def test_the_report_benchmark_reads_what_it_has_made(tmp_path):
    ended = run("report", "--quick", "--out", str(tmp_path / "report.json"))
    assert ended.returncode == 0, ended.stderr
    assert list(figures(tmp_path / "report.json", "report")["by_runs"]["4"]) == [
        report.LOAD, report.FIRST, report.AGAIN,
    ]  # fmt: skip
    assert "not built: --report-runs is 0" in ended.stdout


def test_a_read_that_loses_a_row_is_no_measurement():
    size = Size(arms=2, seeds=2, steps=3)
    report.check_rows("steps", [4, 12], size)
    with pytest.raises(AssertionError, match="not \\[4, 12\\]"):
        report.check_rows("steps", [4, 11], size)


def test_sizes_that_cannot_be_made_are_refused():
    for refused in (lambda: sweep.Settings(trials=(3,)), lambda: report.Settings(runs=(12,)),
                    lambda: everything.Settings(only=("swep",))):  # fmt: skip
        with pytest.raises(BadInput):
            refused()


def test_all_goes_on_after_a_failure_and_says_so_with_its_exit_code(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(everything, "NAMES", ("no_such_benchmark", "status"))
    assert everything.main(everything.Settings(quick=True, out=str(tmp_path))) == 1
    page = (tmp_path / "table.md").read_text()
    assert "| `no_such_benchmark` | " in page and "failed, exit code 1" in page
    assert "whole |" in page and "- commit: " in page and "status NAME, 20 trials" in page
    assert (tmp_path / "status.json").exists() and "No module named" in capfd.readouterr().out


def test_a_machine_with_other_work_is_warned_about():
    assert everything.busy_warning(0.5) == "" and "0.80" in everything.busy_warning(0.8)


def test_every_benchmark_of_the_list_exists():
    assert not [name for name in everything.NAMES if not (ROOT / "benchmarks" / f"{name}.py").exists()]


def test_a_folder_of_figures_is_never_written_twice_and_a_look_is_named_so(tmp_path):
    first = everything.new_folder(tmp_path, quick=False)
    first.mkdir()
    again = everything.new_folder(tmp_path, quick=False)
    again.mkdir()
    assert again.name == first.name + "-2" and everything.new_folder(tmp_path, quick=False).name == first.name + "-3"
    assert everything.new_folder(tmp_path, quick=True).name == first.name + "-quick"


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (sampler.Settings(rounds=0), "--rounds must be at least 1, got 0"),
        (sampler.Settings(seconds=-3.0), "--seconds must be above 0, got -3"),
        (sampler.Settings(completions=0), "--completions must be at least 1, got 0"),
        (sampler.Settings(points=()), "--points is empty: give at least one"),
        (status.Settings(threads=0), "--threads must be at least 1, got 0"),
        (status.Settings(trials=(5, 0)), "--trials must be at least 1, got 0"),
        (everything.Settings(threads=0), "--threads must be at least 1, got 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused_before_anything_runs(settings, sentence):
    with pytest.raises(BadInput, match=f"^{sentence}"):
        check(settings)
    check(report.Settings(report_runs=0))  # builds no report


def test_an_out_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for settings, is_folder, sentence in (
        (status.Settings(out=str(tmp_path)), False, "is a folder, and the figures need a file"),
        (status.Settings(out=str(file / "below" / "x.json")), False, "file is a file and can hold nothing"),
        (everything.Settings(out=str(file)), True, "is a file, and the figures need a folder"),
    ):
        with pytest.raises(BadInput, match=sentence):
            check(settings, out_is_folder=is_folder)
    check(status.Settings(out=str(tmp_path / "new" / "x.json")))


def test_an_interrupted_benchmark_does_not_promise_to_continue(capsys):
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_benchmark(interrupted) == 130
    assert capsys.readouterr().err == "interrupted; a benchmark that is started again begins anew\n"
