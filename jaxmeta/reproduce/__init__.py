"""Published tables with our numbers beside theirs: what `jaxmeta reproduce` runs.

A table is one declarative file with a `TABLE`, see `base`; it is listed here by its import path, so that its name is
known without importing it. No table imports JAX: what needs it stands in functions.
"""

from __future__ import annotations

import importlib
from typing import Any

TABLES = {
    "bandit": "jaxmeta.reproduce.bandit",
    "tabular": "jaxmeta.reproduce.tabular",
    "gridnavi": "jaxmeta.reproduce.gridnavi",
    "varibad-gridnavi": "jaxmeta.reproduce.varibad_gridnavi",
    "pearl-point": "jaxmeta.reproduce.pearl_point",
    "pearl-brax": "jaxmeta.reproduce.pearl_brax",
    "maze": "jaxmeta.reproduce.maze",
    "navigation": "jaxmeta.reproduce.navigation",
    "estimators": "jaxmeta.reproduce.estimators",
    "sinusoid": "jaxmeta.reproduce.sinusoid",
    "glyphs": "jaxmeta.reproduce.glyphs",
    "learned-optimizer": "jaxmeta.reproduce.learned_optimizer",
    "half-cheetah-dir": "jaxmeta.reproduce.half_cheetah_dir",
}


def load(name: str) -> Any:
    """Returns a `base.Table` by its name in `TABLES`."""
    return importlib.import_module(TABLES[name]).TABLE
