"""What is loaded at the start of a process, and how: every trial is a process of its own."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from saei.loading import leave_quietly, loaded, uncollected

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def thawed():
    yield
    gc.unfreeze()
    assert gc.isenabled()


def test_garbage_is_not_searched_for_while_packages_load_and_is_afterwards(thawed):
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 0
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()


def test_a_command_line_searches_again_once_it_is_loaded(thawed):
    leave_quietly()
    assert not gc.isenabled()
    loaded()
    assert gc.isenabled()


def left_out(code, *packages):
    """Does a new process that ran `code` have none of these packages?"""
    wanted = f"import sys\n{code}\nsys.exit(any(name in sys.modules for name in {packages!r}))"
    return subprocess.run([sys.executable, "-c", wanted], cwd=ROOT, check=False).returncode == 0


def test_a_trial_without_an_adapter_loads_no_peft():
    assert left_out("import saei.train; from saei.config import Config; from saei.policy import load_policy; "
                    "load_policy(Config().model, Config().data).save", "peft", "optuna", "pandas")  # fmt: skip


def test_a_report_does_not_parse_the_grammar_of_addresses():
    assert left_out("import analysis.report", "rfc3987_syntax", "torch")
    assert left_out("import analysis.executed", "rfc3987_syntax")
