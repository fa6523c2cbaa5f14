"""The notebooks run from top to bottom, in a short form."""

from __future__ import annotations

import pathlib

import jupytext
import nbclient
import pytest

from tests.conftest import OLD_JAX_FLAGS

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("JAXMETA_QUICK", "1")
    # of the process that it starts
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    monkeypatch.setenv("XLA_FLAGS", OLD_JAX_FLAGS)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = jupytext.read(path)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert "95 % interval" in notebook.cells[-1].outputs[0]["text"]
