"""What importing and building adapters does: no library before it is needed, no backend, no connection."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from jaxmeta.config import extras
from jaxmeta.experiment import registry

ADAPTERS = {name: entry for name, entry in registry.TASKS.items() if entry.extra}
LIBRARIES = sorted(library for name in ADAPTERS for library in registry.EXTRAS[ADAPTERS[name].extra])

IMPORTS = f"""
import importlib, sys

def refuse(event, arguments):
    if event == "socket.__new__":
        raise RuntimeError("a socket is opened")

sys.addaudithook(refuse)
import jaxmeta
from jaxmeta import devices
from jaxmeta.experiment import registry

loaded = {{name: registry.TASKS[name].load() for name in {sorted(ADAPTERS)}}}
assert not set({LIBRARIES}) & set(sys.modules), "a library is imported"
devices.use_cpu_cores(3)
import jax
assert len(jax.devices()) == 3, "a backend was started"
for name, (factory, config) in loaded.items():
    if registry.is_installed(registry.TASKS[name].extra):
        factory(config())
"""


def test_importing_adapters_imports_no_library_and_starts_no_backend():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_missing_library_is_one_line_with_the_command(name, monkeypatch):
    for library in registry.EXTRAS[ADAPTERS[name].extra]:
        monkeypatch.setitem(sys.modules, library, None)
    module = importlib.import_module(ADAPTERS[name].module)
    factory, config = getattr(module, ADAPTERS[name].factory), getattr(module, ADAPTERS[name].config)()
    with pytest.raises(extras.MissingExtraError) as found:
        factory(config)
    said = str(found.value)
    assert "\n" not in said and extras.command(ADAPTERS[name].extra) in said
