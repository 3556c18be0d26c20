"""Kernels of a report end, whatever else ends meanwhile, and a silent one is told in a sentence."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from analysis.executed import execute_all
from analysis.kernels import Kernels


def test_every_kernel_is_ended_although_a_thread_discards_the_first_meanwhile(monkeypatch):
    running, kernels, ended = Kernels(), [object(), object(), object()], []
    running._all = list(kernels)  # pyright: ignore[reportAttributeAccessIssue]

    def end(kernel):
        if kernel not in ended:
            ended.append(kernel)
            running.discard(kernel)

    monkeypatch.setattr(running, "_end", end)
    with running:
        pass
    assert ended == kernels


@pytest.mark.parametrize(
    ("error", "told"), [(TimeoutError(), "TimeoutError"), (RuntimeError("gone\nfor good"), "gone")]
)
def test_a_kernel_that_fails_without_a_word_is_told_by_the_name_of_its_error(tmp_path, monkeypatch, error, told):
    parameters = new_code_cell("word = ''", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[parameters]), tmp_path / "silent.ipynb")

    def fail(self):
        raise error

    monkeypatch.setattr(NotebookClient, "execute", fail)
    monkeypatch.setattr(Kernels, "take", lambda self: object())
    monkeypatch.setattr(Kernels, "discard", lambda self, kernel: None)
    (tmp_path / "out").mkdir()
    found = execute_all(["silent"], {}, tmp_path / "out", source=tmp_path)["silent"]
    assert f"did not answer ({told})" in found.failure
