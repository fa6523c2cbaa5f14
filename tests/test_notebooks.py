"""The notebooks run from top to bottom in a short form; the documentation shows them as they are, executed in full."""

from __future__ import annotations

import pathlib
import re
import sys

import jupytext
import pytest

from tests import tiny
from tests.conftest import OLD_JAX_FLAGS

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
DRAWS = r"plt\.(figure|subplots)\("
"""Code that draws."""
LOCAL = r"(?<![\w.:/])/(home|root|tmp|usr|opt|var|mnt|work|Users)/|\b0x[0-9a-f]{6,}"
"""Absolute paths and addresses of objects."""
sys.path.insert(0, str(ROOT / "docs"))

import notebook_pages  # noqa: E402

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def written(cell):
    """What a code cell printed, displayed as text, and warned of."""
    return "".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs)


def sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def has_picture(cell):
    return any("image/png" in one.get("data", {}) for one in cell.outputs)


def check_outputs(notebook):
    """Cells that draw show a picture, and the last cell prints a result."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(map(has_picture, code))
    assert not [cell.source for cell in code if re.search(DRAWS, cell.source) and not has_picture(cell)]
    assert any(one.output_type == "stream" and one.text.strip() for one in code[-1].outputs)


@pytest.mark.parametrize(
    "path", [path if path.stem == "quickstart" else tiny.slow(path) for path in NOTEBOOKS], ids=lambda path: path.stem
)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("JAXMETA_QUICK", "1")
    # of the process that it starts
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    monkeypatch.setenv("XLA_FLAGS", OLD_JAX_FLAGS)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    check_outputs(notebook_pages.execute(path, timeout=300))


@each
def test_the_documentation_shows_the_notebook_as_it_is(path):
    page = ROOT / "docs" / "notebooks" / f"{path.stem}.ipynb"
    remedy = f"run `python docs/notebook_pages.py {path.stem}`"
    assert page.exists(), remedy
    shown = jupytext.read(page)
    assert sources(shown) == sources(jupytext.read(path)), remedy
    check_outputs(shown)
    code = [cell for cell in shown.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), remedy
    # no errors, and neither warnings nor anything else that names the machine it ran on
    assert not [
        one for cell in code for one in cell.outputs if one.output_type == "error" or one.get("name") == "stderr"
    ]
    assert not [cell.source for cell in code if re.search(LOCAL, written(cell))]


def test_no_page_is_left_of_a_notebook_that_is_gone():
    pages = {page.stem for page in (ROOT / "docs" / "notebooks").glob("*.ipynb")}
    assert pages <= {path.stem for path in NOTEBOOKS}
