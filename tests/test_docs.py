"""Every public module has a place in the reference; .ci/run builds it, with warnings as errors."""

from __future__ import annotations

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
WITHOUT_REFERENCE = {"jaxmeta", "jaxmeta.__main__"}


def modules():
    """Names of the modules that users import; the command line and reproductions are documented by their help."""
    for path in (ROOT / "jaxmeta").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[1] not in ("cli", "reproduce") and name not in WITHOUT_REFERENCE:
            yield name


def test_the_reference_has_every_public_module_once():
    found = [name for page in REFERENCE.glob("*.md") for name in re.findall(r"automodule:: (\S+)", page.read_text())]
    assert sorted(found) == sorted(modules())


def test_the_index_has_every_page():
    index = (ROOT / "docs" / "index.md").read_text()
    assert sorted(re.findall(r"^reference/(\w+)$", index, re.MULTILINE)) == sorted(
        p.stem for p in REFERENCE.glob("*.md")
    )
