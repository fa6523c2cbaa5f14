"""How Sphinx builds the documentation: `sphinx-build -W -b html docs build/docs`."""

from __future__ import annotations

import pathlib
import re
import sys

import jaxmeta

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS))

import algorithm_pages  # noqa: E402
import flag_pages  # noqa: E402

project = "jaxmeta"
author = "the jaxmeta authors"
release = jaxmeta.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
html_theme = "furo"
html_title = "jaxmeta"
smartquotes = False  # they would turn the prime of θ' into a quotation mark
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
exclude_patterns = ["build"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
# fields of different records share names such as `size`
suppress_warnings = ["ref.python"]

# names of `jaxmeta` are imported when they are first used; autodoc reads the module's dict
vars(jaxmeta).update({name: getattr(jaxmeta, name) for name in jaxmeta.__all__})


def mark_examples(app, what, name, obj, options, lines):
    """Makes indented blocks after a blank line literal: they are examples."""
    marked, before = [], ""
    for index, line in enumerate(lines):
        starts = line.startswith("    ") and index and not lines[index - 1].strip()
        if starts and not before.startswith(" ") and not before.rstrip().endswith("::"):
            marked += ["::", ""]
        marked.append(line)
        before = line if line.strip() else before
    lines[:] = marked


def as_restructured_text(app, what, name, obj, options, lines):
    """Turns `code` in docstrings into literals and keeps |x| from being read as a substitution."""

    def literal(found):
        code, following = " ".join(found[1].split()), found[2]
        return f"``{code}``" + (r"\ " if following else "")  # the end of a literal must stand apart: `Ratio`s

    text = re.sub(r"(?<![`:])`([^`]+)`(?!`)(?=(\w?))", literal, "\n".join(lines))
    parts = re.split(r"(``.*?``)", text)
    lines[:] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts).split("\n")


def write_pages(app):
    """Writes the pages of algorithms, task families and commands."""
    algorithm_pages.write(DOCS / "algorithms")
    flag_pages.write(DOCS)


def setup(app):
    """Registers the generated pages, and the conversions of docstrings before and after napoleon's."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", mark_examples, priority=400)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=600)
