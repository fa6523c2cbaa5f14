"""Imports point one way, and only one folder each knows linen, Brax and Orbax."""

from __future__ import annotations

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "jaxmeta"
ABOVE = ("privacy", "similarity", "algos", "references", "deploy", "experiment", "viz", "reproduce", "zoo", "cli")
FORBIDDEN = {
    "config": ("devices", "core", "inner", "outer", "nets", "rl", "tasks", *ABOVE),
    "devices": ("config", "core", "inner", "outer", "nets", "rl", "tasks", *ABOVE),
    "core": ("inner", "outer", "nets", "rl", *ABOVE),
    "rl": ("core", "inner", "outer", "nets", "tasks", *ABOVE),
    "nets": ("core", "inner", "outer", "rl", "tasks", *ABOVE),
    "tasks": ("core", "inner", "outer", "nets", "rl", *ABOVE),
    "inner": ("outer", "tasks", *ABOVE),
    "outer": ("inner", *ABOVE),
    "privacy": ("devices", "core", "inner", "outer", "nets", "rl", "tasks", *ABOVE[1:]),
    # its kinds read the states of the agents of `inner`, and its embedding is trained by the loop of `outer`
    "similarity": ("privacy", *ABOVE[2:]),
    "algos": ("experiment", "viz", "reproduce", "cli"),
    "deploy": ("privacy", "similarity", "algos", "references", "experiment", "viz", "reproduce", "cli"),
    "references": ("experiment", "viz", "reproduce", "cli"),
    "experiment": ("viz", "reproduce", "zoo", "cli"),
    "zoo": ("viz", "reproduce", "cli"),
    "viz": ("reproduce", "cli"),
}
AT_THE_ROOT = {"__init__.py", "__main__.py", "types.py", "testing.py"}
ONLY_IN = {
    "flax.linen": ("nets",),
    "brax": ("tasks/brax",),
    "orbax": ("core/checkpoint.py",),
    "distrax": ("nets/heads.py",),
}
# what reading a file with any of these can do is whatever the file says
CODE_READERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "imp", "runpy"}


def imports(path):
    """Yields the full names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_point_one_way(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "jaxmeta" and len(parts) > 1:
                assert parts[1] not in FORBIDDEN[room], f"{path} imports {name}"


def test_the_package_root_has_only_the_shared_modules():
    assert {path.name for path in PACKAGE.glob("*.py")} <= AT_THE_ROOT


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_room(library):
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(ONLY_IN[library] or "nowhere"):
            assert not any(name == library or name.startswith(library + ".") for name in imports(path)), place


def test_core_knows_no_concrete_task():
    for path in (PACKAGE / "core").rglob("*.py"):
        tasks = [name for name in imports(path) if name.startswith("jaxmeta.tasks")]
        assert all(name.startswith("jaxmeta.tasks.base") for name in tasks), path


def runs_code(tree):
    """Yields what in a file could run what another file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("eval", "exec", "compile", "__import__") or name.endswith((".load_pickle", "np.load")):
                yield name
            yield from (f"{name}({word.arg}=)" for word in node.keywords if word.arg == "allow_pickle")


def test_modules_that_read_files_use_no_code_execution():
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imports(path)} & CODE_READERS, path
        assert not list(runs_code(ast.parse(path.read_text()))), path


def test_the_check_for_code_can_fail():
    assert list(runs_code(ast.parse("numpy.load(file, allow_pickle=True); eval(text)"))) == [
        "numpy.load(allow_pickle=)",
        "eval",
    ]
