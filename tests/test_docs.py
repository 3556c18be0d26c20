"""The README is true: each of its commands runs, at a tiny budget."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import SMALL

ROOT = Path(__file__).resolve().parent.parent
SMALL_RUN = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]

# What is added to a README command so that it takes seconds; {results} is a temporary folder.
BUDGET = {
    "python sweeps/run.py tsec_ratio --seeds 3": "--steps 1 --only grpo --seeds 1 --demo --results {results}",
    "python sweeps/run.py collapse": "--dry-run --results {results}",
    "python sweeps/run.py tsec_ratio --seeds 5": "--dry-run --results {results}",
    "python sweeps/run.py components": "--dry-run --results {results}",
    "python -m analysis.card": "--results {results}",
    "python -m analysis.report tsec_ratio": "--results {results}",
    "python -m saei.train --preset saei --steps 150": shlex.join(SMALL_RUN),
    "python -m saei.train --preset saei --data.source local": shlex.join([*SMALL_RUN, "--steps", "1"]),
    "python -m saei.evaluate --model results": "--problems 2 --samples 2",
    "python -m saei.evaluate --model tiny": "--benchmark.limit 1 --benchmark.samples 1",
    "python -m saei.data": "--splits validation",
    "python sweeps/run.py methods": "--dry-run --results {results}",
    "python -m sweeps.match": "--steps 1",
    "python -m saei.probe": "--problems 2 --completions 2 --gradient-problems 0 --out {results}/probe",
    "python -m saei.robustness": "--problems 2 --samples 2 --levels 0 2",
    "python -m benchmarks.step_time": "--steps 1",
}


def readme_commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in dict.fromkeys(lines) if line and not line.startswith("make ")]


def test_the_readme_starts_with_the_two_commands():
    first = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    assert [line.split()[:2] for line in first[1].splitlines()] == [["make", "demo"], ["make", "test"]]


def test_every_budget_belongs_to_a_command():
    for prefix in BUDGET:
        assert any(command.startswith(prefix) for command in readme_commands()), prefix


def test_every_command_of_the_readme_runs(tmp_path):
    data = Path(os.environ.get("SAEI_DATA", ROOT / "../shared/data")).resolve()
    for command in readme_commands():
        if "../shared/data" in command and not data.is_dir():
            print(f"not run, no data at {data}: {command}")
            continue
        extra = next((words for prefix, words in BUDGET.items() if command.startswith(prefix)), "")
        words = shlex.split(f"{command} {extra.format(results=tmp_path / 'results')}")
        words = [
            word.replace("results/manual", str(tmp_path / "manual")).replace("../shared/data", str(data))
            for word in words
        ]
        words[0] = sys.executable
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_files_that_documents_name_exist(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(r"`((?:saei|sweeps|analysis|slurm|tests|docs|benchmarks)/[\w./]+\.(?:py|toml|md))`", text))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
