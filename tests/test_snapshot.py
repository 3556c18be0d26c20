"""Jobs run a copy of the code, made when they are submitted."""

import json
import os
import subprocess
import sys

import pytest

from saei.cli import BadInput
from saei.commit import FACTS, _git, code_facts
from sweeps.slurm.profile import ROOT
from sweeps.slurm.snapshot import snapshot


@pytest.fixture
def tree(tmp_path):
    """A small source tree in git."""
    root = tmp_path / "source"
    for name, text in {"saei/a.py": "A = 1\n", "sweeps/b.py": "", "other/c.py": "", ".gitignore": "*.log\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    return root


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_snapshot_holds_the_packages_with_changed_and_new_files_and_without_ignored_ones(tree, tmp_path):
    (tree / "saei/a.py").write_text("A = 2\n")
    (tree / "saei/new.py").write_text("")
    (tree / "saei/run.log").write_text("")
    (tree / "saei/__pycache__").mkdir()
    (tree / "saei/__pycache__/a.pyc").write_text("")
    made = snapshot(tmp_path / "results", tree)
    assert files(made) == ["SNAPSHOT.json", "saei/a.py", "saei/new.py", "sweeps/b.py"]
    assert (made / "saei/a.py").read_text() == "A = 2\n"
    assert not list(made.parent.glob(".*"))


def test_equal_code_is_copied_once_and_changed_code_beside_it(tree, tmp_path):
    first = snapshot(tmp_path / "results", tree)
    (first / "saei/__pycache__").mkdir()  # as jobs leave it
    (first / "saei/__pycache__/a.pyc").write_text("")
    assert snapshot(tmp_path / "results", tree) == first
    (tree / "sweeps/b.py").write_text("B = 1\n")
    second = snapshot(tmp_path / "results", tree)
    assert second != first and (first / "sweeps/b.py").read_text() == ""


def test_a_snapshot_that_somebody_changed_is_refused(tree, tmp_path):
    made = snapshot(tmp_path / "results", tree)
    (made / "saei/a.py").write_text("A = 3\n")
    with pytest.raises(BadInput, match="was changed after it was copied"):
        snapshot(tmp_path / "results", tree)


def test_without_git_everything_is_copied(tmp_path):
    (tmp_path / "plain/saei").mkdir(parents=True)
    (tmp_path / "plain/sweeps").mkdir()
    (tmp_path / "plain/saei/a.py").write_text("")
    assert files(snapshot(tmp_path / "results", tmp_path / "plain")) == ["SNAPSHOT.json", "saei/a.py"]


def test_a_process_in_the_snapshot_runs_its_code_and_records_the_commit_of_submission(tmp_path):
    made = snapshot(tmp_path / "results", ROOT)
    facts = code_facts()
    assert json.loads((made / "SNAPSHOT.json").read_text()) == facts
    (made / "SNAPSHOT.json").write_text(json.dumps({**facts, "git_sha": "of submission"}))
    code = "import json, saei.commit; print(json.dumps([saei.commit.__file__, saei.commit.code_facts()]))"
    # as in a job: started in the source tree, which would come first
    job = {**os.environ, "PYTHONPATH": str(made), "PYTHONSAFEPATH": "1"}
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=job, capture_output=True, text=True, check=True)
    where, found = json.loads(out.stdout)
    assert where == str(made / "saei" / "commit.py")
    assert found["git_sha"] == "of submission" and found.keys() == set(FACTS)


def test_a_change_that_is_no_utf8_stops_no_run(tree):
    (tree / "saei/a.py").write_bytes(b"# caf\xe9\n")
    assert "+# caf\ufffd" in _git(tree, "diff", "HEAD")
