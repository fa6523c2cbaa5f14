"""How Sphinx builds the documentation: `sphinx-build -W -b html docs build/docs`."""

from __future__ import annotations

import re

import jaxmeta

project = "jaxmeta"
author = "the jaxmeta authors"
release = jaxmeta.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
html_theme = "furo"
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


def as_restructured_text(app, what, name, obj, options, lines):
    """Turns `code` in docstrings into literals and keeps |x| from being read as a substitution."""

    def literal(found):
        code, following = " ".join(found[1].split()), found[2]
        return f"``{code}``" + (r"\ " if following else "")  # the end of a literal must stand apart: `Ratio`s

    text = re.sub(r"(?<![`:])`([^`]+)`(?!`)(?=(\w?))", literal, "\n".join(lines))
    parts = re.split(r"(``.*?``)", text)
    lines[:] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts).split("\n")


def setup(app):
    """Registers the conversion, after napoleon's."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=600)
